package dnsproxy

import (
	"context"
	"crypto/x509"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
	"go.uber.org/goleak"

	"penstock/dnsproxy/dnstest"
	"penstock/dnsproxy/names"
	"penstock/policy"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// ana is the client of most tests.
var ana = netip.MustParseAddrPort("10.77.0.2:40000")

// newResolver starts a resolver for records such as "www.example. 300 IN A 203.0.113.1".
func newResolver(t testing.TB, records ...string) *dnstest.Resolver {
	return dnstest.New(t, records...)
}

// named is a resolver as an upstream.
func named(name string, r *dnstest.Resolver) Upstream {
	return Upstream{Name: name, Address: r.Addr.String()}
}

// setup is what a test server is made of.
type setup struct {
	Config
	clock *clock
}

// Options of a test server.

// judged judges names and hints with decide. A hint is told from a question by its address.
func judged(decide func(policy.Flow) policy.Verdict) func(*setup) {
	return func(s *setup) { s.Policy = judge(decide) }
}

type judge func(policy.Flow) policy.Verdict

func (j judge) Decide(f policy.Flow) policy.Verdict     { return j(f) }
func (j judge) DecideName(f policy.Flow) policy.Verdict { return j(f) }

func described(f func(netip.AddrPort) policy.Flow) func(*setup) {
	return func(s *setup) { s.Clients = book(f) }
}

type book func(netip.AddrPort) policy.Flow

func (b book) Describe(src netip.AddrPort) policy.Flow { return b(src) }

func at(c *clock) func(*setup) { return func(s *setup) { s.clock = c } }

func trusting(pool *x509.CertPool) func(*setup) { return func(s *setup) { s.RootCAs = pool } }

// through dials upstreams via "way" with d, and others as the host does.
func through(d Dialer) func(*setup) {
	return func(s *setup) {
		s.Dialer = func(via string) (Dialer, bool) {
			if via == "way" {
				return d, true
			}
			return &net.Dialer{}, via == ""
		}
	}
}

// makeServer makes a server that does not run.
func makeServer(t testing.TB, set Settings, options ...func(*setup)) *Server {
	t.Helper()
	var with setup
	for _, option := range options {
		option(&with)
	}
	s, err := New(with.Config, plan(t, set))
	if err != nil {
		t.Fatal(err)
	}
	if with.clock != nil {
		s.clock, s.names = with.clock.now, names.New(with.MaxNames, with.clock.now)
	}
	return s
}

func plan(t testing.TB, set Settings) *Plan {
	t.Helper()
	p, err := Compile(set)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// newServer makes a server and runs it until the test ends.
func newServer(t testing.TB, set Settings, options ...func(*setup)) *Server {
	t.Helper()
	s := makeServer(t, set, options...)
	ctx, cancel := contextOf(t)
	var wg sync.WaitGroup
	wg.Go(func() { s.Run(ctx) })
	t.Cleanup(func() {
		cancel()
		wg.Wait()
	})
	return s
}

// exchangePacket sends a query as a datagram of client and waits for the answer.
func exchangePacket(t testing.TB, s *Server, client netip.AddrPort, q *dns.Msg) *dns.Msg {
	t.Helper()
	wire, err := q.Pack()
	if err != nil {
		t.Fatal(err)
	}
	answers := make(chan *dns.Msg, 1)
	s.ServePacket(t.Context(), client, wire, func(msg []byte) error {
		a := new(dns.Msg)
		if err := a.Unpack(msg); err != nil {
			t.Errorf("answer does not parse: %v", err)
		}
		answers <- a
		return nil
	})
	select {
	case a := <-answers:
		return a
	case <-time.After(8 * time.Second):
		t.Errorf("no answer to %s", q.Question[0].String()) // not Fatal: some tests ask from goroutines of their own
		return new(dns.Msg)
	}
}

// ask asks for a name and type with EDNS, as most clients do.
func ask(t testing.TB, s *Server, name, qtype string) *dns.Msg {
	t.Helper()
	return exchangePacket(t, s, ana, query(name, qtype))
}

func query(name, qtype string) *dns.Msg { return dnstest.Query(name, qtype) }

func brief(a *dns.Msg) string { return dnstest.Brief(a) }

// blocks refuses the hosts and all below them, with their categories, and forwards the rest.
func blocks(hosts map[string]string) func(policy.Flow) policy.Verdict {
	return func(f policy.Flow) policy.Verdict {
		for host, category := range hosts {
			if len(f.Names) > 0 && below(f.Names[0].Host, host) {
				return policy.Verdict{Action: policy.Refuse, Rule: "no-" + category, Category: category}
			}
		}
		return policy.Verdict{Action: policy.Forward, Egress: "direct", Rule: "rest"}
	}
}

// anaFlow is what is known of ana.
func anaFlow() policy.Flow { return policy.Flow{Src: ana} }

// contextOf returns a context for what a test starts. That of the test itself ends before its cleanups run.
func contextOf(testing.TB) (context.Context, context.CancelFunc) {
	return context.WithCancel(context.Background())
}
