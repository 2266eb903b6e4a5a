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
func (w *site) supervised(t *testing.T, file *Config, options ...func(*Client)) (*transport.Tunnel, *Client, *fakeTUN) {
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
	for _, set := range options {
		set(c)
	}
	tunnel := transport.NewTunnel(transport.Config{Name: "test", New: func() (transport.Driver, error) { return c, nil }})
	ended := make(chan error, 1)
	ctx, cancel := context.WithCancel(t.Context())
	go func() { ended <- tunnel.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-ended })
	for limit := within(t, time.Minute); tunnel.Health().State != transport.Connected; {
		if err := tunnel.WaitUp(limit); err != nil && limit.Err() != nil { // or Run has not begun
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
	settled := func(h transport.Health) bool { return h.State == transport.Connected && h.Reconnects >= 10 }
	for limit := time.Now().Add(time.Minute); !settled(tunnel.Health()) && time.Now().Before(limit); { // it looks at times
		askUntilAnswered(t, w, inner, "at last")
	}
	if h := tunnel.Health(); !settled(h) || h.Stats.Others != 2 {
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
	w.servers[1].Close()
	_, c, inner := w.supervised(t, file)
	w.start(t, 1)
	askUntilAnswered(t, w, inner, "before")
	if got := c.sample().Endpoint; !strings.HasSuffix(got, fmt.Sprint(":", r.port())) {
		t.Fatalf("the endpoint is %s, want the one that answers", got)
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
	c.choice.Welcome(0) // a slow machine may have let server 1 look silent for a moment
	before := r.fromServer.Load()
	if err := w.servers[0].Call(t.Context(), []PeerStatus{{PublicKey: w.account.peer.PublicKey, Endpoint: r.asked()}}); err != nil {
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

// farSite is a site whose servers are behind relays, and a file that names those.
//
//	client --+-- relay 0 -- server 0
//	         +-- relay 1 -- server 1
func farSite(t *testing.T) (w *site, relays []*relay, file *Config) {
	t.Helper()
	w = newSite(t, 2)
	file = w.file()
	for i := range w.ports {
		relays = append(relays, newRelay(t, w.ports[i]))
		file.Peers[0].Endpoints[i].Port = relays[i].port()
	}
	return w, relays, file
}

// at wants a client at a server.
func at(t *testing.T, c *Client, r *relay) {
	t.Helper()
	if got, want := c.sample().Endpoint, fmt.Sprint("127.0.0.1:", r.port()); got != want {
		t.Fatalf("the client uses %s, want %s", got, want)
	}
}

// TestAClientBeginsWithTheNearestServer: the far one stands first in the file. What the far one has answered in vain changes nothing.
func TestAClientBeginsWithTheNearestServer(t *testing.T) {
	for try := range 4 {
		w, relays, file := farSite(t)
		relays[0].behind.Store(relays[1])
		_, c, inner := w.supervised(t, file, func(c *Client) { c.firstWait = time.Minute }) // so much may a slow machine need
		at(t, c, relays[1])
		for limit := time.Now().Add(time.Minute); relays[0].fromServer.Load() == 0; {
			if time.Now().After(limit) {
				t.Fatalf("try %d: the far server was not asked", try)
			}
			askUntilAnswered(t, w, inner, "meanwhile")
		}
		for i := range 10 {
			askUntilAnswered(t, w, inner, fmt.Sprint("later ", i))
		}
		at(t, c, relays[1])
		if got := w.servers[0].Peers()[0].LastHandshake; !got.IsZero() {
			t.Errorf("try %d: the far server has a session since %v, want none", try, got)
		}
	}
}

// TestAClientStaysUnlessAnotherServerIsMuchNearer connects anew, as after a long sleep.
func TestAClientStaysUnlessAnotherServerIsMuchNearer(t *testing.T) {
	w, relays, file := farSite(t)
	w.servers[1].Close()
	_, c, inner := w.supervised(t, file)
	w.start(t, 1)
	askUntilAnswered(t, w, inner, "before")
	at(t, c, relays[0])
	c.firstWait, c.headStart = time.Minute, time.Minute // so much may a slow machine need
	if err := c.Connect(t.Context()); err != nil {
		t.Fatal(err)
	}
	if at(t, c, relays[0]); relays[1].fromServer.Load() > 0 {
		t.Error("the near server was asked though the other one answers fast enough")
	}
	c.headStart = headStart
	relays[0].behind.Store(relays[1])
	if err := c.Connect(t.Context()); err != nil {
		t.Fatal(err)
	}
	at(t, c, relays[1])
	askUntilAnswered(t, w, inner, "after")
}

// TestAClientThatHasJustComeIsSentOn: the other server calls it, while the first still has the session.
func TestAClientThatHasJustComeIsSentOn(t *testing.T) {
	w, relays, file := farSite(t)
	w.servers[1].Close()
	_, c, inner := w.supervised(t, file)
	w.start(t, 1)
	askUntilAnswered(t, w, inner, "before")
	at(t, c, relays[0])
	c.Stats() // it settles
	call := func(i int) {
		t.Helper()
		w.servers[i].Close()
		w.start(t, i)
		relays[i].meet(c)
		if err := w.servers[i].Call(t.Context(), []PeerStatus{{PublicKey: w.account.peer.PublicKey, Endpoint: relays[i].asked()}}); err != nil {
			t.Fatal(err)
		}
	}
	call(1)
	for limit := time.Now().Add(time.Minute); !strings.HasSuffix(c.sample().Endpoint, fmt.Sprint(":", relays[1].port())); {
		if time.Now().After(limit) {
			t.Fatal("the client has not followed the call")
		}
		askUntilAnswered(t, w, inner, "meanwhile")
	}
	askUntilAnswered(t, w, inner, "at the other")
	if at(t, c, relays[1]); w.servers[1].Peers()[0].LastHandshake.IsZero() {
		t.Error("the other server has no session")
	}

	// Later nobody sends it anywhere.
	c.Stats()
	c.choice.Welcome(0)
	before := relays[0].fromServer.Load()
	call(0)
	for limit := time.Now().Add(time.Minute); relays[0].fromServer.Load() == before; {
		if time.Now().After(limit) {
			t.Fatal("the first server did not call")
		}
		askUntilAnswered(t, w, inner, "meanwhile")
	}
	for i := range 10 {
		askUntilAnswered(t, w, inner, fmt.Sprint("at last ", i))
	}
	at(t, c, relays[1])
}

// TestAClientFollowsWhenItIsDropped lets the server in use forget the client again and again, as a gateway that is drained does, while
// the other one calls it.
func TestAClientFollowsWhenItIsDropped(t *testing.T) {
	w, relays, file := farSite(t)
	w.servers[1].Close()
	_, c, inner := w.supervised(t, file)
	w.start(t, 1)
	askUntilAnswered(t, w, inner, "before")
	at(t, c, relays[0])
	c.Stats()
	c.choice.Welcome(0) // it has been there for long
	forget := func(i int) {
		t.Helper()
		for _, peers := range [][]Peer{nil, {w.account.peer}} {
			if err := w.servers[i].SetPeers(List(peers)); err != nil {
				t.Fatal(err)
			}
		}
	}
	relays[1].meet(c)
	for times := 1; c.sample().Endpoint != fmt.Sprint("127.0.0.1:", relays[1].port()); times++ {
		if times > 20 {
			t.Fatal("the client has not followed 20 calls")
		}
		forget(0)
		forget(1)
		if err := w.servers[1].Call(t.Context(), []PeerStatus{{PublicKey: w.account.peer.PublicKey, Endpoint: relays[1].asked()}}); err != nil {
			t.Fatal(err)
		}
		askUntilAnswered(t, w, inner, fmt.Sprint("time ", times))
		c.Stats()
	}
	askUntilAnswered(t, w, inner, "at the other")
	at(t, c, relays[1])
}

// relay passes datagrams between one client and a server on the loopback.
type relay struct {
	client, server *net.UDPConn
	cut            atomic.Bool           // it passes nothing
	behind         atomic.Pointer[relay] // it passes nothing before this one has passed something to the client; nil: none
	fromServer     atomic.Int64
	reached        chan struct{}               // closed once something has been passed to the client
	from           atomic.Pointer[net.UDPAddr] // the client

	reach sync.Once
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
	r := &relay{client: client, server: out, reached: make(chan struct{})}
	pass := func(in *net.UDPConn, to func(*net.UDPAddr) (*net.UDPConn, *net.UDPAddr)) {
		buf := make([]byte, 2048)
		for {
			n, addr, err := in.ReadFromUDP(buf)
			if err != nil {
				return
			}
			c, dst := to(addr)
			if dst == nil || r.cut.Load() {
				continue
			}
			if other := r.behind.Load(); other != nil {
				select {
				case <-other.reached:
				case <-t.Context().Done():
					return
				}
			}
			if c.WriteToUDP(buf[:n], dst); c == client {
				r.reach.Do(func() { close(r.reached) })
			}
		}
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		pass(client, func(addr *net.UDPAddr) (*net.UDPConn, *net.UDPAddr) {
			r.from.Store(addr)
			return out, &net.UDPAddr{IP: loopback, Port: int(server)}
		})
	})
	wg.Go(func() {
		pass(out, func(*net.UDPAddr) (*net.UDPConn, *net.UDPAddr) {
			r.fromServer.Add(1)
			return client, r.from.Load()
		})
	})
	t.Cleanup(func() {
		client.Close()
		out.Close()
		wg.Wait()
	})
	return r
}

// asked is where a server that calls the client has to send to, so that it comes from the relay.
func (r *relay) asked() netip.AddrPort {
	return netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), r.outer())
}

// meet tells the relay where a client is that has not come by it.
func (r *relay) meet(c *Client) {
	r.from.Store(&net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: int(c.Port())})
}

// port is what clients dial, and outer where the server sees them.
func (r *relay) port() uint16  { return uint16(r.client.LocalAddr().(*net.UDPAddr).Port) }
func (r *relay) outer() uint16 { return uint16(r.server.LocalAddr().(*net.UDPAddr).Port) }
