package door

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeBind is sockets that remember what is sent.
type fakeBind struct {
	conn.Bind
	sent [][]byte
}

func (b *fakeBind) Open(port uint16) ([]conn.ReceiveFunc, uint16, error) { return nil, port, nil }
func (b *fakeBind) Close() error                                         { return nil }

func (b *fakeBind) Send(datagrams [][]byte, _ conn.Endpoint) error {
	b.sent = append(b.sent, datagrams...)
	return nil
}

func (b *fakeBind) ParseEndpoint(s string) (conn.Endpoint, error) {
	return &fakeEndpoint{dst: netip.MustParseAddrPort(s)}, nil
}

type fakeEndpoint struct {
	src netip.Addr
	dst netip.AddrPort
}

func (e *fakeEndpoint) ClearSrc()           { e.src = netip.Addr{} }
func (e *fakeEndpoint) SrcToString() string { return e.src.String() }
func (e *fakeEndpoint) DstToString() string { return e.dst.String() }
func (e *fakeEndpoint) DstToBytes() []byte  { b, _ := e.dst.MarshalBinary(); return b }
func (e *fakeEndpoint) DstIP() netip.Addr   { return e.dst.Addr() }
func (e *fakeEndpoint) SrcIP() netip.Addr   { return e.src }

func endpoint(s string) *fakeEndpoint { return &fakeEndpoint{dst: netip.MustParseAddrPort(s)} }

// newTestDoor makes a door for a public key, behind which nobody is.
func newTestDoor(t *testing.T, public device.NoisePublicKey) (*Door, *fakeBind) {
	bind := new(fakeBind)
	d := New(bind, device.NoisePrivateKey{1}, public, func(device.NoisePublicKey, func() (Moment, error)) Refusal { return Stranger })
	for i := range d.rates {
		t.Cleanup(d.rates[i].Close)
	}
	return d, bind
}

// arrive lets a packet come in from an address.
func arrive(d *Door, packet []byte, from conn.Endpoint) (held bool) {
	sizes := []int{len(packet)}
	d.hold([][]byte{packet}, sizes, []conn.Endpoint{from})
	for {
		select {
		case c := <-d.asked:
			d.sendCookie(&c)
		default:
			return sizes[0] == 0
		}
	}
}

func TestUnderLoadAnAddressIsProved(t *testing.T) {
	public := device.NoisePublicKey{2}
	d, bind := newTestDoor(t, public)
	var peer, other device.CookieGenerator
	peer.Init(public)
	other.Init(public)
	packet := make([]byte, device.MessageInitiationSize)
	binary.LittleEndian.PutUint32(packet, device.MessageInitiationType)
	binary.LittleEndian.PutUint32(packet[4:], 77)
	here, there := endpoint("192.0.2.1:1000"), endpoint("192.0.2.2:1000")
	expect := func(what string, waiting int, unproved uint64) {
		t.Helper()
		if got := d.Refused()[Unproved]; len(d.waiting) != waiting || got != unproved {
			t.Fatalf("%s: got %d waiting and %d refused, want %d and %d", what, len(d.waiting), got, waiting, unproved)
		}
	}

	peer.AddMacs(packet)
	if !arrive(d, packet, here) {
		t.Error("an initiation reached the device, want it held")
	}
	expect("without load", 1, 0)
	d.load()
	peer.AddMacs(packet)
	arrive(d, packet, here)
	expect("under load", 1, 1)

	var reply device.MessageCookieReply
	sent := bind.sent[0]
	if len(sent) != device.MessageCookieReplySize {
		t.Fatalf("got %d bytes, want a cookie", len(sent))
	}
	reply.Type, reply.Receiver = binary.LittleEndian.Uint32(sent), binary.LittleEndian.Uint32(sent[4:])
	copy(reply.Nonce[:], sent[8:])
	copy(reply.Cookie[:], sent[32:])
	if reply.Type != device.MessageCookieReplyType || reply.Receiver != 77 || !peer.ConsumeReply(&reply) {
		t.Fatalf("got %+v, want a cookie for the initiation", reply)
	}
	peer.AddMacs(packet)
	arrive(d, packet, there)
	expect("with a cookie from another address", 1, 2)
	arrive(d, packet, here)
	expect("with the cookie", 2, 2)
	other.AddMacs(packet) // as if with a cookie of the device's
	arrive(d, packet, here)
	expect("without it, from the address that was proved", 3, 2)
	for range 50 {
		arrive(d, packet, here)
	}
	if got := d.Refused()[TooMany]; got == 0 || len(d.waiting) > 40 {
		t.Errorf("many from one address: got %d refused and %d waiting, want a limit", got, len(d.waiting))
	}
}

func TestWhatIsNoInitiationPasses(t *testing.T) {
	d, _ := newTestDoor(t, device.NoisePublicKey{2})
	for name, packet := range map[string][]byte{
		"data":                                  append([]byte{device.MessageTransportType}, make([]byte, device.MessageInitiationSize-1)...),
		"an initiation that is too long":        append([]byte{device.MessageInitiationType}, make([]byte, device.MessageInitiationSize)...),
		"data of the first kind, and otherwise": append([]byte{device.MessageInitiationType, 1}, make([]byte, device.MessageInitiationSize-2)...),
	} {
		if arrive(d, packet, endpoint("192.0.2.1:1000")) {
			t.Errorf("%s was held", name)
		}
	}
	if !arrive(d, append([]byte{device.MessageInitiationType}, make([]byte, device.MessageInitiationSize-1)...), endpoint("192.0.2.1:1000")) || d.Refused()[Forged] != 1 {
		t.Errorf("an initiation without mac1: got %v refused, want it to be forged", d.Refused())
	}
}

func TestThePassEndsWithTheSockets(t *testing.T) {
	d, _ := newTestDoor(t, device.NoisePublicKey{2})
	for range 2 { // they are opened anew when the network changes
		ways, _, err := d.Open(0)
		if err != nil {
			t.Fatal(err)
		}
		d.passed <- call{from: endpoint("192.0.2.1:1000")}
		packets, sizes, from := [][]byte{make([]byte, 200), make([]byte, 200)}, make([]int, 2), make([]conn.Endpoint, 2)
		if n, err := ways[0](packets, sizes, from); n != 1 || err != nil || sizes[0] != device.MessageInitiationSize || from[0].DstIP().String() != "192.0.2.1" {
			t.Errorf("got %d packets of %v bytes from %v and %v, want the one that has passed", n, sizes, from, err)
		}
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
		if _, err := ways[0](packets, sizes, from); !errors.Is(err, net.ErrClosed) {
			t.Errorf("after Close: got %v, want %v", err, net.ErrClosed)
		}
	}
}

func TestRefusalsHaveLabels(t *testing.T) {
	seen := make(map[string]bool)
	for r := Admitted; r < refusals; r++ {
		seen[r.String()] = true
	}
	if len(seen) != int(refusals) || seen[""] {
		t.Errorf("got %v, want a label for each", seen)
	}
}

func TestTheDeviceHasFewAtATime(t *testing.T) {
	g, now := newGiven(), time.Now()
	expect := func(what string, n int, now time.Time, want int) {
		t.Helper()
		if got, wait := g.take(n, now); got != want || (got == 0) != (wait > 0) {
			t.Errorf("%s: got room for %d, and %v to wait, want %d", what, got, wait, want)
		}
	}
	expect("one", 1, now, 1)
	expect("many", 1000, now, mostGiven-1)
	expect("one more", 1, now, 0)
	for range 3 {
		g.answered()
	}
	expect("after three answers", 1000, now, 3)
	expect("just before they are out of date", 1, now.Add(givenLasts-1), 0)
	expect("once they are", 1000, now.Add(givenLasts), mostGiven)
	for range 2 * mostGiven { // some come late
		g.answered()
	}
	expect("after more answers than questions", 1000, now, mostGiven)
}

// TestAllPassInTheEnd passes more initiations than the device may have, of which it answers some.
func TestAllPassInTheEnd(t *testing.T) {
	d, bind := newTestDoor(t, device.NoisePublicKey{2})
	ways, _, err := d.Open(0)
	if err != nil {
		t.Fatal(err)
	}
	pass := ways[len(ways)-1]
	const all, answers = 3 * mostGiven, 10
	for range all {
		d.passed <- call{from: endpoint("192.0.2.1:1000")}
	}
	packets, sizes, from := make([][]byte, 128), make([]int, 128), make([]conn.Endpoint, 128)
	for i := range packets {
		packets[i] = make([]byte, device.MessageInitiationSize)
	}
	answer := make([]byte, device.MessageResponseSize)
	answer[0] = device.MessageResponseType
	for passed := 0; passed < all; {
		n, err := pass(packets, sizes, from)
		if err != nil {
			t.Fatal(err)
		}
		if n > mostGiven {
			t.Errorf("got %d at once, want at most %d", n, mostGiven)
		}
		passed += n
		for len(bind.sent) < answers {
			if err := d.Send([][]byte{answer}, endpoint("192.0.2.1:1000")); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := pass(packets, sizes, from); !errors.Is(err, net.ErrClosed) {
		t.Errorf("after Close: got %v, want %v", err, net.ErrClosed)
	}
}
