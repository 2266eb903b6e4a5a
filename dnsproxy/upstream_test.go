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
