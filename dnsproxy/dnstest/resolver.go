// Package dnstest imitates the resolvers that a DNS server asks: real ones on loopback that answer from a few records, over every
// protocol, and that can be told to misbehave.
//
// It is for tests only, and imitates no client.
package dnstest

import (
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"github.com/miekg/dns"
)

// Resolver is a real DNS server on loopback, over UDP and TCP, that answers from a zone file.
type Resolver struct {
	Addr netip.AddrPort

	mu      sync.Mutex // guards below
	records map[string][]dns.RR
	seen    []*dns.Msg
	ports   []uint16
	handle  func(w dns.ResponseWriter, q *dns.Msg) bool // says whether it answered
}

// New starts a resolver for records such as "www.example. 300 IN A 203.0.113.1".
func New(t testing.TB, records ...string) *Resolver {
	t.Helper()
	r := &Resolver{records: map[string][]dns.RR{}}
	r.Add(t, records...)
	pc, ln := TwoSockets(t)
	r.Addr = pc.LocalAddr().(*net.UDPAddr).AddrPort()
	Serve(t, &dns.Server{PacketConn: pc, Handler: r})
	Serve(t, &dns.Server{Listener: ln, Handler: r})
	return r
}

// TwoSockets returns a UDP and a TCP socket on one port. A port that is free for one kind may be taken for the other.
func TwoSockets(t testing.TB) (net.PacketConn, net.Listener) {
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

// Serve runs a server until the test ends.
func Serve(t testing.TB, server *dns.Server) {
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

// Add adds records.
func (r *Resolver) Add(t testing.TB, records ...string) {
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

// AnswerWith makes the resolver answer with f; if f returns false the records do.
func (r *Resolver) AnswerWith(f func(w dns.ResponseWriter, q *dns.Msg) bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.handle = f
}

// ServeDNS answers one query.
func (r *Resolver) ServeDNS(w dns.ResponseWriter, q *dns.Msg) {
	r.mu.Lock()
	r.seen = append(r.seen, q.Copy())
	r.ports = append(r.ports, portOf(w.RemoteAddr()))
	handle := r.handle
	r.mu.Unlock()
	if handle != nil && handle(w, q) {
		return
	}
	a := r.Reply(q)
	if _, udp := w.RemoteAddr().(*net.UDPAddr); udp {
		size := dns.MinMsgSize
		if opt := q.IsEdns0(); opt != nil {
			size = int(opt.UDPSize())
		}
		a.Truncate(size)
	}
	w.WriteMsg(a)
}

// Reply answers q from the records as a resolver would: with the whole chain, or an SOA.
func (r *Resolver) Reply(q *dns.Msg) *dns.Msg {
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

// Queries returns what was asked so far.
func (r *Resolver) Queries() []*dns.Msg {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]*dns.Msg(nil), r.seen...)
}

// Ports returns the ports that queries came from so far.
func (r *Resolver) Ports() []uint16 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]uint16(nil), r.ports...)
}

func portOf(a net.Addr) uint16 {
	if at, ok := a.(interface{ AddrPort() netip.AddrPort }); ok {
		return at.AddrPort().Port()
	}
	return 0
}

// ClosedPort returns an address where nobody listens.
func ClosedPort(t testing.TB) string {
	t.Helper()
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer pc.Close()
	return pc.LocalAddr().String()
}

// Query asks for a name and type with EDNS, as most clients do.
func Query(name, qtype string) *dns.Msg {
	return new(dns.Msg).SetQuestion(dns.Fqdn(name), dns.StringToType[qtype]).SetEdns0(1232, false)
}

// Brief renders an answer in one line: response code, data of the answers in order, "soa" for a negative one, extended error.
func Brief(a *dns.Msg) string {
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
