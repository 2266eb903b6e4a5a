package sockets

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"
	"time"

	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
)

// fakeSockets receives what a test gives it, and remembers where packets were sent to.
type fakeSockets struct {
	conn.Bind
	in   chan []arrival
	sent []string
}

// arrival is a packet that comes in.
type arrival struct {
	from   string
	packet []byte
}

func (f *fakeSockets) Open(uint16) ([]conn.ReceiveFunc, uint16, error) {
	receive := func(packets [][]byte, sizes []int, from []conn.Endpoint) (int, error) {
		batch := <-f.in
		for i, a := range batch {
			sizes[i] = copy(packets[i], a.packet)
			from[i], _ = f.ParseEndpoint(a.from)
		}
		return len(batch), nil
	}
	return []conn.ReceiveFunc{receive}, 1, nil
}

func (f *fakeSockets) Send(_ [][]byte, to conn.Endpoint) error {
	f.sent = append(f.sent, to.DstToString())
	return nil
}

// message makes a message of WireGuard with what Choice reads of it: the type, and the two words behind it.
func message(kind uint32, size int, words ...uint32) []byte {
	b := make([]byte, size)
	binary.LittleEndian.PutUint32(b, kind)
	for i, w := range words {
		binary.LittleEndian.PutUint32(b[4+4*i:], w)
	}
	return b
}

// TestACallMovesTheSession: the peer at A calls from B. What A still sends must neither take the answer, nor draw the device back once
// something has come in the session with B.
func TestACallMovesTheSession(t *testing.T) {
	const a, b = "192.0.2.1:51820", "192.0.2.2:51820"
	f := &fakeSockets{Bind: ForClient(), in: make(chan []arrival, 1)}
	c := &Choice{Bind: f}
	receivers, _, _ := c.Open(0)
	packets, sizes, from := make([][]byte, 8), make([]int, 8), make([]conn.Endpoint, 8)
	for i := range packets {
		packets[i] = make([]byte, 2048)
	}
	// heard returns from whom the device hears something of a batch.
	heard := func(batch ...arrival) (who []string) {
		f.in <- batch
		n, _ := receivers[0](packets, sizes, from)
		for i := range n {
			if sizes[i] > 0 {
				who = append(who, from[i].DstToString())
			}
		}
		return who
	}
	want := func(what string, got []string, want ...string) {
		t.Helper()
		if !slices.Equal(got, want) {
			t.Errorf("%s: got %v, want %v", what, got, want)
		}
	}
	data := func(from string, session uint32) arrival {
		return arrival{from, message(device.MessageTransportType, device.MessageTransportSize, session)}
	}
	initiation := func(from string, session uint32) arrival {
		return arrival{from, message(device.MessageInitiationType, device.MessageInitiationSize, session)}
	}
	places := func(at string) []Place {
		return []Place{{Addrs: []netip.AddrPort{netip.MustParseAddrPort(a), netip.MustParseAddrPort(b)}, At: netip.MustParseAddrPort(at)}}
	}

	c.Settle(places(a))
	want("unasked", heard(data(b, 7), initiation(b, 70), data(a, 1)), a)

	c.Welcome(time.Hour)
	want("the call", heard(initiation(b, 70), data(a, 1)), b, a)
	at, _ := f.ParseEndpoint(a) // where the device heard the peer last
	if err := c.Send([][]byte{message(device.MessageResponseType, device.MessageResponseSize, 71, 70)}, at); err != nil {
		t.Fatal(err)
	}
	want("the answer goes to", f.sent, b)

	c.Settle(places(a)) // the device has a new handshake, and heard A since
	want("before the session carries", heard(data(a, 1), data(b, 5), data(a, 71), data(a, 1)), a, b, a, a)
	want("when it does", heard(data(a, 1), data(b, 71), data(a, 1), data(b, 71)), a, b, b)
	late := places(a)
	c.Settle(late) // the device has not looked at that packet yet
	if got := late[0].At.String(); got != b {
		t.Errorf("the peer is at %s, want %s", got, b)
	}
	want("afterwards", heard(data(a, 1), data(b, 71)), b)

	c.HearAll()
	want("when all are asked", heard(data(a, 1), data(b, 71)), a, b)
}
