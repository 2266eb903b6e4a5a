package e2e

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"

	"penstock/e2e/netlab"
)

// Limits that two clients can meet, and rules by which a name that was resolved opens an address.
const narrow = `limits: {udp_flows: 100, udp_flows_per_client: 20, tcp_flows: 100, dials: 60}
rules:
  - {name: intranet, match: {cidr: [10.20.0.0/24, "fd20::/64", "2001:db8:113::254/128"]}, do: direct}
  - {name: named, match: {domain: public.example}, do: direct}
  - {name: rest, do: block}
`

// greedySources is how many addresses of its /64 the greedy peer sends from.
const greedySources = 300

// laptop: wireguard-go, an honest peer \
//
//	access: wireguard-go, a greedy peer with a /64  === WireGuard ===> [penstock, narrow limits] gateway --- intranet
func TestOnePeerDoesNotTakeAnothersShare(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	greedyKey, greedyPublic := keyPair(t)
	w.edit(t, "gateway.yaml", rulesOf(t, w, "gateway.yaml"), narrow)
	w.edit(t, "gateway.yaml", "peers:\n", "peers:\n  - {name: greedy, public_key: "+greedyPublic+", allowed_ips: [\"fd99:0:0:2::/64\"]}\n")
	w.write(t, "greedy.conf", strings.NewReplacer(w.fill.Replace("PrivateKey = LAPTOP_KEY"), "PrivateKey = "+greedyKey,
		"Address = 10.99.0.2/32, fd99::2/128", "Address = fd99:0:0:2::1/128").Replace(w.read(t, "corp.conf")))
	w.gateway = start(t, w.Gateway, w.path("gateway.yaml"))
	stock(t, w.Laptop, w.path("corp.conf"), "10.99.0.0/24", "10.20.0.0/24", "203.0.113.0/24")
	stock(t, w.Access, w.path("greedy.conf"), "fd99::/64", "fd20::/64", "2001:db8:113::254/128")
	for _, words := range []string{"sysctl -qw net.ipv6.ip_nonlocal_bind=1", "ip -6 route add local fd99:0:0:2::/64 dev lo"} {
		fields := strings.Fields(words)
		if r := run(t, w.Access, program(t, fields[0]), fields[1:]...); r.code != 0 {
			t.Fatalf("%s: %s", words, r)
		}
	}
	g := &greedy{w}

	t.Run("names", func(t *testing.T) {
		if r := run(t, w.Laptop, program(t, "dig"), "+short", "@"+gatewayInner4, netlab.PublicSite); !strings.Contains(r.stdout, publicIPv4) {
			t.Fatalf("dig: %s", r)
		}
		opened := attempt{"", "curl https://203.0.113.10/", "this is 203.0.113.10\n", nil}
		opened.on(t, w.Laptop)
		g.fillNames(t)
		opened.on(t, w.Laptop)
		attempt{"", "curl https://203.0.113.11/", "", refusedOrCutOff()}.on(t, w.Laptop) // or the rules prove nothing
	})
	t.Run("UDP flows", func(t *testing.T) {
		before := g.honestUDP(t)
		for i := range greedySources {
			g.datagram(t, i)
		}
		eventually(t, "the greedy peer holds many", func() error {
			if n := len(g.flows(t, "greedy", "udp")); n < 70 {
				return fmt.Errorf("it holds %d", n)
			}
			return nil
		})
		if now := g.flows(t, "laptop", "udp"); !slices.Equal(now, before) {
			t.Errorf("the honest peer had flows %v, has %v", before, now)
		}
	})
	t.Run("TCP flows", func(t *testing.T) {
		conns := g.connect(t, "[fd20::10]:7", greedySources)
		if n := len(g.flows(t, "greedy", "tcp")); n < 60 || n > 100 {
			t.Errorf("the greedy peer has %d flows, want what nobody else needs", n)
		}
		for i := range 20 {
			c := dial(t, w.Laptop, "tcp", netlab.IntranetIPv4+":7")
			if _, err := c.Write([]byte("here")); err != nil {
				t.Fatal(err)
			}
			if n, err := io.ReadFull(c, make([]byte, 4)); n != 4 {
				t.Fatalf("connection %d of the honest peer: got %d bytes, %v; want 4", i, n, err)
			}
		}
		for _, c := range conns {
			c.Close()
		}
		eventually(t, "they have ended", func() error {
			if n := len(g.flows(t, "greedy", "tcp")); n > 0 {
				return fmt.Errorf("%d are left", n)
			}
			return nil
		})
	})
	t.Run("dials", func(t *testing.T) {
		over := g.hang(t)
		defer over()
		for i := range 10 {
			if r := run(t, w.Laptop, program(t, "curl"), "-sS", "--max-time", "3", "http://10.20.0.10/"); r.code != 0 {
				t.Fatalf("dial %d of the honest peer: %s", i, r)
			}
		}
	})
}

// greedy is a peer that takes what it can, from all addresses of its /64, on the access router.
type greedy struct{ *world }

// source is one of its addresses.
func (g *greedy) source(i int) netip.Addr {
	a := netip.MustParseAddr("fd99:0:0:2::").As16()
	binary.BigEndian.PutUint16(a[14:], uint16(i+2))
	return netip.AddrFrom16(a)
}

// flows lists the IDs of a peer's live flows.
func (g *greedy) flows(t *testing.T, peer, proto string) (ids []string) {
	t.Helper()
	for _, f := range g.gateway.flows(t) {
		if f.Peer == peer && f.Proto == proto && strings.HasSuffix(f.Dst, ":7") {
			ids = append(ids, f.ID)
		}
	}
	slices.Sort(ids)
	return ids
}

// honestUDP opens the honest peer's UDP flows, fewer than its share.
func (g *greedy) honestUDP(t *testing.T) []string {
	t.Helper()
	const honest = 15
	for range honest {
		c := dial(t, g.Laptop, "udp", netlab.IntranetIPv4+":7")
		if _, err := c.Write([]byte("here")); err != nil {
			t.Fatal(err)
		}
		if n, err := c.Read(make([]byte, 9)); n != 4 {
			t.Fatalf("got %d bytes, %v; want 4", n, err)
		}
	}
	ids := g.flows(t, "laptop", "udp")
	if len(ids) != honest {
		t.Fatalf("the honest peer has %d flows, want %d", len(ids), honest)
	}
	return ids
}

// datagram sends one from source i, and waits for its echo.
func (g *greedy) datagram(t *testing.T, i int) {
	t.Helper()
	c, err := g.Access.DialFrom(t.Context(), g.source(i), "udp", "[fd20::10]:7")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	within(t, c)
	if _, err := c.Write([]byte("mine")); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Read(make([]byte, 9)); err != nil {
		t.Fatalf("from %s: %v", g.source(i), err)
	}
}

// connect opens n connections, each from another address, and returns those that were made.
func (g *greedy) connect(t *testing.T, address string, n int) (conns []net.Conn) {
	t.Helper()
	var mu sync.Mutex // guards conns
	var over sync.WaitGroup
	for i := range n {
		over.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), tries)
			defer cancel()
			c, err := g.Access.DialFrom(ctx, g.source(i), "tcp", address)
			if err != nil {
				return // refused, as most are
			}
			mu.Lock()
			defer mu.Unlock()
			conns = append(conns, c)
		})
	}
	over.Wait()
	t.Cleanup(func() {
		for _, c := range conns {
			c.Close()
		}
	})
	return conns
}

// hang begins connections to a dead host, and returns how to give them up.
func (g *greedy) hang(t *testing.T) (over func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var all sync.WaitGroup
	for i := range greedySources {
		all.Go(func() {
			if c, err := g.Access.DialFrom(ctx, g.source(i), "tcp", "["+netlab.DeadIPv6+"]:22"); err == nil {
				c.Close()
			}
		})
	}
	eventually(t, "the greedy peer's dials hang", func() error {
		n := 0
		for _, f := range g.gateway.flows(t) {
			if f.Peer == "greedy" && f.Dst == "["+netlab.DeadIPv6+"]:22" {
				n++
			}
		}
		if n < 30 {
			return fmt.Errorf("%d of them", n)
		}
		return nil
	})
	return func() { cancel(); all.Wait() }
}

// fillNames resolves so many names that they would fill a table that all clients shared.
func (g *greedy) fillNames(t *testing.T) {
	t.Helper()
	const names, addrs = 1500, 50
	for i := range names {
		for j := range addrs {
			n := i*addrs + j
			if err := g.PublicDNS.Add(fmt.Sprintf("n%d.example. 600 IN A 11.%d.%d.%d", i, n>>16, n>>8&255, n&255)); err != nil {
				t.Fatal(err)
			}
		}
	}
	conn, err := g.Access.DialContext(t.Context(), "udp", "[fd99::1]:53")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	client := &dns.Client{Timeout: 2 * time.Second, UDPSize: 1232}
	for i := range names {
		q := new(dns.Msg).SetQuestion(fmt.Sprintf("n%d.example.", i), dns.TypeA)
		q.SetEdns0(1232, false)
		a, _, err := client.ExchangeWithConn(q, &dns.Conn{Conn: conn, UDPSize: 1232})
		if err != nil || len(a.Answer) != addrs {
			t.Fatalf("name %d: %v, %v; want %d addresses", i, a, err, addrs)
		}
	}
}
