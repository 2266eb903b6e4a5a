package dnsproxy

import (
	"context"
	"crypto/x509"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
	"go.uber.org/goleak"

	"penstock/policy"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// ana is the client of most tests.
var ana = netip.MustParseAddrPort("10.77.0.2:40000")

// resolver is a real DNS server on loopback, over UDP and TCP, that answers from a zone file.
type resolver struct {
	addr netip.AddrPort

	mu      sync.Mutex // guards below
	records map[string][]dns.RR
	seen    []*dns.Msg
	ports   []uint16
	handle  func(w dns.ResponseWriter, q *dns.Msg) bool // says whether it answered
}

// newResolver starts a resolver for records such as "www.example. 300 IN A 203.0.113.1".
func newResolver(t testing.TB, records ...string) *resolver {
	t.Helper()
	r := &resolver{records: map[string][]dns.RR{}}
	r.add(t, records...)
	pc, ln := twoSockets(t)
	r.addr = pc.LocalAddr().(*net.UDPAddr).AddrPort()
	serveDNS(t, &dns.Server{PacketConn: pc, Handler: r})
	serveDNS(t, &dns.Server{Listener: ln, Handler: r})
	return r
}

// twoSockets are a UDP and a TCP socket on one port. A port that is free for one kind may be taken for the other.
func twoSockets(t testing.TB) (net.PacketConn, net.Listener) {
	t.Helper()
	var err error
	for range 20 {
		var pc net.PacketConn
		if pc, err = net.ListenPacket("udp", "127.0.0.1:0"); err != nil {
			break
		}
		var ln net.Listener
		if ln, err = net.Listen("tcp", pc.LocalAddr().String()); err == nil {
			return pc, ln
		}
		pc.Close()
	}
	t.Fatal(err)
	return nil, nil
}

func serveDNS(t testing.TB, server *dns.Server) {
	t.Helper()
	started, ended := make(chan struct{}), make(chan struct{})
	server.NotifyStartedFunc = func() { close(started) }
	go func() {
		defer close(ended)
		server.ActivateAndServe()
	}()
	<-started
	t.Cleanup(func() {
		server.Shutdown()
		<-ended
	})
}

func (r *resolver) add(t testing.TB, records ...string) {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range records {
		rr, err := dns.NewRR(s)
		if err != nil {
			t.Fatalf("record %q: %v", s, err)
		}
		name := strings.ToLower(rr.Header().Name)
		r.records[name] = append(r.records[name], rr)
	}
}

// answerWith makes the resolver answer with f; if f returns false the records do.
func (r *resolver) answerWith(f func(w dns.ResponseWriter, q *dns.Msg) bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.handle = f
}

func (r *resolver) ServeDNS(w dns.ResponseWriter, q *dns.Msg) {
	r.mu.Lock()
	r.seen = append(r.seen, q.Copy())
	r.ports = append(r.ports, addrPort(w.RemoteAddr()).Port())
	handle := r.handle
	r.mu.Unlock()
	if handle != nil && handle(w, q) {
		return
	}
	a := r.reply(q)
	if _, udp := w.RemoteAddr().(*net.UDPAddr); udp {
		size := dns.MinMsgSize
		if opt := q.IsEdns0(); opt != nil {
			size = int(opt.UDPSize())
		}
		a.Truncate(size)
	}
	w.WriteMsg(a)
}

// reply answers q from the records as a resolver would: with the whole chain, or an SOA.
func (r *resolver) reply(q *dns.Msg) *dns.Msg {
	r.mu.Lock()
	defer r.mu.Unlock()
	a := new(dns.Msg).SetReply(q)
	a.RecursionAvailable = true
	name, exists := strings.ToLower(q.Question[0].Name), false
	for range 8 {
		next := ""
		for _, rr := range r.records[name] {
			exists = true
			if c, is := rr.(*dns.CNAME); is {
				next = strings.ToLower(c.Target)
				a.Answer = append(a.Answer, dns.Copy(rr))
			} else if rr.Header().Rrtype == q.Question[0].Qtype {
				a.Answer = append(a.Answer, dns.Copy(rr))
			}
		}
		if next == "" {
			break
		}
		name = next
	}
	if !exists {
		a.Rcode = dns.RcodeNameError
	}
	if len(a.Answer) == 0 {
		soa, _ := dns.NewRR("example. 300 IN SOA ns.example. root.example. 1 3600 600 86400 60")
		a.Ns = []dns.RR{soa}
	}
	return a
}

func (r *resolver) queries() []*dns.Msg {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]*dns.Msg(nil), r.seen...)
}

func (r *resolver) upstream(name string) Upstream {
	return Upstream{Name: name, Address: r.addr.String()}
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
		s.clock, s.names.clock = with.clock.now, with.clock.now
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

func query(name, qtype string) *dns.Msg {
	return new(dns.Msg).SetQuestion(dns.Fqdn(name), dns.StringToType[qtype]).SetEdns0(1232, false)
}

// brief renders an answer in one line: response code, data of the answers in order, "soa" for a negative one, extended error.
func brief(a *dns.Msg) string {
	parts := []string{dns.RcodeToString[a.Rcode]}
	for _, rr := range a.Answer {
		parts = append(parts, strings.TrimPrefix(rr.String(), rr.Header().String()))
	}
	for _, rr := range a.Ns {
		parts = append(parts, strings.ToLower(dns.TypeToString[rr.Header().Rrtype]))
	}
	if opt := a.IsEdns0(); opt != nil {
		for _, o := range opt.Option {
			if e, is := o.(*dns.EDNS0_EDE); is {
				parts = append(parts, "ede"+strings.TrimSpace(dns.ExtendedErrorCodeToString[e.InfoCode]))
			}
		}
	}
	return strings.Join(parts, " ")
}

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
