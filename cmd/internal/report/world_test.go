package report

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"penstock/cmd/internal/config"
	"penstock/cmd/internal/edition"
	"penstock/cmd/internal/egress"
	"penstock/cmd/internal/gateway"
	"penstock/cmd/internal/laptop"
	"penstock/cmd/internal/lists"
	"penstock/dnsproxy"
	"penstock/dnsproxy/dnstest"
	"penstock/policy"
	"penstock/router"
	"penstock/stack"
	"penstock/stack/link"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// Unrelated keys.
const (
	ourKey = "yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk="
	anaKey = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg="
	bobKey = "QKLNDTphfWCUSf/SIXuO7CqhJDEhDFRw6cQ7RxUHPVo="
)

// text is a machine that is both laptop and gateway. UPSTREAM is a resolver on loopback. No
// server answers corp.
const text = `listen:
  tun: {routes: manual, dns: manual}
  wireguard: {address: 10.99.0.1/24, private_key: {file: our.key}}
state_dir: .
peers:
  - {name: ana, public_key: ` + anaKey + `, allowed_ips: 10.99.0.2/32, groups: [staff], rate: {up: 2Mbit}, quota: {monthly: 3GiB, over: 1Mbit}}
  - {name: bob, public_key: ` + bobKey + `, allowed_ips: 10.99.0.3/32, groups: [guests]}
  - {name: eve, public_key: ` + ourKey + `, allowed_ips: 10.99.0.4/32, disabled: true}
transports:
  corp: {wireguard: {config: corp.conf}}
  best: {failover: [corp]}
categories: {bets: {lists: [{file: bets.txt}]}}
dns:
  upstreams: [{address: "UPSTREAM"}]
  split:
    - {domains: [corp.example], upstream: {address: "UPSTREAM"}}
    - {domains: ["*.deep.corp.example"], upstream: {address: "UPSTREAM"}}
rules:
  - {name: no-bets, match: {category: bets}, do: block}
  - {name: night, match: {domain: games.example, schedule: "22:00-06:00"}, do: block}
  - {name: wiki, match: {domain: wiki.corp.example}, do: direct}
  - {name: files, match: {domain: files.example, seen_in: [sni]}, do: {via: corp, fallback: direct}}
  - {name: staff, match: {domain: staff.example, not: {group: [staff]}}, do: drop}
  - {name: lan, match: {cidr: private}, do: block}
  - {name: home, match: {cidr: 192.168.0.0/16}, do: direct}
  - {name: rest, do: direct}
`

// outer is the address of this machine on the fake network.
var outer = netip.MustParseAddr("198.51.100.1")

// outside is a network on which every address echoes.
type outside struct{ echo string }

func (o outside) DialContext(ctx context.Context, network, _ string) (net.Conn, error) {
	return new(net.Dialer).DialContext(ctx, strings.TrimRight(network, "46"), o.echo)
}
func (outside) Control(string, string, syscall.RawConn) error { return nil }
func (outside) Reserved(a netip.Addr) bool                    { return a == outer }
func (outside) Routed(netip.Addr) bool                        { return false }
func (outside) Close() error                                  { return nil }

// world holds all parts that reports describe, for one configuration. No transport runs.
type world struct {
	dir      string
	resolver *dnstest.Resolver
	live     *edition.Live
	egress   *egress.Egress
	server   *dnsproxy.Server

	dns     *DNS
	flows   *Flows
	policy  *Policy
	status  *Process
	peers   *Peers
	lists   *Lists
	steer   *Transports
	follows *laptop.Follower
}

func newWorld(t *testing.T, text string) *world {
	t.Helper()
	w := &world{dir: t.TempDir(), resolver: dnstest.New(t,
		"casino.example. 300 IN A 203.0.113.6", "games.example. 300 IN A 203.0.113.7", "wiki.corp.example. 300 IN A 10.0.0.5",
		"files.example. 300 IN A 203.0.113.8", "site.example. 300 IN A 203.0.113.9", "six.example. 300 IN AAAA 2001:db8::9", "staff.example. 300 IN A 203.0.113.10")}
	for name, text := range map[string]string{
		"our.key": ourKey, "ana.password": "secret-of-ana", "bets.txt": "# bets\ncasino.example\n203.0.113.66\n",
		"corp.conf": "[Interface]\nPrivateKey = " + ourKey + "\nAddress = 10.8.0.2/32\n[Peer]\nPublicKey = " + anaKey +
			"\nEndpoint = 127.0.0.1:9\nAllowedIPs = 0.0.0.0/0\n",
	} {
		w.write(t, name, text)
	}
	log := slog.New(slog.DiscardHandler)
	w.live = edition.NewLive(lists.Config{Log: log})
	first := w.use(t, text)

	tun, far := link.Pipe(1500)
	t.Cleanup(func() { tun.Close(); far.Close() })
	direct := outside{echo(t)}
	l, err := laptop.New(laptop.Config{Config: first.Config, TUN: tun, Direct: direct})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(false); err != nil {
			t.Error(err)
		}
	})
	w.egress, err = egress.Open(t.Context(), egress.Config{
		Plan: first.Egress, Outside: l.Outside(), Hold: time.Minute, Changed: func() { w.follows.TransportChanged() }, Renamed: func() {},
		Reset: func(string) int { return 0 }, Servers: func(string) []netip.AddrPort { return nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.egress.Close(); err != nil {
			t.Error(err)
		}
	})
	w.follows = l.Follow(core{w.live}, w.egress)

	plan, settings, err := first.CompileDNS(w.egress.Naming(), nil)
	if err != nil {
		t.Fatal(err)
	}
	w.server, err = dnsproxy.New(dnsproxy.Config{Policy: w.live}, plan)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { _ = w.server.Run(ctx) })
	t.Cleanup(func() { cancel(); wg.Wait() })

	w.flows = new(Flows)
	w.flows.Router, err = router.New(router.Config{Policy: w.live, Clients: who{w}, Ways: ways{w.egress, w.place}, Ended: w.flows.Add})
	if err != nil {
		t.Fatal(err)
	}
	var port *gateway.Gateway
	if first.Gateway != nil {
		port, err = gateway.Open(gateway.Config{Plan: first.Gateway, Peer: w.live.Peer, Handle: stack.Waiting(func(context.Context, *stack.Request) {})})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := port.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	w.dns = &DNS{Server: w.server, Live: w.live, Settings: func() dnsproxy.Settings { return settings }, Log: log}
	w.policy = &Policy{Live: w.live, Egress: w.egress, DNS: w.dns, Flows: w.flows, Place: w.place, Log: log}
	w.status = &Process{Live: w.live, Egress: w.egress, Laptop: l, Follow: w.follows, Gateway: port, Flows: w.flows, Started: time.Now(), Version: "test"}
	w.peers = &Peers{Live: w.live, Gateway: port}
	w.lists = &Lists{Live: w.live, Log: log}
	w.steer = &Transports{Egress: w.egress, Follow: w.follows}
	return w
}

func (w *world) write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(w.dir, name), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// use puts the edition of a configuration in force.
func (w *world) use(t *testing.T, text string) *edition.Edition {
	t.Helper()
	w.write(t, "p.yaml", strings.ReplaceAll(text, "UPSTREAM", w.resolver.Addr.String()))
	cfg, err := config.Load(filepath.Join(w.dir, "p.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	if l := cfg.Listen.WireGuard; l != nil {
		l.ListenPort = 0 // the system chooses
	}
	e, err := w.live.Compile(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	w.live.Use(e)
	return w.live.Now()
}

// place returns the same as the daemon for a destination.
func (w *world) place(client uint64, dst netip.Addr) policy.Place {
	return w.live.Now().PlaceFor(client, dst, func(a netip.Addr) bool { return a == outer })
}

// core is a daemon that only judges.
type core struct{ live *edition.Live }

func (c core) Config() *config.Config                 { return c.live.Config() }
func (c core) Change(change func(*policy.Conditions)) { c.live.SetConditions(change) }
func (c core) Conditions() *policy.Conditions         { return c.live.Conditions() }
func (c core) IsInside(string) bool                   { return false }
func (c core) Inside() []netip.Prefix                 { return nil }
func (c core) FreshenDNS()                            {}

// who describes clients like the daemon.
type who struct{ w *world }

func (c who) Describe(f *policy.Flow) bool { return c.w.live.Describe(f) }
func (c who) Names(f *policy.Flow) (release func()) {
	release = c.w.server.Names().Pin(f.Client, f.Dst.Addr())
	f.Names = c.w.server.Names().Lookup(f.Client, f.Dst.Addr())
	return release
}
func (c who) Confirm(ctx context.Context, f policy.Flow, host string) ([]netip.Addr, error) {
	return c.w.server.Confirm(ctx, f, host)
}

// ways are the ways out.
type ways struct {
	*egress.Egress
	place func(uint64, netip.Addr) policy.Place
}

func (w ways) Dialer(name string) (router.Dialer, bool)         { return w.Egress.Dialer(name) }
func (w ways) Place(client uint64, dst netip.Addr) policy.Place { return w.place(client, dst) }

// echo is an echo server on loopback.
func echo(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { defer c.Close(); io.Copy(c, c) })
		}
	})
	t.Cleanup(func() { ln.Close(); wg.Wait() })
	return ln.Addr().String()
}

// answer is the client of a flow. It records how it was answered.
type answer struct {
	near, far net.Conn
	got       chan string
}

func (a *answer) Accept() (net.Conn, error) { a.got <- "accepted"; return a.near, nil }
func (a *answer) Refuse()                   { a.got <- "refused" }
func (a *answer) Unreachable(err error)     { a.got <- err.Error() }
func (a *answer) Drop()                     { a.got <- "dropped" }

// flow sends a flow of this machine through the router, to a port on which servers speak first. It returns the client's end and
// how it was answered.
func (w *world) flow(t *testing.T, client uint64, src, dst string) (net.Conn, string) {
	t.Helper()
	near, far := net.Pipe()
	a := &answer{near: near, far: far, got: make(chan string, 2)}
	var wg sync.WaitGroup
	ctx, cancel := context.WithCancel(t.Context())
	wg.Go(func() {
		w.flows.Router.Handle(ctx, router.Request{Network: policy.TCP, Client: client, Src: netip.MustParseAddrPort(src), Dst: netip.MustParseAddrPort(dst), Answer: a})
	})
	t.Cleanup(func() { cancel(); far.Close(); near.Close(); wg.Wait() })
	select {
	case got := <-a.got:
		return far, got
	case <-time.After(10 * time.Second):
		t.Fatal("the flow was not answered")
		return nil, ""
	}
}

// contains reports whether an entry of a list contains a text.
func contains(list []string, words string) bool {
	return slices.ContainsFunc(list, func(s string) bool { return strings.Contains(s, words) })
}
