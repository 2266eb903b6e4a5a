package dnsproxy

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/miekg/dns"
)

// FuzzServePacket: whatever is asked, there is no panic, and an answer parses and keeps id and question.
func FuzzServePacket(f *testing.F) {
	for _, name := range []string{"casino.example", "localhost", "www.example", "1.0.0.10.in-addr.arpa", "use-application-dns.net", "."} {
		for _, qtype := range []string{"A", "HTTPS", "ANY"} {
			wire, err := query(name, qtype).Pack()
			if err != nil {
				f.Fatal(err)
			}
			f.Add(wire)
			f.Add(wire[:len(wire)-11])
			f.Add(wire[:len(wire)-5])
		}
	}
	s := newServer(f, Settings{
		Upstreams: []Upstream{{Address: "10.0.0.53", Via: "way"}},
	}, through(downDialer{}), judged(blocks(map[string]string{"casino.example": "gambling"})))
	f.Fuzz(func(t *testing.T, wire []byte) {
		answers := make(chan []byte, 1)
		s.ServePacket(t.Context(), ana, wire, func(msg []byte) error {
			answers <- bytes.Clone(msg)
			return nil
		})
		if len(wire) < headerLen || wire[2]&0x80 != 0 {
			if len(answers) > 0 {
				t.Fatal("answered what is no query")
			}
			return
		}
		checkAnswer(t, wire, <-answers)
	})
}

func checkAnswer(t *testing.T, wire, answer []byte) {
	t.Helper()
	a := new(dns.Msg)
	if err := a.Unpack(answer); err != nil {
		t.Fatalf("answer does not parse: %v\n%x", err, answer)
	}
	if !bytes.Equal(answer[:2], wire[:2]) || !a.Response {
		t.Fatalf("answer to another query: %s", a)
	}
	if len(answer) > maxUDP {
		t.Fatalf("answer of %d octets", len(answer))
	}
	if len(a.Question) == 0 {
		if a.Rcode != dns.RcodeFormatError && a.Rcode != dns.RcodeNotImplemented {
			t.Fatalf("no question in the answer: %s", a)
		}
		return
	}
	end := skipName(wire, headerLen) + 4
	if len(answer) < end || !bytes.Equal(answer[headerLen:end], wire[headerLen:end]) {
		t.Fatalf("question changed:\n%x\n%x", wire, answer)
	}
}

// FuzzClean: whatever an upstream says, what is kept of it parses, keeps the question, and can be cut to any size.
func FuzzClean(f *testing.F) {
	for _, records := range [][]string{
		{"www.example. 300 IN A 203.0.113.1"},
		{"www.example. 300 IN CNAME b.example.", "b.example. 300 IN AAAA 2001:db8::1"},
		{"www.example. 300 IN HTTPS 1 . alpn=h2 ipv4hint=10.0.0.1,203.0.113.1 ech=AEX+DQBB mandatory=ipv4hint"},
		{"www.example. 300 IN TXT hello"},
	} {
		msg := new(dns.Msg).SetQuestion("www.example.", dns.TypeHTTPS)
		for _, s := range records {
			rr, err := dns.NewRR(s)
			if err != nil {
				f.Fatal(err)
			}
			msg.Answer = append(msg.Answer, rr)
		}
		wire, err := msg.Pack()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(wire, uint16(100))
	}
	q := new(question)
	wire, err := query("www.example", "HTTPS").Pack()
	if err != nil {
		f.Fatal(err)
	}
	q.read(wire)
	f.Fuzz(func(t *testing.T, wire []byte, size uint16) {
		msg := new(dns.Msg)
		if !matches(upstreamQuery(q), append([]byte{0, 0}, wire[min(2, len(wire)):]...)) || msg.Unpack(wire) != nil {
			return
		}
		now := newClock().now()
		e, err := clean(msg, "www.example", cleaning{noECH: true}, now)
		if err != nil {
			return
		}
		keep := func(addr netip.Addr) bool { return addr.Is4() }
		for _, e := range []*entry{e, must(t, e, keep)} {
			limit := max(int(size), 512)
			out := e.append(nil, q, now, limit, noEDE)
			a := new(dns.Msg)
			if err := a.Unpack(out); err != nil {
				t.Fatalf("answer does not parse: %v\n%x\n%x", err, wire, out)
			}
			if len(out) > limit || a.Id != q.id || len(a.Question) != 1 || int(binary.BigEndian.Uint16(out[6:])) != len(a.Answer) {
				t.Fatalf("got %d octets for %d: %s", len(out), limit, a)
			}
			for _, rr := range a.Answer {
				if !(cleaning{}).allows(rr) {
					t.Fatalf("private address: %s", rr)
				}
				if svcb := service(rr); svcb != nil {
					for _, kv := range svcb.Value {
						if kv.Key() == dns.SVCB_ECHCONFIG {
							t.Fatalf("ech: %s", rr)
						}
					}
				}
			}
		}
	})
}

func must(t *testing.T, e *entry, keep func(netip.Addr) bool) *entry {
	t.Helper()
	f, err := e.withoutHints(keep)
	if err != nil {
		t.Fatal(err)
	}
	return f
}
