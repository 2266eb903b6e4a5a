package stack

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.zx2c4.com/wireguard/tun"

	"penstock/stack/link"
	"penstock/stack/packet"
)

// failing is a port whose Read fails with err once it is told to.
type failing struct {
	err  error
	fail chan struct{}
}

func (f *failing) Read([]link.Packet) (int, error) { <-f.fail; return 0, f.err }
func (f *failing) Write(link.Meta, [][]byte) error { return f.err }
func (f *failing) BatchSize() int                  { return 1 }
func (f *failing) MTU() int                        { return 1500 }
func (f *failing) Close() error                    { return nil }

// lines is a log that a test reads.
type lines struct {
	mu sync.Mutex // guards below
	b  bytes.Buffer
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func TestALinkThatFailsIsReported(t *testing.T) {
	for _, row := range []struct {
		name   string
		err    error
		report bool
	}{
		{"an I/O error", os.NewSyscallError("read", io.ErrUnexpectedEOF), true},
		{"a device that is gone", link.ErrGone, true},
		{"a port that was closed", net.ErrClosed, false},
		{"a file that was closed", os.ErrClosed, false},
	} {
		t.Run(row.name, func(t *testing.T) {
			var log lines
			failed := make(chan error, 1)
			s, err := New(Config{Log: slog.New(slog.NewTextHandler(&log, nil)), LinkFailed: func(err error) { failed <- err }})
			if err != nil {
				t.Fatal(err)
			}
			p := &failing{row.err, make(chan struct{})}
			if err := s.Attach(p); err != nil {
				t.Fatal(err)
			}
			close(p.fail)
			if row.report {
				if err := <-failed; !errors.Is(err, row.err) {
					t.Errorf("got %v, want %v", err, row.err)
				}
			}
			s.Close() // waits for the reader
			select {
			case err := <-failed:
				t.Errorf("got %v once more, or although the port was closed", err)
			default:
			}
			if got := strings.Contains(log.String(), "the link failed"); got != row.report {
				t.Errorf("logged %v, want %v: %s", got, row.report, log.String())
			}
		})
	}
}

func TestClosingTheStackIsNoFailure(t *testing.T) {
	s, err := New(Config{LinkFailed: func(err error) { t.Errorf("LinkFailed was called with %v", err) }})
	if err != nil {
		t.Fatal(err)
	}
	p := &failing{errors.New("a port that does not keep to its contract"), make(chan struct{})}
	if err := s.Attach(p); err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(20*time.Millisecond, func() { close(p.fail) })
	s.Close()
}

func TestNewRejectsWhatCannotBe(t *testing.T) {
	for _, row := range []struct {
		name string
		c    Config
		want string
	}{
		{"an MTU too small for IPv4", Config{MTU: 500}, "stack stack: MTU 500 is outside 576 to 65535"},
		{"an MTU no packet can have", Config{Name: "x", MTU: 70000}, "stack x: MTU 70000 is outside 576 to 65535"},
		{"an address that is none", Config{Addrs: append(serverAddrs[:1:1], serverAddrs[0].Masked(), netip.Prefix{})}, "stack stack: invalid address invalid Prefix"},
	} {
		s, err := New(row.c)
		if err == nil {
			s.Close()
			t.Errorf("%s: no error", row.name)
			continue
		}
		if got := err.Error(); got != row.want {
			t.Errorf("%s: got %q, want %q", row.name, got, row.want)
		}
	}
}

func TestTheMTUBoundsWhatIsSent(t *testing.T) {
	p := newPair(t, byDevice, Limits{}, echo)
	p.server.SetMTU(1300)
	if got := p.server.MTU(); got != 1300 {
		t.Fatalf("got MTU %d, want 1300", got)
	}
	s, w := newWire(t, Config{MTU: 1280, Handle: Waiting(echo)}, nil)
	w.send(udpFrom(addr("10.0.0.2:5"), web, make([]byte, 1440)))
	for n := 0; n < 2; n++ {
		q := w.expect("fragment", func(q packet.Packet) bool { return q.Fragment })
		if len(q.Raw) > s.MTU() {
			t.Errorf("got a packet of %d bytes, want at most %d", len(q.Raw), s.MTU())
		}
	}
}

func TestDeviceLifeCycle(t *testing.T) {
	s, err := New(Config{Name: "dev", Addrs: clientAddrs})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	d := s.Device()
	if d != s.Device() {
		t.Error("a second call made another device while the first is open")
	}
	if name, _ := d.Name(); name != "dev" {
		t.Errorf("got name %q, want dev", name)
	}
	if mtu, _ := d.MTU(); mtu != 1500 {
		t.Errorf("got MTU %d, want 1500", mtu)
	}
	if e := <-d.Events(); e != tun.EventUp {
		t.Errorf("got event %v, want up", e)
	}
	c, err := s.DialContext(t.Context(), "udp", "203.0.113.9:443")
	if err != nil {
		t.Fatal(err)
	}
	read := make(chan error, 1)
	bufs, sizes := [][]byte{make([]byte, 2000)}, make([]int, 1)
	go func() {
		for {
			if _, err := d.Read(bufs, sizes, 16); err != nil {
				read <- err
				return
			}
		}
	}()
	if _, err := c.Write(make([]byte, 100)); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := d.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	}
	if err := <-read; !errors.Is(err, os.ErrClosed) {
		t.Errorf("a read of a closed device: got %v, want os.ErrClosed", err)
	}
	if _, err := d.Write([][]byte{make([]byte, 60)}, 16); !errors.Is(err, os.ErrClosed) {
		t.Errorf("a write to a closed device: got %v, want os.ErrClosed", err)
	}
	if _, err := c.Write(make([]byte, 100)); err == nil {
		t.Error("a packet was sent without a device")
	}
	next := s.Device() // flows survive their device
	if next == d {
		t.Fatal("a closed device was returned again")
	}
	if _, err := c.Write(make([]byte, 100)); err != nil {
		t.Errorf("the flow did not survive: %v", err)
	}
	if n, err := next.Read(bufs, sizes, 16); n != 1 || err != nil || sizes[0] != 128 {
		t.Errorf("got %d packets of %d bytes, %v; want one of 128", n, sizes[0], err)
	}
}

func TestADeviceThatNobodyReadsDropsInsteadOfBlocking(t *testing.T) {
	s, err := New(Config{Addrs: clientAddrs})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	d := s.Device()
	c, err := s.DialContext(t.Context(), "udp", "203.0.113.9:443")
	if err != nil {
		t.Fatal(err)
	}
	refused := 0
	for range (2 << 20) / 1400 { // twice what the queue takes
		if _, err := c.Write(make([]byte, 1400)); err != nil {
			refused++
		}
	}
	if refused == 0 {
		t.Error("a queue without a reader took everything")
	}
	bufs, sizes := [][]byte{make([]byte, 2000)}, make([]int, 1)
	if _, err := d.Read(bufs, sizes, 16); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Write(make([]byte, 1400)); err != nil {
		t.Errorf("after the reader came back: %v", err)
	}
	small := [][]byte{make([]byte, 70)}
	for range 2 { // a reader with too little room loses the packet, not the device
		if _, err := c.Write(make([]byte, 20)); err != nil {
			t.Fatal(err)
		}
	}
	for range 4 {
		n, err := d.Read(small, sizes, 16)
		if err != nil {
			t.Fatal(err)
		}
		if n == 1 && sizes[0] == 48 {
			return
		}
	}
	t.Error("the small packet was never read")
}
