package dnsproxy

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// TestProtocols asks the same resolver in every way that Upstream.Address has.
func TestProtocols(t *testing.T) {
	up := newResolver(t, "www.example. 300 IN A 203.0.113.1", "mail.example. 300 IN A 203.0.113.2")
	secure := newSecure(t, up)
	tests := []struct {
		says     string
		upstream Upstream
	}{
		{"bare address", Upstream{Address: up.addr.String()}},
		{"udp", Upstream{Address: "udp://" + up.addr.String()}},
		{"tcp", Upstream{Address: "tcp://" + up.addr.String()}},
		{"tls by name", Upstream{Address: "tls://dns.example:" + secure.dot, Bootstrap: loopback}},
		{"https by name, over HTTP/2", Upstream{Address: "https://dns.example:" + secure.doh + "/dns-query", Bootstrap: loopback}},
		{"https with the usual path", Upstream{Address: "https://dns.example:" + secure.doh, Bootstrap: loopback}},
		{"quic by name", Upstream{Address: "quic://dns.example:" + secure.doq, Bootstrap: loopback}},
		{"HTTP/3 by name", Upstream{Address: "h3://dns.example:" + secure.h3 + "/dns-query", Bootstrap: loopback}},
	}
	for _, tt := range tests {
		t.Run(tt.says, func(t *testing.T) {
			s := newServer(t, Settings{Upstreams: []Upstream{tt.upstream}}, trusting(secure.client))
			for name, want := range map[string]string{"www.example": "NOERROR 203.0.113.1", "mail.example": "NOERROR 203.0.113.2"} {
				if got := brief(ask(t, s, name, "A")); got != want {
					t.Errorf("%s: got %s, want %s", name, got, want)
				}
			}
		})
	}
	if got := secure.proto.Load(); got != "HTTP/2.0" {
		t.Errorf("DoH went over %v, want HTTP/2.0", got)
	}
	if got := secure.proto3.Load(); got != "HTTP/3.0" {
		t.Errorf("DoH over h3 went over %v, want HTTP/3.0", got)
	}
	if got := secure.conns.Load(); got != 5 {
		t.Errorf("TLS connections: got %d, want 5, one for each upstream", got)
	}
}

// TestResolvedUpstream: an upstream named by host without addresses is found through Config.Resolve.
func TestResolvedUpstream(t *testing.T) {
	up := newResolver(t, "www.example. 300 IN A 203.0.113.1")
	secure := newSecure(t, up)
	var asked []string
	s := newServer(t, Settings{
		Upstreams: []Upstream{{Address: "tls://dns.example:" + secure.dot}},
	}, trusting(secure.client), func(s *setup) {
		s.Resolve = func(_ context.Context, host string) ([]netip.Addr, error) {
			asked = append(asked, host)
			return loopback, nil
		}
	})
	if got, want := brief(ask(t, s, "www.example", "A")), "NOERROR 203.0.113.1"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if len(asked) != 1 || asked[0] != "dns.example" {
		t.Errorf("resolved %v, want dns.example", asked)
	}
}

// TestCertificate: an upstream that cannot prove its name is not asked.
func TestCertificate(t *testing.T) {
	up := newResolver(t, "www.example. 300 IN A 203.0.113.1")
	secure := newSecure(t, up)
	for _, address := range []string{
		"tls://other.example:" + secure.dot, "https://other.example:" + secure.doh,
		"quic://other.example:" + secure.doq, "h3://other.example:" + secure.h3,
	} {
		s := newServer(t, Settings{Upstreams: []Upstream{{Address: address, Bootstrap: loopback}}}, trusting(secure.client))
		if got, want := brief(ask(t, s, "www.example", "A")), "SERVFAIL edeNetwork Error"; got != want {
			t.Errorf("%s: got %s, want %s", address, got, want)
		}
	}
	if got := len(up.queries()); got != 0 {
		t.Errorf("the upstream got %d queries, want 0", got)
	}
}

// TestClosedConnection: a connection that the upstream has closed is replaced without a failure.
func TestClosedConnection(t *testing.T) {
	up := newResolver(t, "www.example. 300 IN A 203.0.113.1")
	up.answerWith(func(w dns.ResponseWriter, q *dns.Msg) bool {
		w.WriteMsg(up.reply(q))
		w.Close()
		return true
	})
	s := newServer(t, Settings{Upstreams: []Upstream{{Address: "tcp://" + up.addr.String()}}}, func(s *setup) { s.CacheEntries = -1 })
	for i := range 5 {
		if got, want := brief(ask(t, s, "www.example", "A")), "NOERROR 203.0.113.1"; got != want {
			t.Fatalf("query %d: got %s, want %s", i, got, want)
		}
	}
}

// TestDeadConnection: a connection on which the upstream has gone silent is given up after a second, within the same query.
func TestDeadConnection(t *testing.T) {
	up := newResolver(t, "www.example. 300 IN A 203.0.113.1", "mail.example. 300 IN A 203.0.113.2")
	var dead sync.Map // connections that answer no more
	up.answerWith(func(w dns.ResponseWriter, q *dns.Msg) bool {
		_, is := dead.LoadOrStore(w.RemoteAddr().String(), true)
		return is
	})
	s := newServer(t, Settings{Upstreams: []Upstream{{Address: "tcp://" + up.addr.String()}}})
	for name, want := range map[string]string{"www.example": "NOERROR 203.0.113.1", "mail.example": "NOERROR 203.0.113.2"} {
		if got := brief(ask(t, s, name, "A")); got != want {
			t.Errorf("%s: got %s, want %s", name, got, want)
		}
	}
}

// TestTruncatedUpstream: an answer that does not fit UDP is fetched over TCP, and only that one is used.
func TestTruncatedUpstream(t *testing.T) {
	up := newResolver(t, "www.example. 300 IN A 203.0.113.1")
	up.answerWith(func(w dns.ResponseWriter, q *dns.Msg) bool {
		if _, udp := w.RemoteAddr().(*net.UDPAddr); udp {
			a := new(dns.Msg).SetReply(q)
			a.Truncated = true
			w.WriteMsg(a)
			return true
		}
		return false
	})
	s := newServer(t, Settings{Upstreams: []Upstream{up.upstream("main")}})
	for range 2 {
		if got, want := brief(ask(t, s, "www.example", "A")), "NOERROR 203.0.113.1"; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	if got := len(up.queries()); got != 2 {
		t.Errorf("upstream queries: got %d, want 2: one over UDP, one over TCP", got)
	}
}

// TestForgedAnswers: datagrams with the wrong id or question are passed over; a flood of them turns the query to TCP.
func TestForgedAnswers(t *testing.T) {
	for _, tt := range []struct {
		says    string
		forged  int
		overTCP bool
	}{{"some", 3, false}, {"a flood", 20, true}} {
		t.Run(tt.says, func(t *testing.T) {
			up := newResolver(t, "www.example. 300 IN A 203.0.113.1")
			var tcp atomic.Bool
			up.answerWith(func(w dns.ResponseWriter, q *dns.Msg) bool {
				if _, udp := w.RemoteAddr().(*net.UDPAddr); !udp {
					tcp.Store(true)
					return false
				}
				evil, _ := dns.NewRR(q.Question[0].Name + " 300 IN A 198.51.100.66")
				for i := range tt.forged {
					a := new(dns.Msg).SetReply(q)
					a.Answer = []dns.RR{evil}
					if i%2 == 0 {
						a.Id += uint16(i + 1)
					} else {
						a.Question = []dns.Question{{Name: "evil.example.", Qtype: dns.TypeA, Qclass: dns.ClassINET}}
					}
					w.WriteMsg(a)
				}
				return false
			})
			s := newServer(t, Settings{Upstreams: []Upstream{up.upstream("main")}})
			if got, want := brief(ask(t, s, "www.example", "A")), "NOERROR 203.0.113.1"; got != want {
				t.Errorf("got %s, want %s", got, want)
			}
			if tcp.Load() != tt.overTCP {
				t.Errorf("asked over TCP: got %t, want %t", tcp.Load(), tt.overTCP)
			}
		})
	}
}

// TestUnrelatedRecords: what an upstream adds to its answer without being asked is not given on and not remembered.
func TestUnrelatedRecords(t *testing.T) {
	up := newResolver(t)
	up.answerWith(func(w dns.ResponseWriter, q *dns.Msg) bool {
		a := new(dns.Msg).SetReply(q)
		for _, s := range []string{"www.example. 300 IN A 203.0.113.1", "bank.example. 300 IN A 198.51.100.66"} {
			rr, _ := dns.NewRR(s)
			a.Answer = append(a.Answer, rr)
		}
		extra, _ := dns.NewRR("shop.example. 300 IN A 198.51.100.66")
		a.Extra = []dns.RR{extra}
		w.WriteMsg(a)
		return true
	})
	s := newServer(t, Settings{Upstreams: []Upstream{up.upstream("main")}})
	if got, want := brief(ask(t, s, "www.example", "A")), "NOERROR 203.0.113.1"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if got := s.Names().Lookup(AddressKey(ana.Addr()), netip.MustParseAddr("198.51.100.66")); got != nil {
		t.Errorf("names of the smuggled address: got %v", got)
	}
}

// TestPortsAndIDs: who guesses an answer must guess port and id of each query.
func TestPortsAndIDs(t *testing.T) {
	const n = 2000
	up := newResolver(t)
	s := newServer(t, Settings{Upstreams: []Upstream{up.upstream("main")}, ClientRate: -1})
	var wg sync.WaitGroup
	names := make(chan string)
	for range 8 {
		wg.Go(func() {
			for name := range names {
				ask(t, s, name, "A")
			}
		})
	}
	for i := range n {
		names <- strings.Repeat("a", 1+i%50) + strings.Repeat(".b", i/50) + ".example"
	}
	close(names)
	wg.Wait()
	ids, ports := map[uint16]bool{}, map[uint16]bool{}
	for _, q := range up.queries() {
		ids[q.Id] = true
	}
	for _, port := range up.ports {
		ports[port] = true
	}
	if len(ports) < n*90/100 || len(ids) < n*95/100 {
		t.Errorf("%d distinct ports and %d distinct ids, want at least 90%% and 95%% of %d", len(ports), len(ids), n)
	}
}

// TestCoalescing: fifty identical queries at once are one query upstream, and all are answered.
func TestCoalescing(t *testing.T) {
	up := newResolver(t, "www.example. 300 IN A 203.0.113.1")
	release := make(chan struct{})
	up.answerWith(func(dns.ResponseWriter, *dns.Msg) bool { <-release; return false })
	s := newServer(t, Settings{Upstreams: []Upstream{up.upstream("main")}})
	answers := make(chan string, 50)
	wire, _ := query("www.example", "A").Pack()
	for range 50 {
		s.ServePacket(t.Context(), ana, wire, func(msg []byte) error {
			a := new(dns.Msg)
			a.Unpack(msg)
			answers <- brief(a)
			return nil
		})
	}
	close(release)
	for range 50 {
		if got, want := <-answers, "NOERROR 203.0.113.1"; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	if got := len(up.queries()); got > 3 {
		t.Errorf("upstream queries: got %d, want at most 3", got)
	}
}

// TestFailover: whatever is wrong with the first upstream, the second one answers.
func TestFailover(t *testing.T) {
	good := newResolver(t, "www.example. 300 IN A 203.0.113.1")
	bad := func(f func(w dns.ResponseWriter, q *dns.Msg)) Upstream {
		up := newResolver(t)
		up.answerWith(func(w dns.ResponseWriter, q *dns.Msg) bool { f(w, q); return true })
		return up.upstream("bad")
	}
	tests := []struct {
		says  string
		first Upstream
	}{
		{"down", Upstream{Address: "10.0.0.53", Via: "way"}},
		{"refused", Upstream{Address: closedPort(t)}},
		{"silent", bad(func(dns.ResponseWriter, *dns.Msg) {})},
		{"failing", bad(func(w dns.ResponseWriter, q *dns.Msg) { w.WriteMsg(new(dns.Msg).SetRcode(q, dns.RcodeServerFailure)) })},
		{"refusing", bad(func(w dns.ResponseWriter, q *dns.Msg) { w.WriteMsg(new(dns.Msg).SetRcode(q, dns.RcodeRefused)) })},
		{"lame", bad(func(w dns.ResponseWriter, q *dns.Msg) {
			a := new(dns.Msg).SetReply(q)
			ns, _ := dns.NewRR("example. 300 IN NS ns.example.")
			a.Ns = []dns.RR{ns}
			w.WriteMsg(a)
		})},
		{"garbage", bad(func(w dns.ResponseWriter, q *dns.Msg) {
			wire, _ := new(dns.Msg).SetReply(q).Pack()
			wire[7] = 9 // nine answers that are not there
			w.Write(wire)
		})},
	}
	for _, tt := range tests {
		t.Run(tt.says, func(t *testing.T) {
			for _, selection := range []Selection{Ordered, Fastest, Parallel} {
				s := newServer(t, Settings{Upstreams: []Upstream{tt.first, good.upstream("good")}, Select: selection}, through(downDialer{}))
				a, err := s.Query(t.Context(), anaFlow(), "www.example", "A")
				if err != nil || a.Rcode != "NOERROR" || a.Upstream != "good" {
					t.Errorf("selection %d: got %+v, %v, want NOERROR from good", selection, a, err)
				}
			}
		})
	}
}

// TestDownUpstream: an upstream that keeps failing goes last until its back-off is over, then one query tries it.
func TestDownUpstream(t *testing.T) {
	a, b := &upstream{name: "a", log: discard}, &upstream{name: "b", log: discard}
	g := &group{upstreams: []*upstream{a, b}}
	first := func(after time.Duration) string { return g.order(time.Now().Add(after))[0].name }
	for i := range downAfter {
		if got := first(0); got != "a" {
			t.Fatalf("after %d failures: got %s first, want a", i, got)
		}
		a.failed()
	}
	if got := first(0); got != "b" {
		t.Errorf("down: got %s first, want b", got)
	}
	if got := first(maxBackoff); got != "a" {
		t.Errorf("after the back-off: got %s first, want a", got)
	}
	if got := first(maxBackoff); got != "b" {
		t.Errorf("while one query tries it: got %s first, want b", got)
	}
	a.succeeded(time.Millisecond)
	if got := first(0); got != "a" {
		t.Errorf("up again: got %s first, want a", got)
	}
	g.selection = Fastest
	a.succeeded(time.Second)
	b.succeeded(time.Millisecond)
	if got := first(0); got != "b" {
		t.Errorf("fastest: got %s first, want b", got)
	}
}

// TestSilentUpstream: a client has its answer in bounded time, and the failure is remembered.
func TestSilentUpstream(t *testing.T) {
	up := newResolver(t)
	up.answerWith(func(dns.ResponseWriter, *dns.Msg) bool { return true })
	s := newServer(t, Settings{Upstreams: []Upstream{up.upstream("main")}, Timeout: 200 * time.Millisecond})
	for range 2 {
		if got, want := brief(ask(t, s, "www.example", "A")), "SERVFAIL edeNetwork Error"; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	if got := len(up.queries()); got != 1 {
		t.Errorf("upstream queries: got %d, want 1", got)
	}
}

// TestLoop: an upstream that leads back here is an error when it can be seen, and a SERVFAIL when it shows.
func TestLoop(t *testing.T) {
	own := netip.MustParseAddrPort("127.0.0.1:53")
	_, err := Compile(Settings{Upstreams: []Upstream{{Address: "127.0.0.1"}}, Self: []netip.AddrPort{own}})
	if !errors.Is(err, errLoop) {
		t.Errorf("own address as upstream: got %v", err)
	}
	_, err = Compile(Settings{Upstreams: []Upstream{{Address: "127.0.0.1:5353"}}, Self: []netip.AddrPort{netip.AddrPortFrom(own.Addr(), 0)}})
	if !errors.Is(err, errLoop) {
		t.Errorf("own address with any port as upstream: got %v", err)
	}

	var server atomic.Pointer[Server]
	back := func(id func(uint16) uint16) *resolver {
		up := newResolver(t)
		up.answerWith(func(w dns.ResponseWriter, q *dns.Msg) bool {
			again := q.Copy()
			again.Id = id(q.Id)
			wire, _ := again.Pack()
			server.Load().ServePacket(context.Background(), ana, wire, func(msg []byte) error {
				msg[0], msg[1] = byte(q.Id>>8), byte(q.Id)
				_, err := w.Write(msg)
				return err
			})
			return true
		})
		return up
	}
	for says, id := range map[string]func(uint16) uint16{
		"with the id it was given, as a router does":     func(id uint16) uint16 { return id },
		"with an id of its own, as a stub resolver does": func(id uint16) uint16 { return id + 1 },
	} {
		up := back(id)
		s := newServer(t, Settings{Upstreams: []Upstream{up.upstream("loop")}, Timeout: 500 * time.Millisecond})
		server.Store(s)
		if got := ask(t, s, "www.example", "A").Rcode; got != dns.RcodeServerFailure {
			t.Errorf("%s: got %s, want SERVFAIL", says, dns.RcodeToString[got])
		}
		if got := len(up.queries()); got > 3 {
			t.Errorf("%s: %d queries went round, want at most 3", says, got)
		}
	}
}

// TestBadConfig: each mistake is one sentence.
func TestBadConfig(t *testing.T) {
	up := []Upstream{{Address: "10.0.0.53"}}
	tests := []struct {
		says     string
		settings Settings
		want     string
	}{
		{"a scheme that is none", Settings{Upstreams: []Upstream{{Address: "ftp://10.0.0.53"}}}, `dnsproxy: upstream address "ftp://10.0.0.53": scheme must be udp, tcp, tls, https, quic or h3`},
		{"a port that is none", Settings{Upstreams: []Upstream{{Address: "10.0.0.53:70000"}}}, `dnsproxy: upstream address "10.0.0.53:70000": port must be 1 to 65535`},
		{"a path where none belongs", Settings{Upstreams: []Upstream{{Address: "tls://10.0.0.53/dns-query"}}}, `dnsproxy: upstream address "tls://10.0.0.53/dns-query": only https and h3 have a path`},
		{"a zone without upstream", Settings{Zones: []Zone{{Domains: []string{"a.example"}}}}, `dnsproxy: zone ["a.example"] has no upstream: name the resolver for it`},
		{"a zone that is none", Settings{Zones: []Zone{{Domains: []string{"a..example"}, Upstreams: up}}}, `dnsproxy: domain "a..example" is not a domain name: write one such as corp.example or *.corp.example`},
		{"a domain in two zones", Settings{Zones: []Zone{{Domains: []string{"a.example"}, Upstreams: up}, {Domains: []string{"b.example", "*.A.example."}, Upstreams: up}}},
			`dnsproxy: domain "*.A.example." is in two zones, ["a.example"] and ["b.example" "*.A.example."]: leave it in one`},
	}
	for _, tt := range tests {
		t.Run(tt.says, func(t *testing.T) {
			_, err := Compile(tt.settings)
			if err == nil || err.Error() != tt.want {
				t.Errorf("got %v\nwant %s", err, tt.want)
			}
		})
	}
}

var loopback = []netip.Addr{netip.MustParseAddr("127.0.0.1")}

// closedPort is an address where nobody listens.
func closedPort(t *testing.T) string {
	t.Helper()
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer pc.Close()
	return pc.LocalAddr().String()
}

// secure serves a resolver over DoT, DoH, DoQ and DoH over HTTP/3 as dns.example.
type secure struct {
	dot, doh, doq, h3 string // ports
	client            *x509.CertPool
	proto, proto3     atomic.Value // of the last DoH request over TCP and over QUIC
	conns             atomic.Int32
}

func newSecure(t *testing.T, up *resolver) *secure {
	t.Helper()
	sec := &secure{}
	config, client := certificate(t, "dns.example")
	sec.client = client
	config.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) { sec.conns.Add(1); return nil, nil }

	dot := config.Clone()
	dot.NextProtos = []string{"dot"}
	ln, err := tls.Listen("tcp", "127.0.0.1:0", dot)
	if err != nil {
		t.Fatal(err)
	}
	_, sec.dot, _ = net.SplitHostPort(ln.Addr().String())
	serveDNS(t, &dns.Server{Listener: ln, Handler: up})

	doh := httptest.NewUnstartedServer(sec.web(up, &sec.proto))
	doh.TLS, doh.EnableHTTP2 = config, true
	doh.Config.ErrorLog = quietLog
	doh.StartTLS()
	t.Cleanup(doh.Close)
	_, sec.doh, _ = net.SplitHostPort(doh.Listener.Addr().String())

	sec.doq = serveDoQ(t, up, config, nil)
	sec.h3 = serveH3(t, sec.web(up, &sec.proto3), config)
	return sec
}

// web answers DoH and notes the version of HTTP that it was asked in.
func (sec *secure) web(up *resolver, proto *atomic.Value) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		proto.Store(r.Proto)
		body, _ := io.ReadAll(r.Body)
		q := new(dns.Msg)
		if r.URL.Path != "/dns-query" || r.Header.Get("Content-Type") != mediaType || q.Unpack(body) != nil {
			http.Error(w, "bad request", http.StatusBadRequest)
			return
		}
		wire, _ := up.reply(q).Pack()
		w.Header().Set("Content-Type", mediaType)
		w.Write(wire)
	}
}

// certificate makes a certificate for host and a client that trusts it.
func certificate(t *testing.T, host string) (server *tls.Config, client *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: host}, DNSNames: []string{host}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(leaf)
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}, pool
}
