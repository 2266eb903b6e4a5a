package data

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"penstock/router/transport/openvpn/internal/datakey"
	"penstock/router/transport/openvpn/internal/framing"
	"penstock/router/transport/openvpn/internal/link"
	"penstock/router/transport/openvpn/internal/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeLink keeps what is sent and gives what the test puts in.
type fakeLink struct {
	in     chan any // a packet, or an error of Read
	closed chan struct{}
	once   sync.Once

	mu    sync.Mutex // guards below
	sent  [][]byte
	error error // of Write and Post
	stuck chan struct{}
}

func newFakeLink() *fakeLink { return &fakeLink{in: make(chan any, 256), closed: make(chan struct{})} }

func (l *fakeLink) Read() ([][]byte, error) {
	select {
	case v := <-l.in:
		if err, ok := v.(error); ok {
			return nil, err
		}
		return [][]byte{v.([]byte)}, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *fakeLink) Write(buffers [][]byte) error {
	for _, b := range buffers {
		if err := l.Post(b); err != nil {
			return err
		}
	}
	if l.stuck != nil {
		<-l.closed
		return net.ErrClosed
	}
	return nil
}

func (l *fakeLink) Post(b []byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.error == nil {
		l.sent = append(l.sent, bytes.Clone(b[link.Head:]))
	}
	return l.error
}

func (l *fakeLink) all() [][]byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.sent)
}

func (l *fakeLink) Stalled() bool          { return l.stuck != nil }
func (l *fakeLink) Remote() netip.AddrPort { return netip.MustParseAddrPort("192.0.2.1:1194") }
func (l *fakeLink) Close() error           { l.once.Do(func() { close(l.closed) }); return nil }

// fakeDevice keeps what it is given.
type fakeDevice struct {
	full bool
	in   [][]byte
}

func (d *fakeDevice) Write(bufs [][]byte, offset int) (int, error) {
	if d.full {
		return 0, io.ErrShortWrite
	}
	for _, b := range bufs {
		d.in = append(d.in, bytes.Clone(b[offset:]))
	}
	return len(bufs), nil
}

// fakeMeter counts.
type fakeMeter struct {
	mu      sync.Mutex // guards below
	rx, tx  int
	dropped map[Drop]int
}

func (m *fakeMeter) Received(n int, _ time.Time) { m.mu.Lock(); m.rx += n; m.mu.Unlock() }
func (m *fakeMeter) Sent(n int, _ time.Time)     { m.mu.Lock(); m.tx += n; m.mu.Unlock() }
func (m *fakeMeter) Drop(why Drop, n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.dropped == nil {
		m.dropped = make(map[Drop]int)
	}
	m.dropped[why] += n
}

func (m *fakeMeter) drops(why Drop) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.dropped[why]
}

// world is a channel with all around it.
type world struct {
	*Channel
	link   *fakeLink
	device *fakeDevice
	meter  *fakeMeter
}

func newWorld(t *testing.T, tcp bool) *world {
	t.Helper()
	w := &world{link: newFakeLink(), device: &fakeDevice{}, meter: &fakeMeter{}}
	w.Channel = New(Config{Link: w.link, TCP: tcp, Device: w.device, Meter: w.meter})
	return w
}

// keyPair makes the keys of both sides for a key id.
func keyPair(t *testing.T, id uint8) (client, server datakey.Key) {
	t.Helper()
	material := wire.StaticKey{id}
	p := datakey.Params{Cipher: datakey.AES256GCM, KeyID: id, V2: true}
	client, err := datakey.New(&material, p)
	if err != nil {
		t.Fatal(err)
	}
	p.Server = true
	server, err = datakey.New(&material, p)
	if err != nil {
		t.Fatal(err)
	}
	return client, server
}

func seal(t *testing.T, k datakey.Key, plain string) []byte {
	t.Helper()
	out, err := k.Seal(append(make([]byte, k.Head(), k.Head()+len(plain)+datakey.Tail), plain...))
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func open(t *testing.T, k datakey.Key, packet []byte) string {
	t.Helper()
	plain, err := k.Open(append(make([]byte, 0, len(packet)+datakey.Tail), packet...))
	if err != nil {
		t.Fatal(err)
	}
	return string(plain)
}

// give is a batch of packets as the device gives them.
func give(plains ...string) (bufs [][]byte, sizes []int) {
	for _, p := range plains {
		bufs = append(bufs, append(make([]byte, Offset, Offset+len(p)+Tail), p...))
		sizes = append(sizes, len(p))
	}
	return bufs, sizes
}

func TestPacketsPassBothWays(t *testing.T) {
	w := newWorld(t, false)
	client, server := keyPair(t, 0)
	w.Send(give("Early")) // no key: nothing is sent
	w.Install(0, client, Format{V2: true}, time.Time{}, time.Time{})
	w.Send(give("E one", "", "E two"))
	sent := w.link.all()
	if len(sent) != 2 || open(t, server, sent[0]) != "E one" || open(t, server, sent[1]) != "E two" {
		t.Fatalf("sent: got %d packets, want two", len(sent))
	}
	w.Receive([][]byte{seal(t, server, "E in"), seal(t, server, string(Ping)), seal(t, server, "\x60 in")})
	if len(w.device.in) != 2 || string(w.device.in[0]) != "E in" || string(w.device.in[1]) != "\x60 in" {
		t.Errorf("device: got %q, want both IP packets and no ping", w.device.in)
	}
	if w.meter.rx == 0 || w.meter.tx != len(sent[0])+len(sent[1]) {
		t.Errorf("counted: got %d in, %d out", w.meter.rx, w.meter.tx)
	}
}

func TestPacketsAreFramedWhereItIsAgreed(t *testing.T) {
	for kind, wants := range map[framing.Kind][2]string{
		framing.None: {"E out", string(Ping)}, framing.Byte: {"\xfaE out", "\xfa" + string(Ping)},
		framing.Swap: {"\xfb outE", "\xfb" + string(Ping[1:]+Ping[:1])}, framing.V2: {"E out", string(Ping)},
	} {
		w := newWorld(t, false)
		client, server := keyPair(t, 0)
		w.Install(0, client, Format{V2: true, Framing: kind}, time.Time{}, time.Time{})
		w.Send(give("E out"))
		w.SendSpecial(Ping)
		for i, packet := range w.link.all() {
			if got := open(t, server, packet); got != wants[i] {
				t.Errorf("framing %d: sent %q, want %q", kind, got, wants[i])
			}
		}
		w.Receive([][]byte{seal(t, server, wants[0]), seal(t, server, wants[1])})
		compressed := kind == framing.Byte || kind == framing.Swap
		if compressed {
			w.Receive([][]byte{seal(t, server, "\x66E lzo")})
		}
		if len(w.device.in) != 1 || string(w.device.in[0]) != "E out" {
			t.Errorf("framing %d: device got %q, want the packet", kind, w.device.in)
		}
		if got := w.meter.drops(DropFraming); (got == 1) != compressed {
			t.Errorf("framing %d: %d drops of a compressed packet", kind, got)
		}
	}
}

func TestUnreadablePacketsAreNoSignOfLife(t *testing.T) {
	tests := []struct {
		name    string
		kind    framing.Kind
		plain   []string
		puzzled bool
	}{
		{"framed pings, and no framing agreed", framing.None, []string{"\xfa" + string(Ping)}, true},
		{"plain pings, and framing agreed", framing.Byte, []string{string(Ping)}, true},
		{"compressed packets after readable ones", framing.Byte, []string{"\xfaE in", "\x66E in"}, true},
		{"compressed packets after an odd one", framing.Byte, []string{"?", "\xfaE in", "\x66E in"}, true},
		{"compressed packets, and no framing agreed", framing.None, []string{"\x66E in"}, true},
		{"compressed packets that are as long as IPv6", framing.None, []string{"\x69" + strings.Repeat("x", 1200)}, true},
		{"IPv6 of a traffic class like the mark of compression", framing.None, []string{"\x66\x00\x00\x00\x00\x02" + strings.Repeat("\x00", 36)}, false},
		{"and the same, framed", framing.Byte, []string{"\xfa\x69\x00\x00\x00\x00\x02" + strings.Repeat("\x00", 36)}, false},
		{"an odd packet among readable ones", framing.None, []string{"E in", "?"}, false},
		{"readable packets after an odd one", framing.None, []string{"?", "E in"}, false},
		{"a ping and a request for options", framing.None, []string{string(Ping), string(Request)}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t, false)
			client, server := keyPair(t, 0)
			w.Install(0, client, Format{V2: true, Framing: tt.kind}, time.Time{}, time.Time{})
			heard := w.Signs.Heard()
			for _, plain := range tt.plain {
				w.Receive([][]byte{seal(t, server, plain)})
			}
			if err := w.Signs.Puzzled(); (err != nil) != tt.puzzled {
				t.Errorf("puzzled: got %v, want %v", err, tt.puzzled)
			}
			if tt.puzzled && len(tt.plain) == 1 && (w.Signs.Heard() != heard || w.meter.rx != 0) {
				t.Errorf("heard at %v, %d bytes received; want neither", w.Signs.Heard(), w.meter.rx)
			}
		})
	}
}

func TestDrops(t *testing.T) {
	client, server := keyPair(t, 0)
	packet := seal(t, server, "E in")
	forged := seal(t, server, "E in")
	forged[len(forged)-1] ^= 1
	tests := []struct {
		name   string
		packet []byte
		want   Drop
	}{
		{"an empty packet", nil, DropMalformed},
		{"a packet that is cut off", packet[:10], DropMalformed},
		{"a forged packet", forged, DropForged},
		{"a packet that was seen", packet, DropReplay},
		{"a packet of a key id that nobody awaits", append([]byte{wire.Header(wire.DataV2, 3)}, packet[1:]...), DropUnknownKey},
		{"a packet of the other form", append([]byte{wire.Header(wire.DataV1, 0)}, packet[1:]...), DropUnknownKey},
	}
	w := newWorld(t, false)
	w.Install(0, client, Format{V2: true}, time.Time{}, time.Time{})
	padded := func(b []byte) []byte { return append(make([]byte, 0, len(b)+datakey.Tail), b...) }
	w.Receive([][]byte{padded(packet)})
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			before := w.meter.drops(tt.want)
			w.Receive([][]byte{padded(tt.packet)})
			if got := w.meter.drops(tt.want) - before; got != 1 {
				t.Errorf("drops as %s: got %d, want 1", tt.want, got)
			}
		})
	}
	if len(w.device.in) != 1 {
		t.Errorf("device: got %d packets, want 1", len(w.device.in))
	}
	w.device.full = true
	w.Receive([][]byte{seal(t, server, "E"), seal(t, server, "E")})
	if got := w.meter.drops(DropInner); got != 2 {
		t.Errorf("a device that takes nothing: got %d drops, want 2", got)
	}
	w.link.error = io.ErrShortWrite
	w.Send(give("E"))
	if err := w.SendControl(make([]byte, link.Head+9)); err != nil {
		t.Errorf("SendControl: got %v, want a packet lost", err)
	}
	if got := w.meter.drops(DropLink); got != 2 {
		t.Errorf("a socket that takes nothing: got %d drops, want 2", got)
	}
}

func TestControlPacketsAreHandedOver(t *testing.T) {
	w := newWorld(t, false)
	packet := []byte{wire.Header(wire.Control, 0), 1, 2, 3}
	for range inboxSize + 3 {
		w.Receive([][]byte{packet})
	}
	packet[1] = 9 // what was handed over is a copy
	if got := <-w.Control(); !bytes.Equal(got, []byte{wire.Header(wire.Control, 0), 1, 2, 3}) {
		t.Errorf("got % x", got)
	}
	if got := w.meter.drops(DropControl); got != 3 {
		t.Errorf("a flood: got %d drops, want 3", got)
	}
	w.link.error = link.ErrStalled
	if err := w.SendControl(make([]byte, link.Head+9)); !errors.Is(err, link.ErrStalled) {
		t.Errorf("SendControl on a stalled link: got %v", err)
	}
}

func TestDataThatComesBeforeItsKeyIsKept(t *testing.T) {
	w := newWorld(t, false)
	client, server := keyPair(t, 1)
	w.Receive([][]byte{seal(t, server, "E 1")}) // nobody negotiates: dropped
	w.Keys.Await(1)
	w.Receive([][]byte{seal(t, server, "E 2"), seal(t, server, "E 3")})
	for range earlyPackets {
		w.Receive([][]byte{seal(t, server, "E x")})
	}
	if len(w.device.in) != 0 || w.meter.drops(DropUnknownKey) != 3 {
		t.Fatalf("before the key: got %d packets, %d drops; want 0 and 3", len(w.device.in), w.meter.drops(DropUnknownKey))
	}
	w.Install(1, client, Format{V2: true}, time.Time{}, time.Time{})
	if len(w.device.in) != earlyPackets || string(w.device.in[0]) != "E 2" || string(w.device.in[1]) != "E 3" {
		t.Errorf("after: got %d packets, want those that waited", len(w.device.in))
	}
}

func TestSendingKeepsTheOldKeyUntilTheServerUsesTheNew(t *testing.T) {
	now := time.Now()
	install := func(t *testing.T) (w *world, server datakey.Key) {
		w = newWorld(t, false)
		first, _ := keyPair(t, 0)
		w.Install(0, first, Format{V2: true}, now.Add(time.Second), now.Add(time.Hour))
		if expired, next := w.Keys.Tick(now.Add(2 * time.Hour)); expired || !next.IsZero() {
			t.Errorf("the first key: got expired %v, next %v; want nothing due, there is no key before it", expired, next)
		}
		second, server := keyPair(t, 1)
		w.Install(1, second, Format{V2: true}, now.Add(time.Second), now.Add(time.Minute))
		if got := w.Keys.Sending(); got != 0 {
			t.Errorf("at first: sending with %d, want 0", got)
		}
		return w, server
	}
	t.Run("a packet on the new key proves it", func(t *testing.T) {
		w, server := install(t)
		w.Receive([][]byte{seal(t, server, string(Ping))})
		if got := w.Keys.Sending(); got != 1 {
			t.Errorf("got %d, want 1", got)
		}
	})
	t.Run("a forged one does not", func(t *testing.T) {
		w, server := install(t)
		packet := seal(t, server, string(Ping))
		packet[len(packet)-1] ^= 1
		w.Receive([][]byte{packet})
		if got := w.Keys.Sending(); got != 0 {
			t.Errorf("got %d, want 0", got)
		}
	})
	t.Run("a renegotiation by the server proves it", func(t *testing.T) {
		w, _ := install(t)
		w.Keys.Trust()
		if got := w.Keys.Sending(); got != 1 {
			t.Errorf("got %d, want 1", got)
		}
	})
	t.Run("time is proof enough in the end, and ends the old key", func(t *testing.T) {
		w, _ := install(t)
		if expired, next := w.Keys.Tick(now); expired || next != now.Add(time.Second) || w.Keys.Sending() != 0 {
			t.Errorf("before: got expired %v, next %v", expired, next)
		}
		if expired, next := w.Keys.Tick(now.Add(2 * time.Second)); expired || next != now.Add(time.Minute) || w.Keys.Sending() != 1 {
			t.Errorf("after: got expired %v, next %v", expired, next)
		}
		if expired, _ := w.Keys.Tick(now.Add(time.Hour)); !expired {
			t.Error("after an hour: the old key has not expired")
		}
		w.Keys.Remove(0)
		if expired, next := w.Keys.Tick(now.Add(time.Hour)); expired || !next.IsZero() || !slices.Equal(w.Keys.Opening(), []int{1}) {
			t.Errorf("removed: got expired %v, next %v, keys %v", expired, next, w.Keys.Opening())
		}
	})
}

func TestSpecialsDoNotWaitForAStalledLink(t *testing.T) {
	w := newWorld(t, true)
	client, server := keyPair(t, 0)
	w.Install(0, client, Format{V2: true}, time.Time{}, time.Time{})
	w.SendSpecial(Request)
	if sent := w.link.all(); len(sent) != 1 || open(t, server, sent[0]) != string(Request) {
		t.Fatalf("sent %d packets, want the request", len(sent))
	}
	w.link.stuck = make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() { w.Send(give("E data")) })
	for len(w.link.all()) < 2 {
		time.Sleep(time.Millisecond)
	}
	spoke := w.Signs.Spoke()
	done := make(chan struct{})
	go func() { w.SendSpecial(Ping); close(done) }()
	select {
	case <-done:
	case <-time.After(5 * time.Second):
		t.Error("SendSpecial waits for the link")
	}
	if w.Signs.Spoke() != spoke {
		t.Error("a ping that was not sent counts as sent")
	}
	_ = w.Close()
	wg.Wait()
	<-done
}

func TestTroubleOfASocketIsAHint(t *testing.T) {
	w := newWorld(t, false)
	ctx, cancel := context.WithCancel(t.Context())
	w.Start(ctx)
	w.link.in <- error(syscall.ECONNREFUSED)
	select {
	case <-w.Wake():
	case <-time.After(5 * time.Second):
		t.Fatal("nobody was woken")
	}
	if !w.Signs.Refused() || w.Signs.Refused() {
		t.Error("Refused: want true, once")
	}
	w.link.in <- []byte{wire.Header(wire.Control, 0), 1}
	<-w.Control() // the reader goes on
	fresh := newFakeLink()
	w.Rebind(ctx, fresh)
	fresh.in <- []byte{wire.Header(wire.Control, 0), 2}
	if got := <-w.Control(); got[1] != 2 {
		t.Errorf("after Rebind: got % x", got)
	}
	select {
	case <-w.link.closed:
	default:
		t.Error("Rebind left the old link open")
	}
	cancel()
	_ = w.Close()
}

func TestAnErrorOnTCPIsTheEnd(t *testing.T) {
	w := newWorld(t, true)
	w.Start(t.Context())
	w.link.in <- error(io.ErrUnexpectedEOF)
	select {
	case err := <-w.Down():
		if !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("Down: got %v", err)
		}
	case <-time.After(5 * time.Second):
		t.Error("Down: nothing")
	}
	_ = w.Close()
}

type spentKey struct{ datakey.Key }

func (spentKey) Spent() bool { return true }

func TestSpentIsOfTheNewestKey(t *testing.T) {
	w := newWorld(t, false)
	if w.Keys.Spent() || w.Keys.Sending() != -1 {
		t.Error("without a key: got spent, or a key")
	}
	k, _ := keyPair(t, 0)
	w.Install(0, spentKey{k}, Format{V2: true}, time.Time{}, time.Time{})
	if !w.Keys.Spent() {
		t.Error("a spent key: got not spent")
	}
	k, _ = keyPair(t, 1)
	w.Install(1, k, Format{V2: true}, time.Time{}, time.Time{})
	if w.Keys.Spent() {
		t.Error("a fresh key: got spent")
	}
}
