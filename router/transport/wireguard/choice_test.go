package wireguard

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"penstock/router/transport"
)

// site is servers with one key and one peer, each at a port of its own.
//
//	client 10.77.0.2 --- UDP on 127.0.0.1 --+-- server 10.77.0.1
//	                                        +-- server 10.77.0.1
type site struct {
	key     PrivateKey
	account account
	ports   []uint16
	servers []*Server
	inner   []*fakeTUN
}

func newSite(t *testing.T, servers int) *site {
	t.Helper()
	w := &site{key: GeneratePrivateKey(), account: newAccount(2), ports: make([]uint16, servers), servers: make([]*Server, servers), inner: make([]*fakeTUN, servers)}
	for i := range servers {
		w.start(t, i)
		w.ports[i] = w.servers[i].Port()
	}
	return w
}

// start starts a server, at the port that it had before. What comes out of it is sent back.
func (w *site) start(t *testing.T, i int) {
	t.Helper()
	s, inner := newTestServer(t, ServerConfig{PrivateKey: w.key, Peers: List{w.account.peer}, ListenPort: w.ports[i]})
	w.servers[i], w.inner[i] = s, inner
	go func() {
		for {
			select {
			case b := <-inner.received:
				inner.sent <- packet(serverAddr, w.account.addr, string(b[20:]))
			case <-inner.closed:
				return
			}
		}
	}()
}

// file is the client's file.
func (w *site) file() *Config {
	file := w.account.file(w.key.Public(), w.ports[0])
	for _, port := range w.ports[1:] {
		file.Peers[0].Endpoints = append(file.Peers[0].Endpoints, Endpoint{"127.0.0.1", port})
	}
	return file
}

// supervised runs a tunnel with a client of the site.
func (w *site) supervised(t *testing.T, file *Config) (*transport.Tunnel, *Client, *fakeTUN) {
	t.Helper()
	var inner *fakeTUN
	probe := func(context.Context) error {
		select {
		case inner.sent <- packet(w.account.addr, serverAddr, "probe"):
		default:
		}
		return nil
	}
	var c *Client
	c, inner = newTestClient(t, ClientConfig{Wireguard: file, Probe: probe})
	tunnel := transport.NewTunnel(transport.Config{Name: "test", New: func() (transport.Driver, error) { return c, nil }})
	ended := make(chan error, 1)
	ctx, cancel := context.WithCancel(t.Context())
	go func() { ended <- tunnel.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-ended })
	for tunnel.Health().State != transport.Connected {
		if err := tunnel.WaitUp(within(t, time.Minute)); err != nil && tunnel.Health().State != transport.Down { // Run has not begun
			t.Fatal(err)
		}
	}
	return tunnel, c, inner
}

// askUntilAnswered sends a packet each 100 ms until one of them comes back, and returns how long that took.
func askUntilAnswered(t *testing.T, w *site, inner *fakeTUN, what string) time.Duration {
	t.Helper()
	begun := time.Now()
	again := time.NewTicker(100 * time.Millisecond)
	defer again.Stop()
	limit := time.After(time.Minute)
	for {
		inner.sent <- packet(w.account.addr, serverAddr, what)
		for waits := true; waits; {
			select {
			case b := <-inner.received:
				if string(b[20:]) == what {
					return time.Since(begun)
				}
			case <-again.C:
				waits = false
			case <-limit:
				t.Fatalf("%s: no answer within a minute", what)
			}
		}
	}
}

// inUse returns which server a client uses.
func (w *site) inUse(t *testing.T, c *Client) int {
	t.Helper()
	addr, err := netip.ParseAddrPort(c.sample().Endpoint)
	i := slices.Index(w.ports, addr.Port())
	if err != nil || i < 0 {
		t.Fatalf("the endpoint is %q, want one of the ports %v", c.sample().Endpoint, w.ports)
	}
	return i
}

// TestAClientMovesToAServerThatAnswers: of each two tries, one is with a port that is closed, and one with a port where packets
// vanish.
func TestAClientMovesToAServerThatAnswers(t *testing.T) {
	t.Parallel()
	w := newSite(t, 3)
	tunnel, c, inner := w.supervised(t, w.file())
	var took []time.Duration
	for try := range 10 {
		askUntilAnswered(t, w, inner, fmt.Sprintf("before %d", try))
		dead := w.inUse(t, c)
		w.servers[dead].Close()
		var hole net.PacketConn
		if try%2 == 1 {
			var err error
			if hole, err = net.ListenPacket("udp4", fmt.Sprintf("127.0.0.1:%d", w.ports[dead])); err != nil {
				t.Fatal(err)
			}
		}
		took = append(took, askUntilAnswered(t, w, inner, fmt.Sprintf("after %d", try)))
		if got := w.inUse(t, c); got == dead {
			t.Errorf("try %d: the client uses the server %d, which is dead", try, got)
		}
		if hole != nil {
			hole.Close()
		}
		w.start(t, dead)
	}
	slices.Sort(took)
	t.Logf("first new answer after %v to %v, median %v, of %d tries", took[0], took[len(took)-1], took[len(took)/2], len(took))
	if most := took[len(took)-1]; most > 10*time.Second {
		t.Errorf("one move took %v, want no more than 10 s: WireGuard alone needs 15 s to notice", most)
	}
	for limit := time.Now().Add(time.Minute); tunnel.Health().Reconnects < 10 && time.Now().Before(limit); { // it looks at times
		askUntilAnswered(t, w, inner, "at last")
	}
	if h := tunnel.Health(); h.State != transport.Connected || h.Stats.Others != 2 || h.Reconnects < 10 {
		t.Errorf("got %+v, want connected after 10 moves, with 2 other endpoints", h)
	}
}

// TestAClientStaysWhereItIs: a server that comes back calls its former peers, and one that was only cut off goes on sending. Here
// the first server is behind a relay:
//
//	client --+-- relay -- server 0
//	         +----------- server 1
func TestAClientStaysWhereItIs(t *testing.T) {
	t.Parallel()
	w := newSite(t, 2)
	file := w.file()
	r := newRelay(t, w.ports[0])
	file.Peers[0].Endpoints[0].Port = r.port()
	_, c, inner := w.supervised(t, file)
	askUntilAnswered(t, w, inner, "before")
	if got := c.sample().Endpoint; !strings.HasSuffix(got, fmt.Sprint(":", r.port())) {
		t.Fatalf("the endpoint is %s, want the preferred one", got)
	}
	r.cut.Store(true)
	askUntilAnswered(t, w, inner, "while the first is cut off")
	if got := w.inUse(t, c); got != 1 {
		t.Fatalf("the client uses the server %d, want 1", got)
	}
	c.Stats()

	r.cut.Store(false)
	for i := range 20 {
		w.inner[0].sent <- packet(serverAddr, w.account.addr, "who left me?")
		if err := w.servers[0].Call(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
		askUntilAnswered(t, w, inner, fmt.Sprint("later ", i))
		if got := w.inUse(t, c); got != 1 {
			t.Fatalf("the client went back to the server %d, want it to stay", got)
		}
	}
	// A new process at the same address calls those whom its predecessor served.
	w.servers[0].Close()
	w.start(t, 0)
	before := r.fromServer.Load()
	own := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), r.outer())
	if err := w.servers[0].Call(t.Context(), []PeerStatus{{PublicKey: w.account.peer.PublicKey, Endpoint: own}}); err != nil {
		t.Fatal(err)
	}
	for limit := time.Now().Add(time.Minute); r.fromServer.Load() == before; {
		if time.Now().After(limit) {
			t.Fatal("the new server did not call")
		}
		askUntilAnswered(t, w, inner, "meanwhile")
	}
	askUntilAnswered(t, w, inner, "at last")
	if got := w.inUse(t, c); got != 1 {
		t.Errorf("the client went back to the server %d, which called it, want it to stay", got)
	}
	if len(w.inner[0].sent) > 0 {
		t.Log("packets for the client wait in the server that was left")
	}
}

// relay passes datagrams between one client and a server on the loopback.
type relay struct {
	client, server *net.UDPConn
	cut            atomic.Bool // it passes nothing
	fromServer     atomic.Int64
}

func newRelay(t *testing.T, server uint16) *relay {
	t.Helper()
	loopback := net.IPv4(127, 0, 0, 1)
	client, err := net.ListenUDP("udp4", &net.UDPAddr{IP: loopback})
	if err != nil {
		t.Fatal(err)
	}
	out, err := net.ListenUDP("udp4", &net.UDPAddr{IP: loopback})
	if err != nil {
		t.Fatal(err)
	}
	r := &relay{client: client, server: out}
	var from atomic.Pointer[net.UDPAddr]
	pass := func(in *net.UDPConn, to func(*net.UDPAddr) (*net.UDPConn, *net.UDPAddr)) {
		buf := make([]byte, 2048)
		for {
			n, addr, err := in.ReadFromUDP(buf)
			if err != nil {
				return
			}
			if c, dst := to(addr); dst != nil && !r.cut.Load() {
				c.WriteToUDP(buf[:n], dst)
			}
		}
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		pass(client, func(addr *net.UDPAddr) (*net.UDPConn, *net.UDPAddr) {
			from.Store(addr)
			return out, &net.UDPAddr{IP: loopback, Port: int(server)}
		})
	})
	wg.Go(func() {
		pass(out, func(*net.UDPAddr) (*net.UDPConn, *net.UDPAddr) {
			r.fromServer.Add(1)
			return client, from.Load()
		})
	})
	t.Cleanup(func() {
		client.Close()
		out.Close()
		wg.Wait()
	})
	return r
}

// port is what clients dial, and outer where the server sees them.
func (r *relay) port() uint16  { return uint16(r.client.LocalAddr().(*net.UDPAddr).Port) }
func (r *relay) outer() uint16 { return uint16(r.server.LocalAddr().(*net.UDPAddr).Port) }
