package gateway

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"penstock/cmd/internal/config"
	"penstock/router/clients"
	"penstock/router/transport/wireguard"
	"penstock/stack"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// service is an address behind the gateway that peers talk to.
const service = "192.0.2.1:7"

// world is a gateway and its possible peers, on the loopback interface:
//
//	ana 10.99.0.2 --- WireGuard, 127.0.0.1 --- gateway 10.99.0.1 --- handler at 192.0.2.1:7
//	bob 10.99.0.3 ---
type world struct {
	*Gateway
	key  wireguard.PrivateKey
	came chan *stack.Request // flows, before they are answered
	over chan uint64         // clients of flows that have ended

	mu   sync.Mutex // guards below
	book *clients.Book
	plan *Plan
}

// configured returns the configuration of a gateway with peers. The system chooses the port.
func configured(t *testing.T, key wireguard.PrivateKey, peers ...config.Peer) *config.Config {
	t.Helper()
	file := filepath.Join(t.TempDir(), "server.key")
	if err := os.WriteFile(file, []byte(key.Reveal()), 0o600); err != nil {
		t.Fatal(err)
	}
	return &config.Config{Peers: config.ListPeers(peers...), Listen: config.Listen{WireGuard: &config.WireGuardListen{
		Address: []netip.Prefix{netip.MustParsePrefix("10.99.0.1/24")}, PrivateKey: config.Secret{File: file}, MTU: 1420,
		Pos: config.Position{File: "p.yaml", Line: 1, Column: 10},
	}}}
}

func planned(t *testing.T, key wireguard.PrivateKey, peers ...config.Peer) *Plan {
	t.Helper()
	p, err := NewPlan(configured(t, key, peers...), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func newWorld(t *testing.T, peers ...config.Peer) *world {
	t.Helper()
	w := &world{key: wireguard.GeneratePrivateKey(), came: make(chan *stack.Request, 100), over: make(chan uint64, 100)}
	w.book, w.plan = bookOf(nil, peers...), planned(t, w.key, peers...)
	var err error
	w.Gateway, err = Open(Config{Plan: w.plan, Handle: stack.Waiting(w.handle), Peer: w.peer})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	})
	return w
}

func bookOf(before *clients.Book, peers ...config.Peer) *clients.Book {
	var list []clients.Peer
	for _, p := range peers {
		if !p.Disabled {
			list = append(list, clients.Peer{Name: p.Name, ID: p.PublicKey, Addrs: p.AllowedIPs})
		}
	}
	return clients.NewBook(clients.List(list), before)
}

func (w *world) peer(src netip.Addr) (uint64, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.book.Peer(src)
}

// use does the steps of a reload.
func (w *world) use(t *testing.T, peers ...config.Peer) {
	t.Helper()
	next := planned(t, w.key, peers...)
	if err := w.Withdraw(w.plan, next); err != nil {
		t.Fatal(err)
	}
	time.Sleep(50 * time.Millisecond) // time that it takes a reload to put an edition in force
	w.mu.Lock()
	before := w.book
	w.book = bookOf(before, peers...)
	gone := before.Gone(w.book)
	w.mu.Unlock()
	w.CloseClients(gone)
	if err := w.Use(next); err != nil {
		t.Fatal(err)
	}
	w.plan = next
}

// handle echoes what it gets, and sends a line every few milliseconds until the flow ends.
func (w *world) handle(ctx context.Context, r *stack.Request) {
	w.came <- r
	defer func() { w.over <- r.Client }()
	c, err := r.Accept()
	if err != nil {
		return
	}
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	first := make([]byte, 100)
	if _, err := c.Read(first); err != nil {
		return
	}
	for {
		if _, err := c.Write([]byte("tick\n")); err != nil {
			return
		}
		time.Sleep(5 * time.Millisecond) // a server that keeps sending; nothing depends on this pause
	}
}

// person is a peer with its keys.
type person struct {
	config.Peer
	key wireguard.PrivateKey
}

func newPerson(name, addr string) person {
	key := wireguard.GeneratePrivateKey()
	return person{key: key, Peer: config.Peer{
		Name: name, PublicKey: key.Public().String(), AllowedIPs: []netip.Prefix{netip.MustParsePrefix(addr + "/32")},
		Pos: config.Position{File: "p.yaml", Line: 2, Column: 9},
	}}
}

// machine is a peer's machine: a stack behind a WireGuard client.
type machine struct {
	*stack.Stack
	client  *wireguard.Client
	strange chan *stack.Request // flows that others open to it
	packets func() (received float64)
}

func (w *world) machine(t *testing.T, p person) *machine {
	t.Helper()
	registry := prometheus.NewRegistry()
	m := &machine{strange: make(chan *stack.Request, 100), packets: func() float64 { return received(t, registry) }}
	var err error
	m.Stack, err = stack.New(stack.Config{Name: p.Name, MTU: 1420, Addrs: p.AllowedIPs, Metrics: stack.NewMetrics(registry),
		Handle: stack.Waiting(func(_ context.Context, r *stack.Request) { m.strange <- r; r.Drop() })})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	m.client, err = wireguard.NewClient(wireguard.ClientConfig{Name: p.Name, Device: m.Device(), Wireguard: wireguard.ClientFile(
		wireguard.ServerInfo{Endpoints: []wireguard.Endpoint{{Host: "127.0.0.1", Port: uint16(w.Port())}}, PublicKey: w.key.Public()}, p.key,
		wireguard.Peer{Name: p.Name, AllowedIPs: p.AllowedIPs})})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.client.Close() })
	return m
}

// received returns how many packets have entered the stack with a registry.
func received(t *testing.T, registry *prometheus.Registry) (n float64) {
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != "penstock_stack_packets_total" {
			continue
		}
		for _, m := range f.GetMetric() {
			if m.GetLabel()[0].GetValue() == "in" {
				n += m.GetCounter().GetValue()
			}
		}
	}
	return n
}

func (m *machine) connect(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := m.client.Connect(ctx); err != nil {
		t.Fatal(err)
	}
}

// talk opens a flow to the service and reads its first line.
func (m *machine) talk(t *testing.T, network string) net.Conn {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	c, err := m.DialContext(ctx, network, service)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := c.Write([]byte("hello\n")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(c, make([]byte, 5)); err != nil {
		t.Fatalf("%s: the service does not answer: %v", network, err)
	}
	return c
}

func TestPeersComeInUnderTheirKeys(t *testing.T) {
	ana, bob, eve := newPerson("ana", "10.99.0.2"), newPerson("bob", "10.99.0.3"), newPerson("eve", "10.99.0.4")
	eve.Disabled = true
	w := newWorld(t, ana.Peer, bob.Peer, eve.Peer)
	for _, p := range []person{ana, bob} {
		m := w.machine(t, p)
		m.connect(t)
		for _, network := range []string{"tcp", "udp"} {
			m.talk(t, network)
			r := <-w.came
			want, _ := w.peer(p.AllowedIPs[0].Addr())
			if r.Client != want || r.Src.Addr() != p.AllowedIPs[0].Addr() || r.Dst.String() != service || r.Network != network {
				t.Errorf("%s over %s: got client %d, %s to %s over %s; want client %d", p.Name, network, r.Client, r.Src, r.Dst, r.Network, want)
			}
		}
	}
	peers := w.Peers()
	if len(peers) != 2 {
		t.Fatalf("got %d peers, want ana and bob: eve is disabled", len(peers))
	}
	for i, want := range []person{ana, bob} {
		if p := peers[i]; p.Name != want.Name || p.LastHandshake.IsZero() || p.RxBytes == 0 || p.TxBytes == 0 || !p.Endpoint.Addr().Unmap().IsLoopback() {
			t.Errorf("got %+v, want %s with a session", p, want.Name)
		}
	}
	if w.Port() == 0 {
		t.Error("the port is not known")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	w.Touch(ctx, netip.MustParseAddrPort("10.99.0.1:9"))
	if ctx.Err() != nil {
		t.Error("touching the stack took 5 s: a watchdog would call it hung")
	}
}

func TestStrangersStayOutside(t *testing.T) {
	w := newWorld(t, newPerson("ana", "10.99.0.2").Peer)
	m := w.machine(t, newPerson("eve", "10.99.0.2")) // has the address, but not the key
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if err := m.client.Connect(ctx); err == nil {
		t.Error("who is not configured has connected")
	}
	select {
	case r := <-w.came:
		t.Errorf("a flow came in from %s", r.Src)
	default:
	}
}

func TestNothingOfAPeerIsLeftForTheNextOneAtItsAddress(t *testing.T) {
	for _, network := range []string{"tcp", "udp"} {
		t.Run(network, func(t *testing.T) {
			ana, bob := newPerson("ana", "10.99.0.2"), newPerson("bob", "10.99.0.2")
			w := newWorld(t, ana.Peer)
			old := w.machine(t, ana)
			old.connect(t)
			flow := old.talk(t, network)
			was := (<-w.came).Client

			w.use(t, bob.Peer)
			select {
			case ended := <-w.over:
				if ended != was {
					t.Errorf("a flow of client %d ended, want ana's, %d", ended, was)
				}
			case <-time.After(20 * time.Second):
				t.Error("ana's flow is alive after she was removed")
			}
			next := w.machine(t, bob)
			next.connect(t)
			control := next.talk(t, "tcp") // the address is now bob's, and the service reaches him
			control.Close()
			if r := <-w.came; r.Client == was {
				t.Error("bob has inherited ana's key")
			}

			quiet, deadline := 0, time.Now().Add(20*time.Second)
			for last := next.packets(); quiet < 10; { // bob's own flow ends first
				time.Sleep(50 * time.Millisecond)
				if now := next.packets(); now != last {
					last, quiet = now, 0
				} else {
					quiet++
				}
				if time.Now().After(deadline) {
					t.Fatal("packets of ana's flow go on to bob, who has her address now")
				}
			}
			select {
			case r := <-next.strange:
				t.Errorf("bob was sent %s from %s, which was ana's", r.Network, r.Src)
			default:
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			if err := old.client.Connect(ctx); err == nil {
				t.Error("ana was removed and has connected again")
			}
			flow.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
			rest, _ := io.ReadAll(flow)
			if len(rest) > 100_000 {
				t.Errorf("ana has received %d bytes after she was removed", len(rest))
			}
			select {
			case r := <-w.came:
				t.Errorf("a flow came in from %s under client %d after ana was removed", r.Src, r.Client)
			default:
			}
		})
	}
}

func TestADialToAPeerDoesNotGoOnToTheNextOneAtItsAddress(t *testing.T) {
	ana, bob := newPerson("ana", "10.99.0.2"), newPerson("bob", "10.99.0.2")
	w := newWorld(t, ana.Peer)
	old := w.machine(t, ana)
	old.connect(t)
	dialled := make(chan error, 1)
	go func() {
		c, err := w.DialContext(t.Context(), "tcp", "10.99.0.2:7")
		if err == nil {
			c.Close()
		}
		dialled <- err
	}()
	<-old.strange // and is not answered, so it is tried again
	w.use(t, bob.Peer)
	next := w.machine(t, bob)
	next.connect(t)
	next.talk(t, "tcp").Close()
	select {
	case err := <-dialled:
		if err == nil {
			t.Error("it has succeeded")
		}
	case r := <-next.strange:
		t.Errorf("bob was sent %s from %s, which was meant for ana", r.Network, r.Src)
	case <-time.After(20 * time.Second):
		t.Error("it goes on")
	}
}

func TestPeersThatStayKeepTheirFlows(t *testing.T) {
	ana, bob := newPerson("ana", "10.99.0.2"), newPerson("bob", "10.99.0.3")
	w := newWorld(t, ana.Peer, bob.Peer)
	m := w.machine(t, ana)
	m.connect(t)
	flow := m.talk(t, "tcp")
	ana.Groups = []string{"admins"}
	w.use(t, ana.Peer)
	if _, err := io.ReadFull(flow, make([]byte, 50)); err != nil {
		t.Errorf("ana stayed, and her flow broke: %v", err)
	}
	if got := w.Peers(); len(got) != 1 || got[0].LastHandshake.IsZero() {
		t.Errorf("got %+v, want ana with the session that she had", got)
	}
}

func TestPlan(t *testing.T) {
	key := wireguard.GeneratePrivateKey()
	if p, err := NewPlan(&config.Config{}, time.Now()); p != nil || err != nil {
		t.Errorf("without listen.wireguard: got %v and %v, want neither", p, err)
	}
	ana := newPerson("ana", "10.99.0.2").Peer
	for _, row := range []struct {
		name string
		peer func(*config.Peer)
		want string
	}{
		{"the gateway's own key", func(p *config.Peer) { p.PublicKey = key.Public().String() }, "p.yaml:2:9: peer ana: public_key is the gateway's own: set the peer's"},
		{"a key that is none", func(p *config.Peer) { p.PublicKey = "abc" }, "p.yaml:2:9: peer ana: public_key: "},
		{"a second secret whose file is gone", func(p *config.Peer) { p.PresharedKey.File = "/nowhere/psk" }, "p.yaml:2:9: peer ana: preshared_key: "},
		{"a keepalive of half a second", func(p *config.Peer) { p.PersistentKeepalive = time.Second / 2 }, `p.yaml:2:9: peer "ana": keepalive 500ms`},
		{"an address that WireGuard cannot route", func(p *config.Peer) { p.AllowedIPs = []netip.Prefix{netip.MustParsePrefix("::ffff:10.99.0.2/128")} }, `p.yaml:2:9: peer "ana": allowed IPs contain ::ffff:10.99.0.2/128`},
	} {
		bad, second := ana, ana
		row.peer(&bad)
		second.PublicKey = "abc"
		_, err := NewPlan(configured(t, key, bad, second), time.Now())
		if err == nil || !strings.HasPrefix(err.Error(), row.want) {
			t.Errorf("%s: got %v, want %s", row.name, err, row.want)
		}
		if joined, ok := err.(interface{ Unwrap() []error }); !ok || len(joined.Unwrap()) != 2 {
			t.Errorf("%s: got %v, want the fault of the second peer too", row.name, err)
		}
		bad.Disabled = true
		if p, err := NewPlan(configured(t, key, bad), time.Now()); err != nil || p.peers.Len() != 0 {
			t.Errorf("%s, of a peer that is disabled: got %v", row.name, err)
		}
	}
	cfg := configured(t, key)
	cfg.Listen.WireGuard.PrivateKey.File = "/nowhere/server.key"
	if _, err := NewPlan(cfg, time.Now()); !errors.Is(err, os.ErrNotExist) || !strings.HasPrefix(err.Error(), "p.yaml:1:10: listen.wireguard.private_key: ") {
		t.Errorf("a key file that is gone: got %v", err)
	}
	open, next := planned(t, key, ana), planned(t, wireguard.GeneratePrivateKey(), ana, newPerson("bob", "10.99.0.3").Peer)
	if p := open.WithPeersOf(next); p.peers.Len() != 2 || p.key != key || p.listen != open.listen {
		t.Errorf("got %d peers, want those of the next plan at the port that is open", p.peers.Len())
	}
	if p := open.WithPeersOf(nil); p.peers.Len() != 0 || open.peers.Len() != 1 {
		t.Errorf("a plan without a port: got %d peers, want none, and the open plan as it was", p.peers.Len())
	}
}

func TestAPortThatIsTakenIsNamed(t *testing.T) {
	taken, err := net.ListenPacket("udp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	p := planned(t, wireguard.GeneratePrivateKey())
	p.listen.ListenPort = taken.LocalAddr().(*net.UDPAddr).Port
	if _, err := Open(Config{Plan: p, Peer: func(netip.Addr) (uint64, bool) { return 0, false }}); err == nil || !strings.HasPrefix(err.Error(), "listen.wireguard: ") {
		t.Errorf("got %v, want the setting that names the port", err)
	}
}

func TestAPeerThatMovesKeepsItsSession(t *testing.T) {
	ana, bob := newPerson("ana", "10.99.0.2"), newPerson("bob", "10.99.0.3")
	w := newWorld(t, ana.Peer, bob.Peer)
	m := w.machine(t, ana)
	m.connect(t)
	m.talk(t, "tcp")
	first := w.Peers()[0].LastHandshake
	ana.AllowedIPs, bob.AllowedIPs = bob.AllowedIPs, ana.AllowedIPs // each has the other's
	w.use(t, ana.Peer, bob.Peer)
	if err := m.SetAddrs(ana.AllowedIPs); err != nil {
		t.Fatal(err)
	}
	<-w.came
	m.talk(t, "tcp")
	if r := <-w.came; r.Src.Addr() != ana.AllowedIPs[0].Addr() {
		t.Errorf("ana comes from %s, want her new address", r.Src)
	}
	if got := w.Peers()[0].LastHandshake; !got.Equal(first) {
		t.Error("ana needed another handshake: her flows waited for it")
	}
}

func TestAPlanThatCannotBeUsedWithdrawsNothing(t *testing.T) {
	ana := newPerson("ana", "10.99.0.2")
	w := newWorld(t, ana.Peer)
	same := newPerson("bob", "10.99.0.3")
	bad := planned(t, w.key, same.Peer)
	bad.peers.of = append(bad.peers.of, bad.peers.of[0]) // impossible in a configuration
	if err := w.Withdraw(w.plan, bad); err == nil {
		t.Fatal("two peers with one key were accepted")
	}
	if got := w.Peers(); len(got) != 1 || got[0].Name != "ana" {
		t.Errorf("got %+v, want ana as before", got)
	}
}

func TestAPlanHasThePeersOfItsTime(t *testing.T) {
	key, noon := wireguard.GeneratePrivateKey(), time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	ana, guest, eve := newPerson("ana", "10.99.0.2").Peer, newPerson("guest", "10.99.0.3").Peer, newPerson("eve", "10.99.0.4").Peer
	guest.Expires, eve.Expires, eve.Disabled = noon, noon.Add(time.Hour), true
	p, err := NewPlan(configured(t, key, ana, guest, eve), noon.Add(-time.Second))
	if err != nil {
		t.Fatal(err)
	}
	other := planned(t, key, ana)
	for _, row := range []struct {
		sentence string
		plan     *Plan
		want     int
	}{
		{"before guest's time is over", p, 2},
		{"when it is over", p.At(noon), 1},
		{"when the clock is set back", p.At(noon).At(noon.Add(-time.Second)), 2},
		{"in the plan of what listens", other.WithPeersOf(p), 2},
		{"in the same, later", other.WithPeersOf(p).At(noon), 1},
	} {
		if row.plan.peers.Len() != row.want {
			t.Errorf("%s: got %d peers, want %d", row.sentence, row.plan.peers.Len(), row.want)
		}
	}
}
