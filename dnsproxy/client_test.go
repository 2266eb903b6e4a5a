package dnsproxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"penstock/policy"
)

// addressOf returns one of the addresses of a host's /64.
func addressOf(i int) netip.AddrPort {
	a := netip.MustParseAddr("fd00:0:0:7::").As16()
	a[14], a[15] = byte(i>>8), byte(i)
	return netip.AddrPortFrom(netip.AddrFrom16(a), 4000)
}

func TestAddressKey(t *testing.T) {
	key := func(s string) uint64 { return AddressKey(netip.MustParseAddr(s)) }
	for _, same := range [][2]string{{"fd00:0:0:7::1", "fd00:0:0:7:ffff::2"}, {"10.0.0.1", "::ffff:10.0.0.1"}} {
		if key(same[0]) != key(same[1]) {
			t.Errorf("%s and %s: two keys, want one", same[0], same[1])
		}
	}
	seen := map[uint64]string{0: "nobody"}
	for _, s := range []string{"10.0.0.1", "10.0.0.2", "0.0.0.0", "::1", "fd00:0:0:7::1", "fd00:0:0:8::1", "2001:db8::a00:1"} {
		if other := seen[key(s)]; other != "" {
			t.Errorf("%s and %s have one key", s, other)
		}
		seen[key(s)] = s
	}
}

// TestAPeerWithManyAddressesIsOneClient: whatever a client is bound by counts its addresses together.
func TestAPeerWithManyAddressesIsOneClient(t *testing.T) {
	// Those of a /64 are one client for a server that knows nobody, and those of a peer for one that knows the peers.
	peers := func(src netip.AddrPort) policy.Flow {
		if src.Addr().Is6() {
			return policy.Flow{Client: 1000, Peer: "greedy"}
		}
		return policy.Flow{Client: 2000, Peer: "honest"}
	}
	spread := func(i int) netip.AddrPort { // addresses of many /64s
		a := addressOf(i).Addr().As16()
		a[6], a[7] = byte(i>>8), byte(i)
		return netip.AddrPortFrom(netip.AddrFrom16(a), 4000)
	}
	for _, tt := range []struct {
		says    string
		address func(int) netip.AddrPort
		options []func(*setup)
	}{
		{"a stranger in a /64", addressOf, nil},
		{"a peer with many networks", spread, []func(*setup){described(peers)}},
	} {
		t.Run(tt.says, func(t *testing.T) {
			t.Run("queries in flight", func(t *testing.T) {
				up := newResolver(t)
				release := make(chan struct{})
				up.AnswerWith(func(dns.ResponseWriter, *dns.Msg) bool { <-release; return false })
				s := newServer(t, Settings{Upstreams: []Upstream{named("main", up)}, MaxInFlight: 30}, tt.options...)
				answers := make(chan string, 100)
				send := func(client netip.AddrPort, name string) {
					wire, _ := query(name, "A").Pack()
					s.ServePacket(t.Context(), client, wire, func(msg []byte) error {
						a := new(dns.Msg)
						a.Unpack(msg)
						answers <- brief(a)
						return nil
					})
				}
				for i := range 40 {
					send(tt.address(i), fmt.Sprintf("h%d.example", i))
				}
				for range 20 {
					if got, want := <-answers, "SERVFAIL edeOther"; got != want {
						t.Fatalf("got %s, want %s for all but 20 of 40", got, want)
					}
				}
				for i := range 10 {
					send(ana, fmt.Sprintf("ana%d.example", i))
				}
				select {
				case got := <-answers:
					t.Errorf("another client's query: got %s, want it to wait for the upstream", got)
				default:
				}
				close(release)
				for range 30 {
					<-answers
				}
			})
			t.Run("rate", func(t *testing.T) {
				up := newResolver(t)
				clock := newClock()
				s := newServer(t, Settings{Upstreams: []Upstream{named("main", up)}, ClientRate: 5}, append(tt.options, at(clock))...)
				limited := 0
				for i := range 40 {
					if a := exchangePacket(t, s, tt.address(i), query(fmt.Sprintf("h%d.example", i), "A")); a.Rcode == dns.RcodeRefused {
						limited++
					}
				}
				if limited != 30 {
					t.Errorf("refused: got %d of 40, want all but 10", limited)
				}
				if got, want := brief(exchangePacket(t, s, ana, query("ana.example", "A"))), "NXDOMAIN soa"; got != want {
					t.Errorf("another client: got %s, want %s", got, want)
				}
			})
			t.Run("connections", func(t *testing.T) {
				s := newServer(t, Settings{MaxConns: 8}, tt.options...)
				var open []net.Conn
				for i := range 5 {
					near, far := net.Pipe()
					open = append(open, near)
					done := make(chan error, 1)
					client := tt.address(i)
					if i == 4 {
						client = ana
					}
					go func() { done <- s.ServeConn(t.Context(), client, far) }()
					if i < 2 || i == 4 {
						if _, err := near.Write([]byte{0}); err != nil {
							t.Errorf("connection %d: %v, want it served", i, err)
						}
						continue
					}
					if err := <-done; !errors.Is(err, ErrTooManyConns) {
						t.Errorf("connection %d: got %v, want %v", i, err, ErrTooManyConns)
					}
				}
				for _, conn := range open {
					conn.Close()
				}
			})
			t.Run("names", func(t *testing.T) {
				up := newResolver(t, "www.example. 300 IN A 203.0.113.1")
				for i := range 200 {
					up.Add(t, fmt.Sprintf("h%d.example. 300 IN A 198.51.100.%d", i, i))
				}
				s := newServer(t, Settings{Upstreams: []Upstream{named("main", up)}}, append(tt.options, func(s *setup) { s.MaxNames = 50 })...)
				ask(t, s, "www.example", "A")
				for i := range 200 {
					exchangePacket(t, s, tt.address(i), query(fmt.Sprintf("h%d.example", i), "A"))
				}
				key := s.describe(ana).Client
				if key == 0 {
					key = AddressKey(ana.Addr())
				}
				if got := s.Names().Lookup(key, netip.MustParseAddr("203.0.113.1")); len(got) != 1 {
					t.Errorf("names of another client: got %v, want www.example", got)
				}
			})
		})
	}
}

// TestManyClientsDoNotFreeABusyOne: the share of a client that has queries in flight is not forgotten, however many others come.
func TestManyClientsDoNotFreeABusyOne(t *testing.T) {
	l, now := newLimits(), newClock().now()
	set := plan(t, Settings{MaxInFlight: 3}).settings
	for range 2 {
		if _, got := l.admit(1, now, &set); got != admitted {
			t.Fatalf("admission: got %d, want %d", got, admitted)
		}
	}
	for i := range uint64(3 * maxClients) {
		l.mu.Lock()
		l.clientLocked(i + 10)
		l.mu.Unlock()
	}
	if _, got := l.admit(1, now, &set); got != overLoad {
		t.Errorf("a client that has its share: got %d, want %d", got, overLoad)
	}
	if got := l.clients.Len(); got > maxClients {
		t.Errorf("clients remembered: got %d, want at most %d", got, maxClients)
	}
}

// TestRateFollowsThePlan: a new bound holds for clients that are known already.
func TestRateFollowsThePlan(t *testing.T) {
	l, now := newLimits(), newClock().now()
	admit := func(rate int) admission {
		set := plan(t, Settings{ClientRate: rate}).settings
		done, a := l.admit(1, now, &set)
		if done != nil {
			done()
		}
		return a
	}
	for range 200 {
		admit(100)
	}
	if got := admit(100); got != overRate {
		t.Fatalf("after a burst: got %d, want %d", got, overRate)
	}
	now = now.Add(time.Second)
	for i := range 4 {
		if got, want := admit(2), admitted; got != want {
			t.Errorf("query %d under the new bound: got %d, want %d", i, got, want)
		}
	}
	if got := admit(2); got != overRate {
		t.Errorf("over the new bound: got %d, want %d", got, overRate)
	}
	if got := admit(-1); got != admitted {
		t.Errorf("without a bound: got %d, want %d", got, admitted)
	}
}

// TestCloseClient: streams, flows, questions in flight and names of a client end; those of others do not.
func TestCloseClient(t *testing.T) {
	up := newResolver(t, "www.example. 300 IN A 203.0.113.1")
	s := newServer(t, Settings{Upstreams: []Upstream{named("main", up)}, MaxInFlight: 3, Timeout: time.Minute})
	const gone, stays = 1, 2
	f := func(client uint64, network policy.Network) policy.Flow {
		f := flow(network)
		f.Client = client
		return f
	}
	open := func(client uint64, network policy.Network) net.Conn {
		conn, err := s.DialFlow(t.Context(), f(client, network))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		return conn
	}
	site := netip.MustParseAddr("203.0.113.1")
	for _, client := range []uint64{gone, stays} {
		if _, err := s.Confirm(t.Context(), f(client, policy.TCP), "www.example"); err != nil {
			t.Fatal(err)
		}
	}
	asked := make(chan string, 8) // an upstream may be asked twice
	up.AnswerWith(func(_ dns.ResponseWriter, m *dns.Msg) bool { asked <- m.Question[0].Name; return true })
	ended := make(chan error, 4)
	for _, network := range []policy.Network{policy.UDP, policy.TCP} {
		conn := open(gone, network)
		view := &dns.Conn{Conn: conn}
		if network == policy.UDP {
			view = &dns.Conn{Conn: packetView{conn}}
		}
		name := fmt.Sprintf("silent%d.example.", network)
		for begun := false; !begun; {
			view.WriteMsg(query(name, "A"))
			for refused := false; !begun && !refused; {
				select {
				case other := <-asked:
					begun = other == name
				case <-time.After(time.Second): // a question before has not given its place back yet
					a, err := view.ReadMsg()
					if err != nil {
						t.Fatal(err)
					}
					refused = a.Rcode == dns.RcodeServerFailure
				}
			}
		}
		go func() {
			_, err := conn.Read(make([]byte, 512))
			ended <- err
		}()
	}
	other := &dns.Conn{Conn: open(stays, policy.TCP)}
	begun := time.Now()
	s.CloseClient(gone)
	for range 2 {
		if err := <-ended; err == nil {
			t.Error("a flow of a client that is gone has an answer")
		}
	}
	if got := s.Names().Lookup(gone, site); got != nil {
		t.Errorf("names of a client that is gone: got %v", got)
	}
	if got := s.Names().Lookup(stays, site); len(got) != 1 {
		t.Errorf("names of another client: got %v, want www.example", got)
	}
	// Its questions gave their places back: there is room for three again, two of them for one client.
	up.AnswerWith(nil)
	for i := range 2 {
		deadline := time.Now().Add(20 * time.Second)
		for {
			_, err := s.Confirm(t.Context(), f(stays, policy.TCP), fmt.Sprintf("n%d.example", i))
			if err == nil {
				break
			}
			if time.Now().After(deadline) {
				t.Fatal(err)
			}
		}
	}
	other.WriteMsg(query("www.example", "A"))
	if a, err := other.ReadMsg(); err != nil || brief(a) != "NOERROR 203.0.113.1" {
		t.Errorf("flow of another client: got %v, %v", a, err)
	}
	if took := time.Since(begun); took > 30*time.Second { // and not the timeout of its questions
		t.Errorf("the end of a client took %s", took)
	}
}

// TestAClosedClientDoesNotEndOthersQuestions: who waits for the same answer gets it.
func TestAClosedClientDoesNotEndOthersQuestions(t *testing.T) {
	up := newResolver(t, "www.example. 300 IN A 203.0.113.1")
	release, asked := make(chan struct{}), make(chan struct{}, 4)
	up.AnswerWith(func(dns.ResponseWriter, *dns.Msg) bool { asked <- struct{}{}; <-release; return false })
	s := newServer(t, Settings{Upstreams: []Upstream{named("main", up)}})
	first, second := make(chan error, 1), make(chan error, 1)
	confirm := func(client uint64, done chan error) {
		_, err := s.Confirm(t.Context(), policy.Flow{Client: client, Src: ana, Dst: netip.MustParseAddrPort("203.0.113.1:443")}, "www.example")
		done <- err
	}
	go confirm(1, first)
	<-asked
	go confirm(2, second)
	for s.flights.waiting() < 2 {
		runtime.Gosched()
	}
	s.CloseClient(1)
	if err := <-first; err == nil {
		t.Error("the client that is gone has an answer")
	}
	close(release)
	if err := <-second; err != nil {
		t.Errorf("the other client: got %v", err)
	}
	if got := len(up.Queries()); got != 1 {
		t.Errorf("upstream queries: got %d, want 1", got)
	}
}

// waiting is how many clients wait for flights.
func (fs *flights) waiting() int {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	n := 0
	for _, f := range fs.open {
		n += f.waiting
	}
	return n
}

// TestQueryChangesNothing: a diagnosis leaves no trace in cache, names, counters, log or the client's share.
func TestQueryChangesNothing(t *testing.T) {
	up := newResolver(t, "www.example. 300 IN A 203.0.113.1")
	log, blocked := new(asked), 0
	m := NewMetrics(prometheus.NewRegistry())
	s := newServer(t, Settings{Upstreams: []Upstream{named("main", up)}, ClientRate: 1}, judged(blocks(map[string]string{"casino.example": "gambling"})),
		func(s *setup) {
			s.Asked, s.Metrics = log, m
			s.Blocked = func(Refused) { blocked++ }
		})
	up.AnswerWith(func(w dns.ResponseWriter, q *dns.Msg) bool {
		if strings.HasPrefix(q.Question[0].Name, "bad") {
			w.WriteMsg(new(dns.Msg).SetRcode(q, dns.RcodeServerFailure))
			return true
		}
		return false
	})
	for range 5 {
		for name, want := range map[string]string{"www.example": "NOERROR", "casino.example": "NXDOMAIN", "bad.example": "SERVFAIL", "localhost": "NOERROR"} {
			if a, err := s.Query(t.Context(), anaFlow(), name, "A"); err != nil || a.Rcode != want || a.Cache == "hit" {
				t.Errorf("%s: got %+v, %v, want %s, not from the cache", name, a, err, want)
			}
		}
	}
	if entries, _ := s.cache.Sizes(); entries != 0 {
		t.Errorf("answers in the cache: got %d, want 0", entries)
	}
	if s.Names().Len() != 0 {
		t.Errorf("names: got %d, want 0", s.Names().Len())
	}
	if s.limits.clients.Len() != 0 {
		t.Errorf("clients whose rate is counted: got %d, want 0", s.limits.clients.Len())
	}
	if len(log.list) != 0 || blocked != 0 {
		t.Errorf("told of %d blocks and logged %q, want nothing", blocked, log.list)
	}
	for r := range resultCount {
		if got := testutil.ToFloat64(m.queries[r]); got != 0 {
			t.Errorf("queries %s: got %v, want 0", r, got)
		}
	}
}

// TestConfirm: what the resolver gives a client for a name, as if it had asked.
func TestConfirm(t *testing.T) {
	up := newResolver(t, "www.example. 300 IN A 203.0.113.1", "www.example. 300 IN A 203.0.113.2", "www.example. 300 IN AAAA 2001:db8::1",
		"shop.example. 300 IN CNAME tracker.example.", "tracker.example. 300 IN A 203.0.113.3", "rebind.example. 300 IN A 10.0.0.1")
	up.AnswerWith(func(w dns.ResponseWriter, q *dns.Msg) bool {
		if strings.HasPrefix(q.Question[0].Name, "bad") {
			w.WriteMsg(new(dns.Msg).SetRcode(q, dns.RcodeRefused))
			return true
		}
		return false
	})
	s := newServer(t, Settings{Upstreams: []Upstream{named("main", up)}}, judged(blocks(map[string]string{"tracker.example": "tracking"})))
	f := func(dst string) policy.Flow {
		return policy.Flow{Client: 7, Src: ana, Dst: netip.MustParseAddrPort(dst)}
	}
	for _, tt := range []struct{ says, dst, host, want string }{
		{"an IPv4 flow gets the IPv4 addresses", "192.168.50.10:443", "www.example", "[203.0.113.1 203.0.113.2] <nil>"},
		{"an IPv6 flow gets the IPv6 addresses", "[fd00::1]:443", "www.example", "[2001:db8::1] <nil>"},
		{"a mapped address is IPv4", "[::ffff:192.168.50.10]:443", "www.example", "[203.0.113.1 203.0.113.2] <nil>"},
		{"a name that does not exist has none", "192.168.50.10:443", "nobody.example", "[] <nil>"},
		{"a private address of a public name is none", "10.0.0.1:443", "rebind.example", "[] <nil>"},
		{"a blocked name is an error", "192.168.50.10:443", "tracker.example", "[] dnsproxy: confirm tracker.example: rule no-tracking blocks tracker.example"},
		{"a name on a blocked one is too", "192.168.50.10:443", "shop.example", "[] dnsproxy: confirm shop.example: rule no-tracking blocks tracker.example"},
		{"so is an upstream that fails", "192.168.50.10:443", "bad.example", "[] dnsproxy: confirm bad.example: REFUSED upstreams answered REFUSED"},
		{"so is a name that cannot be asked for", "192.168.50.10:443", strings.Repeat("a", 70) + ".example", "[] dnsproxy: query name "},
	} {
		addrs, err := s.Confirm(t.Context(), f(tt.dst), tt.host)
		if got := fmt.Sprint(addrs, " ", err); got != tt.want && !(strings.HasSuffix(tt.want, "name ") && strings.HasPrefix(got, tt.want)) {
			t.Errorf("%s: got %s, want %s", tt.says, got, tt.want)
		}
	}
	if got := s.Names().Lookup(7, netip.MustParseAddr("203.0.113.1")); len(got) != 1 || got[0].Host != "www.example" {
		t.Errorf("names after Confirm: got %v, want www.example", got)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	up.AnswerWith(func(dns.ResponseWriter, *dns.Msg) bool { return true })
	if _, err := s.Confirm(ctx, f("192.0.2.1:443"), "silent.example"); !errors.Is(err, context.Canceled) {
		t.Errorf("a flow that is over: got %v, want %v", err, context.Canceled)
	}
}

// TestConfirmTakesTheClientsShare: claims in flows are no way around the bounds.
func TestConfirmTakesTheClientsShare(t *testing.T) {
	up := newResolver(t)
	clock := newClock()
	s := newServer(t, Settings{Upstreams: []Upstream{named("main", up)}, ClientRate: 1}, at(clock))
	var last error
	for i := range 4 {
		_, last = s.Confirm(t.Context(), policy.Flow{Client: 7, Dst: netip.MustParseAddrPort("192.0.2.1:443")}, fmt.Sprintf("h%d.example", i))
	}
	if last == nil || !strings.Contains(last.Error(), "too many queries from this client") {
		t.Errorf("after too many claims: got %v", last)
	}
}
