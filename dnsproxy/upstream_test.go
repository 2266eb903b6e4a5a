package dnsproxy

import (
	"context"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"

	"penstock/dnsproxy/dnstest"
)

// TestUnrelatedRecords: what an upstream adds to its answer without being asked is not given on and not remembered.
func TestUnrelatedRecords(t *testing.T) {
	up := newResolver(t)
	up.AnswerWith(func(w dns.ResponseWriter, q *dns.Msg) bool {
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
	s := newServer(t, Settings{Upstreams: []Upstream{named("main", up)}})
	if got, want := brief(ask(t, s, "www.example", "A")), "NOERROR 203.0.113.1"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if got := s.Names().Lookup(AddressKey(ana.Addr()), netip.MustParseAddr("198.51.100.66")); got != nil {
		t.Errorf("names of the smuggled address: got %v", got)
	}
}

// TestCoalescing: fifty identical queries at once are one query upstream, and all are answered.
func TestCoalescing(t *testing.T) {
	up := newResolver(t, "www.example. 300 IN A 203.0.113.1")
	release := make(chan struct{})
	up.AnswerWith(func(dns.ResponseWriter, *dns.Msg) bool { <-release; return false })
	s := newServer(t, Settings{Upstreams: []Upstream{named("main", up)}})
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
	if got := len(up.Queries()); got > 3 {
		t.Errorf("upstream queries: got %d, want at most 3", got)
	}
}

// TestSilentUpstream: a client has its answer in bounded time, and the failure is remembered.
func TestSilentUpstream(t *testing.T) {
	up := newResolver(t)
	up.AnswerWith(func(dns.ResponseWriter, *dns.Msg) bool { return true })
	s := newServer(t, Settings{Upstreams: []Upstream{named("main", up)}, Timeout: 200 * time.Millisecond})
	for range 2 {
		if got, want := brief(ask(t, s, "www.example", "A")), "SERVFAIL edeNetwork Error"; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	if got := len(up.Queries()); got != 1 {
		t.Errorf("upstream queries: got %d, want 1", got)
	}
}

// TestLoop: an upstream that leads back here is an error when it can be seen, and a SERVFAIL when it shows.
func TestLoop(t *testing.T) {
	own := netip.MustParseAddrPort("127.0.0.1:53")
	_, err := Compile(Settings{Upstreams: []Upstream{{Address: "127.0.0.1"}}, Self: []netip.AddrPort{own}})
	if err == nil || !strings.Contains(err.Error(), "leads back to this server at 127.0.0.1:") {
		t.Errorf("own address as upstream: got %v", err)
	}
	_, err = Compile(Settings{Upstreams: []Upstream{{Address: "127.0.0.1:5353"}}, Self: []netip.AddrPort{netip.AddrPortFrom(own.Addr(), 0)}})
	if err == nil || !strings.Contains(err.Error(), "leads back to this server at 127.0.0.1:") {
		t.Errorf("own address with any port as upstream: got %v", err)
	}

	var server atomic.Pointer[Server]
	back := func(id func(uint16) uint16) *dnstest.Resolver {
		up := newResolver(t)
		up.AnswerWith(func(w dns.ResponseWriter, q *dns.Msg) bool {
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
		s := newServer(t, Settings{Upstreams: []Upstream{named("loop", up)}, Timeout: 500 * time.Millisecond})
		server.Store(s)
		if got := ask(t, s, "www.example", "A").Rcode; got != dns.RcodeServerFailure {
			t.Errorf("%s: got %s, want SERVFAIL", says, dns.RcodeToString[got])
		}
		if got := len(up.Queries()); got > 3 {
			t.Errorf("%s: %d queries went round, want at most 3", says, got)
		}
	}
}
