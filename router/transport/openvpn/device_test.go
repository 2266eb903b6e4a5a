package openvpn

import (
	"encoding/binary"
	"net/netip"
	"os"
	"sync"
	"testing"
	"time"
)

// fakeDevice stands in for a stack: tests put packets in and take out what the tunnel brought.
type fakeDevice struct {
	out    chan []byte // towards the tunnel
	in     chan []byte // from the tunnel
	closed chan struct{}
	once   sync.Once
}

func newFakeDevice() *fakeDevice {
	return &fakeDevice{out: make(chan []byte, 1024), in: make(chan []byte, 4096), closed: make(chan struct{})}
}

func (d *fakeDevice) BatchSize() int { return 32 }

func (d *fakeDevice) Close() error {
	d.once.Do(func() { close(d.closed) })
	return nil
}

func (d *fakeDevice) Read(bufs [][]byte, sizes []int, offset int) (int, error) {
	select {
	case p := <-d.out:
		sizes[0] = copy(bufs[0][offset:], p)
	case <-d.closed:
		return 0, os.ErrClosed
	}
	for n := 1; ; n++ {
		if n == len(bufs) {
			return n, nil
		}
		select {
		case p := <-d.out:
			sizes[n] = copy(bufs[n][offset:], p)
		default:
			return n, nil
		}
	}
}

func (d *fakeDevice) Write(bufs [][]byte, offset int) (int, error) {
	for _, b := range bufs {
		select {
		case d.in <- append([]byte(nil), b[offset:]...):
		default:
		}
	}
	return len(bufs), nil
}

// settingsBox keeps the newest Settings for a test.
type settingsBox struct {
	mu  sync.Mutex // guards below
	all []Settings
}

func (b *settingsBox) set(s Settings) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.all = append(b.all, s)
	return nil
}

func (b *settingsBox) last(t testing.TB) Settings {
	t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.all) == 0 {
		t.Fatal("nothing was configured")
	}
	return b.all[len(b.all)-1]
}

func sum16(parts ...[]byte) uint16 {
	var sum uint32
	for _, b := range parts {
		for i := 0; i+1 < len(b); i += 2 {
			sum += uint32(binary.BigEndian.Uint16(b[i:]))
		}
		if len(b)%2 == 1 {
			sum += uint32(b[len(b)-1]) << 8
		}
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}

// echoPacket makes an ICMP echo request.
func echoPacket(src, dst netip.Addr, seq uint16, size int) []byte {
	b := make([]byte, 28+size)
	b[0], b[8], b[9] = 0x45, 64, 1
	binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
	copy(b[12:], src.AsSlice())
	copy(b[16:], dst.AsSlice())
	binary.BigEndian.PutUint16(b[10:], sum16(b[:20]))
	b[20] = 8
	binary.BigEndian.PutUint16(b[24:], 0x7777)
	binary.BigEndian.PutUint16(b[26:], seq)
	binary.BigEndian.PutUint16(b[22:], sum16(b[20:]))
	return b
}

// echoReply returns the sequence number of an ICMP echo reply.
func echoReply(b []byte) (seq uint16, ok bool) {
	if len(b) < 28 || b[0] != 0x45 || b[9] != 1 || b[20] != 0 {
		return 0, false
	}
	return binary.BigEndian.Uint16(b[26:]), true
}

// pinger sends an echo request at every interval and counts the answers.
type pinger struct {
	device   *fakeDevice
	src, dst netip.Addr
	stop     chan struct{}
	wg       sync.WaitGroup

	mu       sync.Mutex // guards below
	sent     int
	answered map[uint16]bool
}

func startPinger(t testing.TB, d *fakeDevice, src, dst netip.Addr, every time.Duration) *pinger {
	t.Helper()
	p := &pinger{device: d, src: src, dst: dst, stop: make(chan struct{}), answered: make(map[uint16]bool)}
	p.wg.Go(func() {
		ticker := time.NewTicker(every)
		defer ticker.Stop()
		for {
			select {
			case <-p.stop:
				return
			case <-ticker.C:
				p.mu.Lock()
				p.sent++
				seq := uint16(p.sent)
				p.mu.Unlock()
				p.device.out <- echoPacket(p.src, p.dst, seq, 56)
			case b := <-p.device.in:
				if seq, ok := echoReply(b); ok {
					p.mu.Lock()
					p.answered[seq] = true
					p.mu.Unlock()
				}
			}
		}
	})
	return p
}

// finish stops sending, waits for late answers and returns how many requests were sent and lost.
func (p *pinger) finish() (sent, lost int) {
	close(p.stop)
	p.wg.Wait()
	late := time.NewTimer(time.Second)
	defer late.Stop()
	for len(p.answered) < p.sent {
		select {
		case b := <-p.device.in:
			if seq, ok := echoReply(b); ok {
				p.answered[seq] = true
			}
		case <-late.C:
			return p.sent, p.sent - len(p.answered)
		}
	}
	return p.sent, 0
}

// count returns how many requests were sent and answered so far.
func (p *pinger) count() (sent, answered int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.sent, len(p.answered)
}

// ping sends echo requests until one is answered.
func ping(t testing.TB, d *fakeDevice, src, dst netip.Addr) {
	t.Helper()
	ticker := time.NewTicker(200 * time.Millisecond)
	defer ticker.Stop()
	deadline := time.After(10 * time.Second)
	d.out <- echoPacket(src, dst, 0xffff, 56)
	for {
		select {
		case b := <-d.in:
			if _, ok := echoReply(b); ok {
				return
			}
		case <-ticker.C:
			d.out <- echoPacket(src, dst, 0xffff, 56)
		case <-deadline:
			t.Fatal("no echo reply in 10 s")
		}
	}
}
