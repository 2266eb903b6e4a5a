package laptop

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"penstock/cmd/internal/config"
	"penstock/cmd/internal/edition"
	"penstock/cmd/internal/egress"
	"penstock/cmd/internal/lists"
	"penstock/policy"
	"penstock/router/clients"
	"penstock/router/hostnet"
	"penstock/stack"
	"penstock/stack/link"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// nowhere is a network in which no dial succeeds.
type nowhere struct{}

func (nowhere) DialContext(context.Context, string, string) (net.Conn, error) {
	return nil, os.ErrDeadlineExceeded
}
func (nowhere) Control(string, string, syscall.RawConn) error { return nil }
func (nowhere) Reserved(netip.Addr) bool                      { return false }
func (nowhere) Routed(netip.Addr) bool                        { return false }
func (nowhere) Close() error                                  { return nil }

// fakeCore is a Core that only judges. It counts the other calls.
type fakeCore struct {
	live      *edition.Live
	freshened int
}

func (c *fakeCore) Config() *config.Config                 { return c.live.Config() }
func (c *fakeCore) Change(change func(*policy.Conditions)) { c.live.SetConditions(change) }
func (c *fakeCore) Conditions() *policy.Conditions         { return c.live.Conditions() }
func (c *fakeCore) Inside() []netip.Prefix                 { return c.live.Now().Egress.Prefixes() }
func (c *fakeCore) FreshenDNS()                            { c.freshened++ }

func (c *fakeCore) IsInside(host string) bool {
	return c.live.Now().Policy.IsInside(policy.Flow{Client: clients.Machine, Names: []policy.Name{{Host: host, From: policy.FromQuestion}}})
}

// world is a laptop with one transport that never connects, on a fake network.
type world struct {
	*Laptop
	core     *fakeCore
	egress   *egress.Egress
	follower *Follower
}

func newWorld(t *testing.T, more string) *world {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{
		"corp.conf": `[Interface]
PrivateKey = yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=
Address = 10.8.0.2/32
[Peer]
PublicKey = xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=
Endpoint = 192.0.2.1:51820
AllowedIPs = 0.0.0.0/0, 10.20.0.0/16
`,
		"p.yaml": `
listen: {tun: {routes: manual, dns: manual}}
transports: {corp: {wireguard: {config: corp.conf}}}
dns: {upstreams: [{address: 10.0.0.53, via: corp}]}
` + more + `
rules:
  - {name: files, match: {domain: files.example}, do: {via: corp, trusted: direct}}
  - {name: rest, do: {via: corp}}
`,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cfg, err := config.Load(filepath.Join(dir, "p.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	w := &world{core: &fakeCore{live: edition.NewLive(lists.Config{Log: slog.New(slog.DiscardHandler)})}}
	ed, err := w.core.live.Compile(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	w.core.live.Use(ed)
	programs, tun := link.Pipe(1500)
	t.Cleanup(func() { programs.Close(); tun.Close() })
	if w.Laptop, err = New(Config{Config: cfg, TUN: tun, Direct: nowhere{}}); err != nil {
		t.Fatal(err)
	}
	w.egress, err = egress.Open(t.Context(), egress.Config{
		Plan: ed.Egress, Outside: w.Outside(), Changed: func() { w.follower.TransportChanged() }, Renamed: func() {},
		Reset: func(string) int { return 0 }, Servers: func(string) []netip.AddrPort { return nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.egress.Close(); err != nil {
			t.Error(err)
		}
		if err := w.Close(false); err != nil {
			t.Error(err)
		}
	})
	w.lab = false // treat the fake network as this host's
	w.follower = w.Follow(w.core, w.egress)
	return w
}

// corp runs the transport until the test ends, and returns it.
func (w *world) corp(t *testing.T) *egress.Transport {
	t.Helper()
	corp, ok := w.egress.Transport("corp")
	if !ok {
		t.Fatal("there is no transport corp")
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); _ = corp.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	return corp
}

// goes returns the egress that a flow takes now.
func (w *world) goes(f policy.Flow) string { return w.core.live.Decide(f).Egress }

func TestALaptopWithoutATUNLeavesTheHostAlone(t *testing.T) {
	l, err := New(Config{Config: new(config.Config), Direct: nowhere{}})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close(false)
	if err := l.Open(nil, stack.Limits{}, nil); err != nil || l.device != nil {
		t.Errorf("Open: got %v and a device %v, want nothing", err, l.device)
	}
	if l.net != nil || l.Interface() != "" || l.Outside().Mark != 0 {
		t.Error("a gateway's machine has an interface, a mark or settings of penstock")
	}
	if err := l.Apply(t.Context()); err != nil {
		t.Error(err)
	}
	if got := l.Trouble(); got != "" {
		t.Errorf("got %q in the status, want nothing", got)
	}
}

func TestATUNThatFailsIsTroubleUntilItIsBack(t *testing.T) {
	w := newWorld(t, "")
	if err := w.Open(stack.Waiting(func(_ context.Context, r *stack.Request) { r.Drop() }), stack.Limits{}, nil); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); w.Watch(ctx) }()
	w.device.lose(errors.New("file descriptor in bad state"))
	w.device.lose(errors.New("the same, told by another"))
	for start := time.Now(); w.Trouble() == ""; time.Sleep(time.Millisecond) {
		if time.Since(start) > 10*time.Second {
			t.Fatal("nothing is wrong although the link failed")
		}
	}
	if got := w.Trouble(); !strings.Contains(got, "restart penstock") { // this one was passed in, so penstock cannot make another
		t.Errorf("got %q, want advice", got)
	}
	cancel()
	<-done
	w.device.set("")
	if got := w.Trouble(); got != "" {
		t.Errorf("got %q after it was over", got)
	}
}

func TestEndpointsAreResolvedOutside(t *testing.T) {
	w := newWorld(t, "")
	got, err := w.Outside().Resolve(t.Context(), "192.0.2.7")
	if err != nil || !slices.Equal(got, []netip.Addr{netip.MustParseAddr("192.0.2.7")}) {
		t.Errorf("an address resolves to %v, %v", got, err)
	}
	_, err = w.dialBy(t.Context(), "no-such-interface", "udp", "192.0.2.7:9")
	if err == nil || !strings.Contains(err.Error(), "no-such-interface") && !strings.Contains(err.Error(), "unsupported") {
		t.Errorf("a dial by an interface that is not there: got %v", err)
	}
}

func TestAStateFileThatCannotBeWrittenNamesTheMend(t *testing.T) {
	for reason, want := range map[error]string{
		syscall.EROFS: "listen.tun.state_file", syscall.ENOSPC: "make room", syscall.EACCES: "as root", hostnet.ErrInUse: "stop that one first",
	} {
		if got := mendOf(fmt.Errorf("open: %w", reason)); !strings.Contains(got, want) {
			t.Errorf("%v: got %q, want it to name %s", reason, got, want)
		}
	}
}
