package upstream

import (
	"errors"
	"net"
	"testing"
	"time"

	"github.com/miekg/dns"

	"penstock/dnsproxy/dnstest"
)

// TestOddResolvers: resolvers as people have them.
func TestOddResolvers(t *testing.T) {
	overUDP := func(w dns.ResponseWriter) bool { _, udp := w.RemoteAddr().(*net.UDPAddr); return udp }
	code := func(rcode int) func(dns.ResponseWriter, *dns.Msg) bool {
		return func(w dns.ResponseWriter, q *dns.Msg) bool {
			if q.IsEdns0() == nil {
				return false
			}
			a := new(dns.Msg).SetRcode(q, rcode)
			w.WriteMsg(a)
			return true
		}
	}
	bare := func(rcode int) func(dns.ResponseWriter, *dns.Msg) bool {
		return func(w dns.ResponseWriter, q *dns.Msg) bool {
			if q.IsEdns0() == nil {
				return false
			}
			w.WriteMsg(&dns.Msg{MsgHdr: dns.MsgHdr{Id: q.Id, Response: true, Rcode: rcode}})
			return true
		}
	}
	const good = "NOERROR 203.0.113.1 from main"
	for _, row := range []struct {
		says    string
		answers func(dns.ResponseWriter, *dns.Msg) bool
		want    string
		queries int // for two questions; 0: any
	}{
		{"FORMERR to EDNS", code(dns.RcodeFormatError), good, 3}, // the second question is asked without EDNS at once
		{"NOTIMP to EDNS", code(dns.RcodeNotImplemented), good, 3},
		{"FORMERR to EDNS, the header alone", bare(dns.RcodeFormatError), good, 3},
		{"NOTIMP to EDNS, the header alone", bare(dns.RcodeNotImplemented), good, 3},
		{"BADVERS", func(w dns.ResponseWriter, q *dns.Msg) bool {
			if q.IsEdns0() == nil {
				return false
			}
			a := new(dns.Msg).SetReply(q)
			a.SetEdns0(1232, false)
			a.Rcode = dns.RcodeBadVers
			w.WriteMsg(a)
			return true
		}, good, 3},
		{"FORMERR to everything", func(w dns.ResponseWriter, q *dns.Msg) bool {
			w.WriteMsg(new(dns.Msg).SetRcode(q, dns.RcodeFormatError))
			return true
		}, "error: upstream main: answered FORMERR", 4},
		{"an answer of another id, the header alone, is not for us", func(w dns.ResponseWriter, q *dns.Msg) bool {
			w.WriteMsg(&dns.Msg{MsgHdr: dns.MsgHdr{Id: q.Id + 1, Response: true, Rcode: dns.RcodeServerFailure}})
			return false
		}, good, 2},
		{"a good answer without the question is none", func(w dns.ResponseWriter, q *dns.Msg) bool {
			w.WriteMsg(&dns.Msg{MsgHdr: dns.MsgHdr{Id: q.Id, Response: true}})
			return false
		}, good, 2},
		{"REFUSED, the header alone", func(w dns.ResponseWriter, q *dns.Msg) bool {
			w.WriteMsg(&dns.Msg{MsgHdr: dns.MsgHdr{Id: q.Id, Response: true, Rcode: dns.RcodeRefused}})
			return true
		}, "error: upstream main: answered REFUSED", 2},
		{"BADCOOKIE over UDP", func(w dns.ResponseWriter, q *dns.Msg) bool {
			if !overUDP(w) {
				return false
			}
			a := new(dns.Msg).SetReply(q)
			a.SetEdns0(1232, false)
			a.Rcode = dns.RcodeBadCookie
			w.WriteMsg(a)
			return true
		}, good, 4},
		{"the question in capitals", func(w dns.ResponseWriter, q *dns.Msg) bool {
			a := new(dns.Msg).SetReply(q)
			a.Question[0].Name = "WWW.Example."
			a.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: "wWw.eXample.", Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 9}, A: net.IPv4(203, 0, 113, 1)}}
			w.WriteMsg(a)
			return true
		}, good, 2},
	} {
		t.Run(row.says, func(t *testing.T) {
			up := dnstest.New(t, "www.example. 300 IN A 203.0.113.1")
			up.AnswerWith(row.answers)
			g := group(t, Config{}, Ordered, spec("main", up))
			for range 2 {
				if got := ask(t, g, "www.example", "A"); got != row.want {
					t.Errorf("got %s, want %s", got, row.want)
				}
			}
			if got := len(up.Queries()); got != row.queries {
				t.Errorf("%d queries for two questions, want %d", got, row.queries)
			}
		})
	}
}

// TestALateAnswerMeetsAnOpenSocket: a kernel answers "port unreachable" to an answer that comes to a closed socket, and quotes it.
func TestALateAnswerMeetsAnOpenSocket(t *testing.T) {
	silent, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	up := dnstest.New(t, "www.example. 300 IN A 203.0.113.1")
	// The other answers once this one was asked: the query might be given up before it is sent.
	var n int
	var from *net.UDPAddr
	var failed error
	buf, asked := make([]byte, 512), make(chan struct{})
	silent.SetDeadline(time.Now().Add(5 * time.Second))
	go func() {
		defer close(asked)
		n, from, failed = silent.ReadFromUDP(buf)
	}()
	up.AnswerWith(func(dns.ResponseWriter, *dns.Msg) bool { <-asked; return false })
	g := group(t, Config{}, Parallel, Spec{Name: "late", Address: silent.LocalAddr().String()}, spec("main", up))
	if got, want := ask(t, g, "www.example", "A"), "NOERROR 203.0.113.1 from main"; got != want {
		t.Fatalf("got %s, want %s", got, want)
	}
	if <-asked; failed != nil {
		t.Fatal(failed)
	}
	u := g.upstreams[0].protocol.(*udpProtocol)
	for end := time.Now().Add(5 * time.Second); u.late.held() == 0; {
		if time.Now().After(end) {
			t.Fatal("the socket of the query that was given up is closed")
		}
		time.Sleep(time.Millisecond)
	}
	silent.Close()
	late, err := net.DialUDP("udp4", silent.LocalAddr().(*net.UDPAddr), from) // a connected socket is told of ICMP errors
	if err != nil {
		t.Fatal(err)
	}
	defer late.Close()
	late.Write(buf[:n])
	late.SetDeadline(time.Now().Add(200 * time.Millisecond))
	var timeout net.Error
	if _, err := late.Read(buf); !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Errorf("the late answer got %v back, want silence", err)
	}
	for range 2 * maxLinger {
		conn, err := net.Dial("udp4", from.String())
		if err != nil {
			t.Fatal(err)
		}
		u.late.keep(conn)
	}
	if got := u.late.held(); got != maxLinger {
		t.Errorf("%d sockets linger, want %d at most", got, maxLinger)
	}
	u.reset()
	if got := u.late.held(); got != 0 {
		t.Errorf("%d sockets linger on another network, want none", got)
	}
}

func (l *lingering) held() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.conns)
}
