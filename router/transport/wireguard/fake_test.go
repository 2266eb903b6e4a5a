package wireguard

import (
	"context"
	"encoding/binary"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.zx2c4.com/wireguard/tun"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeTUN is an inner device whose other side is a test.
type fakeTUN struct {
	sent     chan []byte // packets for the tunnel
	received chan []byte // packets from the tunnel
	events   chan tun.Event
	closed   chan struct{}
	once     sync.Once
}

func newFakeTUN() *fakeTUN {
	f := &fakeTUN{
		sent:     make(chan []byte, 128),
		received: make(chan []byte, 128),
		events:   make(chan tun.Event, 1),
		closed:   make(chan struct{}),
	}
	f.events <- tun.EventUp // as an OS device says at once
	return f
}

func (f *fakeTUN) Read(bufs [][]byte, sizes []int, offset int) (int, error) {
	select {
	case <-f.closed:
		return 0, os.ErrClosed
	case packet := <-f.sent:
		sizes[0] = copy(bufs[0][offset:], packet)
	}
	for n := 1; n < len(bufs); n++ {
		select {
		case packet := <-f.sent:
			sizes[n] = copy(bufs[n][offset:], packet)
		default:
			return n, nil
		}
	}
	return len(bufs), nil
}

func (f *fakeTUN) Write(bufs [][]byte, offset int) (int, error) {
	for i, buf := range bufs {
		select {
		case <-f.closed:
			return i, os.ErrClosed
		case f.received <- append([]byte(nil), buf[offset:]...):
		}
	}
	return len(bufs), nil
}

func (f *fakeTUN) Close() error {
	f.once.Do(func() {
		close(f.closed)
		close(f.events)
	})
	return nil
}

func (f *fakeTUN) isClosed() bool {
	select {
	case <-f.closed:
		return true
	default:
		return false
	}
}

func (f *fakeTUN) File() *os.File           { return nil }
func (f *fakeTUN) MTU() (int, error)        { return 1420, nil }
func (f *fakeTUN) Name() (string, error)    { return "fake", nil }
func (f *fakeTUN) Events() <-chan tun.Event { return f.events }
func (f *fakeTUN) BatchSize() int           { return 128 }

// packet is an IPv4 packet of no known protocol.
func packet(src, dst netip.Addr, payload string) []byte {
	const header, experimental = 20, 253 // RFC 3692
	b := make([]byte, header, header+len(payload))
	b[0] = 4<<4 | header/4
	binary.BigEndian.PutUint16(b[2:], uint16(header+len(payload)))
	b[8], b[9] = 64, experimental
	copy(b[12:], src.AsSlice())
	copy(b[16:], dst.AsSlice())
	return append(b, payload...)
}

// arrives reports whether a packet with the payload comes out of f soon. Others are passed over.
func (f *fakeTUN) arrives(payload string) bool {
	soon := time.After(500 * time.Millisecond)
	for {
		select {
		case b := <-f.received:
			if string(b[20:]) == payload {
				return true
			}
		case <-soon:
			return false
		}
	}
}

// deliver sends a packet into one device until it comes out of the other: UDP may lose some, also on the loopback.
func deliver(t *testing.T, from, to *fakeTUN, src, dst netip.Addr, payload string) {
	t.Helper()
	for range 100 {
		from.sent <- packet(src, dst, payload)
		if to.arrives(payload) {
			return
		}
	}
	t.Fatalf("packet %q did not arrive", payload)
}

// The world of the tests: a server and clients on the loopback.
//
//	client n 10.77.0.n --- UDP on 127.0.0.1 --- server 10.77.0.1
var serverAddr = netip.MustParseAddr("10.77.0.1")

func clientAddr(n byte) netip.Addr { return netip.AddrFrom4([4]byte{10, 77, 0, n}) }

// keptAway in the name of a test makes the servers in it keep peers that are away out of their devices.
const keptAway = "/away/"

// newTestServer makes a server that knows the peers, and closes it at the end of the test.
func newTestServer(t testing.TB, config ServerConfig) (*Server, *fakeTUN) {
	t.Helper()
	inner := newFakeTUN()
	config.Device = inner
	if strings.Contains(t.Name(), keptAway) {
		config.Many = -1
	}
	s, err := NewServer(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s, inner
}

// newTestClient makes a client n of the server at port, and closes it at the end of the test.
func newTestClient(t testing.TB, config ClientConfig) (*Client, *fakeTUN) {
	t.Helper()
	inner := newFakeTUN()
	config.Name, config.Device = "test", inner
	c, err := NewClient(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c, inner
}

// account is what a server and one client share.
type account struct {
	key  PrivateKey
	peer Peer
	addr netip.Addr
}

func newAccount(n byte) account {
	key := GeneratePrivateKey()
	return account{key: key, addr: clientAddr(n), peer: Peer{
		Name:         string(rune('a' + n)),
		PublicKey:    key.Public(),
		PresharedKey: GeneratePresharedKey(),
		AllowedIPs:   []netip.Prefix{netip.PrefixFrom(clientAddr(n), 32)},
	}}
}

// file is the account's file for a server at the loopback.
func (a account) file(server PublicKey, port uint16) *Config {
	return ClientFile(ServerInfo{Endpoints: []Endpoint{{"127.0.0.1", port}}, PublicKey: server}, a.key, a.peer)
}

// within bounds what must not hang. No test depends on how long it takes.
func within(t testing.TB, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

func connect(t testing.TB, c *Client) {
	t.Helper()
	if err := c.Connect(within(t, time.Minute)); err != nil {
		t.Fatal(err)
	}
}

// echo sends a packet each way between client and server.
func echo(t *testing.T, client, server *fakeTUN, a account, payload string) {
	t.Helper()
	deliver(t, client, server, a.addr, serverAddr, payload+" up")
	deliver(t, server, client, serverAddr, a.addr, payload+" down")
}
