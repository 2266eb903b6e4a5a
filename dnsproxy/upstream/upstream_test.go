package upstream

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"
	"go.uber.org/goleak"

	"penstock/dnsproxy/dnstest"
	"penstock/dnsproxy/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var discard = slog.New(slog.DiscardHandler)

// spec is a resolver as an upstream that is asked over UDP.
func spec(name string, r *dnstest.Resolver) Spec { return Spec{Name: name, Address: r.Addr.String()} }

// group makes a group that lasts until the test ends, when all its goroutines must end. The first upstream without a name is main.
func group(t *testing.T, cfg Config, selection Selection, specs ...Spec) *Group {
	t.Helper()
	var wg sync.WaitGroup
	cfg.Go, cfg.Log = func(f func()) { wg.Go(f) }, discard
	var upstreams []*Upstream
	for i, s := range specs {
		if i == 0 && s.Name == "" {
			s.Name = "main"
		}
		target, err := Parse(s)
		if err != nil {
			t.Fatal(err)
		}
		upstreams = append(upstreams, New(cfg, target))
	}
	t.Cleanup(func() {
		for _, u := range upstreams {
			u.Retire()
		}
		wg.Wait()
	})
	return NewGroup(upstreams, selection, cfg.Go)
}

// ask asks a group as a server does, and renders the answer or the error in one line.
func ask(t *testing.T, g *Group, name, qtype string) string {
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	msg, from, err := g.Ask(ctx, question(t, name, qtype), func(uint16) {})
	if err != nil {
		return "error: " + err.Error()
	}
	return dnstest.Brief(msg) + " from " + from
}

func question(t *testing.T, name, qtype string) []byte {
	t.Helper()
	packed, err := dnstest.Query(name, qtype).Pack()
	if err != nil {
		t.Fatal(err)
	}
	q := new(wire.Question)
	q.Read(packed)
	return wire.UpstreamQuery(q)
}

// through dials upstreams via "way" with d, and others as the host does.
func through(d Dialer) func(via string) (Dialer, bool) {
	return func(via string) (Dialer, bool) {
		if via == "way" {
			return d, true
		}
		return &net.Dialer{}, via == ""
	}
}

// downDialer is the way through a transport that is down.
type downDialer struct{}

func (downDialer) DialContext(context.Context, string, string) (net.Conn, error) {
	return nil, errors.New("transport corp is not up")
}

type dialerFunc func(ctx context.Context, network, address string) (net.Conn, error)

func (f dialerFunc) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	return f(ctx, network, address)
}

// onlyConn is a connection that is nothing more.
type onlyConn struct{ net.Conn }

// TestProtocols asks the same resolver in every way that Upstream.Address has.
func TestProtocols(t *testing.T) {
	up := dnstest.New(t, "www.example. 300 IN A 203.0.113.1", "mail.example. 300 IN A 203.0.113.2")
	secure := dnstest.NewSecure(t, up)
	tests := []struct {
		says     string
		upstream Spec
	}{
		{"bare address", Spec{Address: up.Addr.String()}},
		{"udp", Spec{Address: "udp://" + up.Addr.String()}},
		{"tcp", Spec{Address: "tcp://" + up.Addr.String()}},
		{"tls by name", Spec{Address: "tls://dns.example:" + secure.DoT, Bootstrap: dnstest.Loopback()}},
		{"https by name, over HTTP/2", Spec{Address: "https://dns.example:" + secure.DoH + "/dns-query", Bootstrap: dnstest.Loopback()}},
		{"https with the usual path", Spec{Address: "https://dns.example:" + secure.DoH, Bootstrap: dnstest.Loopback()}},
		{"quic by name", Spec{Address: "quic://dns.example:" + secure.DoQ, Bootstrap: dnstest.Loopback()}},
		{"HTTP/3 by name", Spec{Address: "h3://dns.example:" + secure.H3 + "/dns-query", Bootstrap: dnstest.Loopback()}},
	}
	for _, tt := range tests {
		t.Run(tt.says, func(t *testing.T) {
			g := group(t, Config{RootCAs: secure.Client}, Ordered, tt.upstream)
			for name, want := range map[string]string{"www.example": "NOERROR 203.0.113.1 from main", "mail.example": "NOERROR 203.0.113.2 from main"} {
				if got := ask(t, g, name, "A"); got != want {
					t.Errorf("%s: got %s, want %s", name, got, want)
				}
			}
		})
	}
	if got := secure.Proto.Load(); got != "HTTP/2.0" {
		t.Errorf("DoH went over %v, want HTTP/2.0", got)
	}
	if got := secure.Proto3.Load(); got != "HTTP/3.0" {
		t.Errorf("DoH over h3 went over %v, want HTTP/3.0", got)
	}
	if got := secure.Conns.Load(); got != 5 {
		t.Errorf("TLS connections: got %d, want 5, one for each upstream", got)
	}
}

// TestResolvedUpstream: an upstream named by host without addresses is found through Config.Resolve.
func TestResolvedUpstream(t *testing.T) {
	up := dnstest.New(t, "www.example. 300 IN A 203.0.113.1")
	secure := dnstest.NewSecure(t, up)
	var asked []string
	resolve := func(_ context.Context, host string) ([]netip.Addr, error) {
		asked = append(asked, host)
		return dnstest.Loopback(), nil
	}
	g := group(t, Config{RootCAs: secure.Client, Resolve: resolve}, Ordered, Spec{Address: "tls://dns.example:" + secure.DoT})
	if got, want := ask(t, g, "www.example", "A"), "NOERROR 203.0.113.1 from main"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if len(asked) != 1 || asked[0] != "dns.example" {
		t.Errorf("resolved %v, want dns.example", asked)
	}
}

// TestCertificate: an upstream that cannot prove its name is not asked.
func TestCertificate(t *testing.T) {
	up := dnstest.New(t, "www.example. 300 IN A 203.0.113.1")
	secure := dnstest.NewSecure(t, up)
	for _, address := range []string{
		"tls://other.example:" + secure.DoT, "https://other.example:" + secure.DoH,
		"quic://other.example:" + secure.DoQ, "h3://other.example:" + secure.H3,
	} {
		g := group(t, Config{RootCAs: secure.Client}, Ordered, Spec{Address: address, Bootstrap: dnstest.Loopback()})
		if got := ask(t, g, "www.example", "A"); !strings.Contains(got, "certificate is valid for dns.example, not other.example") {
			t.Errorf("%s: got %s, want an error about the certificate", address, got)
		}
	}
	if got := len(up.Queries()); got != 0 {
		t.Errorf("the upstream got %d queries, want 0", got)
	}
}

// TestClosedConnection: a connection that the upstream has closed is replaced without a failure.
func TestClosedConnection(t *testing.T) {
	up := dnstest.New(t, "www.example. 300 IN A 203.0.113.1")
	up.AnswerWith(func(w dns.ResponseWriter, q *dns.Msg) bool {
		w.WriteMsg(up.Reply(q))
		w.Close()
		return true
	})
	g := group(t, Config{}, Ordered, Spec{Address: "tcp://" + up.Addr.String()})
	for i := range 5 {
		if got, want := ask(t, g, "www.example", "A"), "NOERROR 203.0.113.1 from main"; got != want {
			t.Fatalf("query %d: got %s, want %s", i, got, want)
		}
	}
}

// TestDeadConnection: a connection on which the upstream has gone silent is given up after a second, within the same query.
func TestDeadConnection(t *testing.T) {
	up := dnstest.New(t, "www.example. 300 IN A 203.0.113.1", "mail.example. 300 IN A 203.0.113.2")
	var dead sync.Map // connections that answer no more
	up.AnswerWith(func(w dns.ResponseWriter, q *dns.Msg) bool {
		_, is := dead.LoadOrStore(w.RemoteAddr().String(), true)
		return is
	})
	g := group(t, Config{}, Ordered, Spec{Address: "tcp://" + up.Addr.String()})
	for name, want := range map[string]string{"www.example": "NOERROR 203.0.113.1 from main", "mail.example": "NOERROR 203.0.113.2 from main"} {
		if got := ask(t, g, name, "A"); got != want {
			t.Errorf("%s: got %s, want %s", name, got, want)
		}
	}
}

// TestTruncatedUpstream: an answer that does not fit UDP is fetched over TCP, and only that one is used.
func TestTruncatedUpstream(t *testing.T) {
	up := dnstest.New(t, "www.example. 300 IN A 203.0.113.1")
	up.AnswerWith(func(w dns.ResponseWriter, q *dns.Msg) bool {
		if _, udp := w.RemoteAddr().(*net.UDPAddr); udp {
			a := new(dns.Msg).SetReply(q)
			a.Truncated = true
			w.WriteMsg(a)
			return true
		}
		return false
	})
	g := group(t, Config{}, Ordered, spec("main", up))
	if got, want := ask(t, g, "www.example", "A"), "NOERROR 203.0.113.1 from main"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if got := len(up.Queries()); got != 2 {
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
			up := dnstest.New(t, "www.example. 300 IN A 203.0.113.1")
			var tcp atomic.Bool
			up.AnswerWith(func(w dns.ResponseWriter, q *dns.Msg) bool {
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
			g := group(t, Config{}, Ordered, spec("main", up))
			if got, want := ask(t, g, "www.example", "A"), "NOERROR 203.0.113.1 from main"; got != want {
				t.Errorf("got %s, want %s", got, want)
			}
			if tcp.Load() != tt.overTCP {
				t.Errorf("asked over TCP: got %t, want %t", tcp.Load(), tt.overTCP)
			}
		})
	}
}

// TestPortsAndIDs: who guesses an answer must guess port and id of each query.
func TestPortsAndIDs(t *testing.T) {
	const n = 2000
	up := dnstest.New(t)
	g := group(t, Config{}, Ordered, spec("main", up))
	var wg sync.WaitGroup
	names := make(chan string)
	for range 8 {
		wg.Go(func() {
			for name := range names {
				ask(t, g, name, "A")
			}
		})
	}
	for i := range n {
		names <- strings.Repeat("a", 1+i%50) + strings.Repeat(".b", i/50) + ".example"
	}
	close(names)
	wg.Wait()
	ids, ports := map[uint16]bool{}, map[uint16]bool{}
	for _, q := range up.Queries() {
		ids[q.Id] = true
	}
	for _, port := range up.Ports() {
		ports[port] = true
	}
	if len(ports) < n*90/100 || len(ids) < n*95/100 {
		t.Errorf("%d distinct ports and %d distinct ids, want at least 90%% and 95%% of %d", len(ports), len(ids), n)
	}
}

// TestFailover: whatever is wrong with the first upstream, the second one answers.
func TestFailover(t *testing.T) {
	good := dnstest.New(t, "www.example. 300 IN A 203.0.113.1")
	bad := func(f func(w dns.ResponseWriter, q *dns.Msg)) Spec {
		up := dnstest.New(t)
		up.AnswerWith(func(w dns.ResponseWriter, q *dns.Msg) bool { f(w, q); return true })
		return spec("bad", up)
	}
	tests := []struct {
		says  string
		first Spec
	}{
		{"down", Spec{Address: "10.0.0.53", Via: "way"}},
		{"refused", Spec{Address: dnstest.ClosedPort(t)}},
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
				g := group(t, Config{Dialer: through(downDialer{})}, selection, tt.first, spec("good", good))
				if got, want := ask(t, g, "www.example", "A"), "NOERROR 203.0.113.1 from good"; got != want {
					t.Errorf("selection %d: got %s, want %s", selection, got, want)
				}
			}
		})
	}
}

// TestDownUpstream: an upstream that keeps failing goes last until its back-off is over, then one query tries it.
func TestDownUpstream(t *testing.T) {
	a, b := &Upstream{name: "a", log: discard}, &Upstream{name: "b", log: discard}
	g := NewGroup([]*Upstream{a, b}, Ordered, nil)
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

// TestQUICThroughDialer: every datagram of a QUIC upstream goes through the dialer that was given with it.
func TestQUICThroughDialer(t *testing.T) {
	up := dnstest.New(t, "www.example. 300 IN A 203.0.113.1")
	secure := dnstest.NewSecure(t, up)
	for _, address := range []string{"quic://dns.example:" + secure.DoQ, "h3://dns.example:" + secure.H3} {
		var dialled []string
		noting := dialerFunc(func(ctx context.Context, network, to string) (net.Conn, error) {
			dialled = append(dialled, network+" "+to)
			conn, err := new(net.Dialer).DialContext(ctx, network, to)
			return onlyConn{conn}, err
		})
		g := group(t, Config{RootCAs: secure.Client, Dialer: through(noting)}, Ordered, Spec{Address: address, Bootstrap: dnstest.Loopback(), Via: "way"})
		for range 3 {
			if got, want := ask(t, g, "www.example", "A"), "NOERROR 203.0.113.1 from main"; got != want {
				t.Errorf("%s: got %s, want %s", address, got, want)
			}
		}
		if len(dialled) != 1 {
			t.Errorf("%s: dialled %v, want one connection for all", address, dialled)
		}
	}
}

// TestDeadQUIC: a QUIC connection on which the upstream has gone silent is given up after a second, within the same query.
func TestDeadQUIC(t *testing.T) {
	up := dnstest.New(t, "www.example. 300 IN A 203.0.113.1")
	config, client := dnstest.Certificate(t, "dns.example")
	port := dnstest.ServeDoQ(t, up, config, func(n int32) bool { return n == 1 })
	g := group(t, Config{RootCAs: client}, Ordered, Spec{Address: "quic://dns.example:" + port, Bootstrap: dnstest.Loopback()})
	if got, want := ask(t, g, "www.example", "A"), "NOERROR 203.0.113.1 from main"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// refuseAll answers every query with a response code and an extended error.
func refuseAll(rcode int, code uint16, text string) func(dns.ResponseWriter, *dns.Msg) bool {
	return func(w dns.ResponseWriter, q *dns.Msg) bool {
		a := new(dns.Msg).SetRcode(q, rcode).SetEdns0(1232, false)
		a.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_EDE{InfoCode: code, ExtraText: text}}
		w.WriteMsg(a)
		return true
	}
}

// TestAnUpstreamThatAnswersIsUp: a response code is life. An upstream that cannot answer for some names stays first for others.
func TestAnUpstreamThatAnswersIsUp(t *testing.T) {
	for _, rcode := range []int{dns.RcodeServerFailure, dns.RcodeRefused, dns.RcodeNotImplemented} {
		a := dnstest.New(t, "www.example. 300 IN A 203.0.113.1")
		b := dnstest.New(t, "www.example. 300 IN A 203.0.113.2", "x.example. 300 IN A 203.0.113.3")
		g := group(t, Config{}, Ordered, spec("a", a), spec("b", b))
		a.AnswerWith(refuseAll(rcode, 0, ""))
		for range 2 * downAfter {
			if got, want := ask(t, g, "x.example", "A"), "NOERROR 203.0.113.3 from b"; got != want {
				t.Errorf("a answers %s: got %s, want %s", dns.RcodeToString[rcode], got, want)
			}
		}
		a.AnswerWith(nil)
		if got, want := ask(t, g, "www.example", "A"), "NOERROR 203.0.113.1 from a"; got != want {
			t.Errorf("after answers of %s: got %s, want %s", dns.RcodeToString[rcode], got, want)
		}
	}
}

// TestTheFirstAnswerOfTheOrderIsPassedOn: when no upstream has a good answer, what the first one said is in the error, not the
// failure of the one that came last.
func TestTheFirstAnswerOfTheOrderIsPassedOn(t *testing.T) {
	a, b := dnstest.New(t), dnstest.New(t)
	a.AnswerWith(refuseAll(dns.RcodeServerFailure, dns.ExtendedErrorCodeDNSBogus, "signature\x1b[2J expired"))
	b.AnswerWith(refuseAll(dns.RcodeRefused, dns.ExtendedErrorCodeProhibited, "not you"))
	g := group(t, Config{Dialer: through(downDialer{})}, Ordered, Spec{Name: "dead", Address: "10.0.0.53", Via: "way"}, spec("a", a), spec("b", b))
	_, _, err := g.Ask(t.Context(), question(t, "www.example", "A"), func(uint16) {})
	var said *Failure
	if !errors.As(err, &said) || said.Rcode != dns.RcodeServerFailure || said.EDE != (wire.EDE{Code: dns.ExtendedErrorCodeDNSBogus, Prefix: "signature[2J expired"}) {
		t.Errorf("got %v with %+v, want what a said, without control characters", err, said)
	}
	b.AnswerWith(refuseAll(dns.RcodeBadVers, 0, ""))
	g = group(t, Config{}, Ordered, spec("b", b))
	if _, _, err = g.Ask(t.Context(), question(t, "www.example", "A"), func(uint16) {}); !errors.As(err, &said) || said.Rcode != dns.RcodeServerFailure {
		t.Errorf("a code between us and the upstream: got %v with %+v, want SERVFAIL for clients", err, said)
	}
}

// TestSilenceIsDown: an upstream that says nothing goes last.
func TestSilenceIsDown(t *testing.T) {
	a, b := dnstest.New(t), dnstest.New(t, "www.example. 300 IN A 203.0.113.2")
	a.AnswerWith(func(dns.ResponseWriter, *dns.Msg) bool { return true })
	g := group(t, Config{}, Ordered, spec("a", a), spec("b", b))
	for range downAfter {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		g.upstreams[0].note(ctx, errNoAnswer, time.Second) // as after a query that nobody answered
		cancel()
	}
	if got := g.order(time.Now())[0].name; got != "b" {
		t.Errorf("after silence: got %s first, want b", got)
	}
}

// TestACancelledQueryIsNoFailure: who stops waiting says nothing about the upstream.
func TestACancelledQueryIsNoFailure(t *testing.T) {
	up := dnstest.New(t)
	asked := make(chan struct{}, 8)
	up.AnswerWith(func(dns.ResponseWriter, *dns.Msg) bool { asked <- struct{}{}; return true })
	g := group(t, Config{}, Ordered, spec("main", up))
	for range downAfter {
		ctx, cancel := context.WithCancel(t.Context())
		go func() { <-asked; cancel() }()
		if _, _, err := g.Ask(ctx, question(t, "www.example", "A"), func(uint16) {}); err == nil {
			t.Fatal("a cancelled query has an answer")
		}
	}
	if u := g.upstreams[0]; u.failures != 0 {
		t.Errorf("failures after cancelled queries: got %d, want 0", u.failures)
	}
}

// TestReconnect: after a change of network the next query opens a connection of its own, and an upstream that was down is tried.
func TestReconnect(t *testing.T) {
	up := dnstest.New(t, "www.example. 300 IN A 203.0.113.1")
	secure := dnstest.NewSecure(t, up)
	for _, address := range []string{
		"tls://dns.example:" + secure.DoT, "https://dns.example:" + secure.DoH, "quic://dns.example:" + secure.DoQ, "h3://dns.example:" + secure.H3,
	} {
		g := group(t, Config{RootCAs: secure.Client}, Ordered, Spec{Address: address, Bootstrap: dnstest.Loopback()})
		before := secure.Conns.Load()
		for i, reconnect := range []bool{false, false, true, false} {
			if reconnect {
				g.upstreams[0].Reconnect()
			}
			if got, want := ask(t, g, "www.example", "A"), "NOERROR 203.0.113.1 from main"; got != want {
				t.Errorf("%s, query %d: got %s, want %s", address, i, got, want)
			}
		}
		if got := secure.Conns.Load() - before; got != 2 {
			t.Errorf("%s: got %d connections, want 2", address, got)
		}
	}
	u := &Upstream{name: "a", log: discard, protocol: newStreamProtocol(&reach{cfg: &Config{}}, nil)}
	for range downAfter {
		u.failed()
	}
	if u.Reconnect(); !u.takes(time.Now()) {
		t.Error("an upstream that was down on another network is not asked")
	}
}

// TestReconnectWhileAQueryWaits: the query keeps its connection and gets its answer.
func TestReconnectWhileAQueryWaits(t *testing.T) {
	up := dnstest.New(t, "www.example. 300 IN A 203.0.113.1")
	release, asked := make(chan struct{}), make(chan struct{}, 4)
	up.AnswerWith(func(dns.ResponseWriter, *dns.Msg) bool { asked <- struct{}{}; <-release; return false })
	secure := dnstest.NewSecure(t, up)
	g := group(t, Config{RootCAs: secure.Client}, Ordered, Spec{Address: "tls://dns.example:" + secure.DoT, Bootstrap: dnstest.Loopback()})
	answer := make(chan string)
	go func() { answer <- ask(t, g, "www.example", "A") }()
	<-asked
	g.upstreams[0].Reconnect()
	close(release)
	if got, want := <-answer, "NOERROR 203.0.113.1 from main"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if got := secure.Conns.Load(); got != 1 {
		t.Errorf("got %d connections, want 1", got)
	}
}

// TestRetiredUpstream: who has it still may ask, and no connection outlives the query.
func TestRetiredUpstream(t *testing.T) {
	up := dnstest.New(t, "www.example. 300 IN A 203.0.113.1")
	secure := dnstest.NewSecure(t, up)
	for _, address := range []string{
		"tls://dns.example:" + secure.DoT, "https://dns.example:" + secure.DoH, "quic://dns.example:" + secure.DoQ, "h3://dns.example:" + secure.H3,
	} {
		g := group(t, Config{RootCAs: secure.Client}, Ordered, Spec{Address: address, Bootstrap: dnstest.Loopback()})
		g.upstreams[0].Retire()
		if got, want := ask(t, g, "www.example", "A"), "NOERROR 203.0.113.1 from main"; got != want {
			t.Errorf("%s: got %s, want %s", address, got, want)
		}
	}
}

// TestOneUpstreamTwiceInAGroup counts once: its failure ends the query.
func TestOneUpstreamTwiceInAGroup(t *testing.T) {
	g := group(t, Config{Dialer: through(downDialer{})}, Ordered, Spec{Address: "10.0.0.53", Via: "way"})
	g = NewGroup([]*Upstream{g.upstreams[0], g.upstreams[0]}, Ordered, g.spawn)
	if got, want := ask(t, g, "www.example", "A"), "error: upstream main: transport corp is not up"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// TestTheWayIsAskedAtEachDial: a way that changes is followed, one that is not there is an error that names it.
func TestTheWayIsAskedAtEachDial(t *testing.T) {
	up := dnstest.New(t, "www.example. 300 IN A 203.0.113.1")
	var there atomic.Bool
	g := group(t, Config{Dialer: func(via string) (Dialer, bool) { return &net.Dialer{}, there.Load() }}, Ordered,
		Spec{Address: up.Addr.String(), Via: "corp"})
	if got, want := ask(t, g, "www.example", "A"), `error: upstream main: there is no way "corp" to the upstream`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	there.Store(true)
	if got, want := ask(t, g, "www.example", "A"), "NOERROR 203.0.113.1 from main"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestParse(t *testing.T) {
	for address, want := range map[string]string{
		"10.0.0.53":                  "udp 10.0.0.53 53 ",
		"10.0.0.53:5353":             "udp 10.0.0.53 5353 ",
		"fd00::1":                    "udp fd00::1 53 ",
		"[fd00::1]:54":               "udp fd00::1 54 ",
		"tls://dns.example":          "tls dns.example 853 ",
		"https://dns.example":        "https dns.example 443 /dns-query",
		"h3://dns.example/q?a=b":     "h3 dns.example 443 /q?a=b",
		"quic://[fd00::1]":           "quic fd00::1 853 ",
		"ftp://10.0.0.53":            "scheme must be udp, tcp, tls, https, quic or h3",
		"tls://1.2.3.4:99999":        "port must be 1 to 65535",
		"10.0.0.53:0":                "port must be 1 to 65535",
		"tls://10.0.0.53/dns-query":  "only https and h3 have a path",
		"https://me:secret@dns.test": "it has a user or password, which nothing uses: leave them out",
		"https://dns.test/q{?dns}":   "it is a template: leave out the part in braces",
		"tls://":                     "no host",
		"tls://[::1":                 "missing ']' in host",
	} {
		got := ""
		if e, err := parseEndpoint(address); err != nil {
			got = err.Error()
		} else {
			got = strings.Join([]string{e.scheme, e.host, netip.AddrPortFrom(netip.IPv4Unspecified(), e.port).String()[len("0.0.0.0:"):], ""}, " ")
			if e.scheme == "https" || e.scheme == "h3" {
				got += e.path
			}
		}
		if got != want {
			t.Errorf("%s: got %q, want %q", address, got, want)
		}
	}
}

// TestAPasswordIsNotRepeated: an address with a password in it is wrong, and the error keeps the password to itself.
func TestAPasswordIsNotRepeated(t *testing.T) {
	for _, address := range []string{"https://me:secret@dns.example/dns-query", "me:secret@dns.example"} {
		_, err := Parse(Spec{Address: address})
		if err == nil || strings.Contains(err.Error(), "secret") || !strings.Contains(err.Error(), "me:xxxxx@dns.example") {
			t.Errorf("%s: got %v", address, err)
		}
	}
}

// TestReconnectWhileDialling: a connection that was begun on the old network serves the query that it was made for, and no other.
func TestReconnectWhileDialling(t *testing.T) {
	up := dnstest.New(t, "www.example. 300 IN A 203.0.113.1")
	secure := dnstest.NewSecure(t, up)
	for _, address := range []string{"tls://dns.example:" + secure.DoT, "quic://dns.example:" + secure.DoQ} {
		dialling, proceed := make(chan struct{}, 4), make(chan struct{}, 4)
		slow := dialerFunc(func(ctx context.Context, network, to string) (net.Conn, error) {
			dialling <- struct{}{}
			<-proceed
			return new(net.Dialer).DialContext(ctx, network, to)
		})
		g := group(t, Config{RootCAs: secure.Client, Dialer: through(slow)}, Ordered, Spec{Address: address, Bootstrap: dnstest.Loopback(), Via: "way"})
		before := secure.Conns.Load()
		answer := make(chan string)
		go func() { answer <- ask(t, g, "www.example", "A") }()
		<-dialling
		g.upstreams[0].Reconnect()
		proceed <- struct{}{}
		proceed <- struct{}{}
		for _, got := range []string{<-answer, ask(t, g, "www.example", "A")} {
			if want := "NOERROR 203.0.113.1 from main"; got != want {
				t.Errorf("%s: got %s, want %s", address, got, want)
			}
		}
		if got := secure.Conns.Load() - before; got != 2 {
			t.Errorf("%s: got %d connections, want 2", address, got)
		}
	}
}

// TestAServerThatClosesUnderABurst closes each connection after so many queries, as RFC 7766 6.2.3 lets it. Those that it
// has not answered are asked again.
func TestAServerThatClosesUnderABurst(t *testing.T) {
	for _, after := range []int{20, 100} {
		t.Run(fmt.Sprintf("after %d queries", after), func(t *testing.T) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			server := &dns.Server{Listener: l, MaxTCPQueries: after, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
				_ = w.WriteMsg(new(dns.Msg).SetReply(q)) // the client may have gone
			})}
			over := make(chan error, 1)
			go func() { over <- server.ActivateAndServe() }()
			t.Cleanup(func() { l.Close(); <-over })
			g := group(t, Config{}, Ordered, Spec{Address: "tcp://" + l.Addr().String()})
			var asked sync.WaitGroup
			var failed atomic.Int64
			for range 20 {
				asked.Go(func() {
					for range 50 {
						if got := ask(t, g, "www.example.", "A"); strings.HasPrefix(got, "error") {
							if failed.Add(1) == 1 {
								t.Error(got)
							}
						}
					}
				})
			}
			asked.Wait()
			if n := failed.Load(); n > 0 {
				t.Errorf("%d of 1000 queries failed, want none", n)
			}
		})
	}
}
