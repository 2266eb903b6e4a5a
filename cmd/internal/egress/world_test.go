package egress

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"penstock/cmd/internal/config"
	"penstock/router/transport"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// Unrelated keys.
const (
	ourKey    = "yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk="
	serverKey = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg="
)

// corpConf is a wg-quick file that sends everything into the tunnel, by IPv4.
const corpConf = `[Interface]
PrivateKey = ` + ourKey + `
Address = 10.8.0.2/32
DNS = 10.0.0.53, corp.example
[Peer]
PublicKey = ` + serverKey + `
Endpoint = 192.0.2.1:51820
AllowedIPs = 0.0.0.0/0, 10.20.0.0/16
`

// officeConf sends one network into the tunnel, and has IPv6.
const officeConf = `[Interface]
PrivateKey = ` + ourKey + `
Address = 10.9.0.2/32, fd09::2/128
Table = off
[Peer]
PublicKey = ` + serverKey + `
Endpoint = vpn.example:51820
AllowedIPs = 10.30.0.0/16, fd30::/64
`

// load reads a configuration with these transports. The files corp.conf and office.conf exist.
func load(t *testing.T, transports string) *config.Config {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{
		"corp.conf": corpConf, "office.conf": officeConf, "bad.conf": "[Interface]\nMTU = 12\n", "our.key": ourKey,
		"p.yaml": "listen: {tun: {routes: manual, dns: manual}}\ntransports:\n" + transports + "rules: [{name: rest, do: direct}]\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cfg, err := config.Load(filepath.Join(dir, "p.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

const (
	corp   = "  corp: {wireguard: {config: corp.conf}}\n"
	office = "  office: {wireguard: {config: office.conf}}\n"
	best   = "  best: {failover: [corp, office]}\n"
)

func planOf(t *testing.T, transports string) *Plan {
	t.Helper()
	p, err := NewPlan(load(t, transports))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// network is a fake network. It connects a dial to one of its addresses to another address on loopback, and records it.
type network struct {
	Plain
	leads map[string]string // "10.0.0.53:53" to an address on loopback

	mu      sync.Mutex // guards below
	dialled []string
}

func (n *network) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	n.mu.Lock()
	n.dialled = append(n.dialled, network+" "+address)
	n.mu.Unlock()
	to, ok := n.leads[address]
	if !ok {
		return nil, &net.OpError{Op: "dial", Net: network, Err: syscall.ECONNREFUSED}
	}
	return new(net.Dialer).DialContext(ctx, strings.TrimRight(network, "46"), to)
}

// seen returns the dials since the last call.
func (n *network) seen() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	list := strings.Join(n.dialled, ", ")
	n.dialled = nil
	return list
}

// driver is a transport.Driver that connects at once or never.
type driver struct {
	err      error
	received atomic.Uint64
}

func (d *driver) Connect(context.Context) error {
	if d.err == nil {
		d.received.Add(1)
	}
	return d.err
}
func (*driver) Probe(context.Context) error { return nil }
func (*driver) Rebind() error               { return nil }
func (d *driver) Stats() transport.Stats    { return transport.Stats{RxBytes: d.received.Load()} }
func (*driver) Close() error                { return nil }

// fakeInside is the inner part of a transport into a fake network.
type fakeInside struct {
	inner
	network *network
	err     error // of connecting
}

func (f *fakeInside) newDriver(func(error)) (transport.Driver, error) {
	return &driver{err: f.err}, nil
}
func (f *fakeInside) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	return f.network.DialContext(ctx, network, address)
}

var errUnreachable = errors.New("no answer")

// opened opens a plan and runs nothing.
func opened(t *testing.T, p *Plan, change func(*Config)) *Egress {
	t.Helper()
	c := Config{
		Plan: p, Hold: time.Second, Renamed: func() {}, Changed: func() {},
		Outside: Outside{Direct: &network{}, Resolve: func(_ context.Context, name string) ([]netip.Addr, error) {
			return nil, &net.DNSError{Err: "no such host", Name: name, IsNotFound: true}
		}},
		Servers: func(string) []netip.AddrPort { return nil }, Reset: func(string) int { return 0 },
	}
	if change != nil {
		change(&c)
	}
	e, err := Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
	for _, transport := range e.transports {
		transport.Timing.DialWait = 50 * time.Millisecond
	}
	return e
}

// fake makes a transport lead into a fake network.
func (e *Egress) fake(t *testing.T, name string, inside *network, err error) *Transport {
	t.Helper()
	one, ok := e.Transport(name)
	if !ok {
		t.Fatalf("there is no transport %s", name)
	}
	f := &fakeInside{inner: one.inner, network: inside, err: err}
	one.inner = f
	e.Add(name, transport.Gate{Tunnel: one.Tunnel, Inner: f})
	return one
}

// run runs what e starts until the test ends.
func (e *Egress) run(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	e.Run(func(name string, run func(context.Context) error) {
		wg.Go(func() {
			if err := run(ctx); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		})
	})
	t.Cleanup(func() { cancel(); wg.Wait() })
}

// await waits until a transport is in a state.
func await(t *testing.T, one *Transport, want transport.State) {
	t.Helper()
	for range 500 {
		if one.Health().State == want {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("%s is %s, want %s", one.Name, one.Health().State, want)
}
