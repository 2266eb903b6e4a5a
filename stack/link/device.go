package link

import (
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"

	"golang.zx2c4.com/wireguard/tun"
)

// headroom is how many bytes wireguard's TUN devices want in front of a packet that they write: a virtio header on Linux, four bytes of
// protocol family on the BSDs.
const headroom = 16

// maxBatch bounds what a device's BatchSize may ask for.
const maxBatch = 128

// FromDevice makes a Port of a device that knows no offloads: super-packets are cut and checksums finished in software.
// The Port owns the device: closing one closes the other.
func FromDevice(dev tun.Device) Port {
	batch := min(max(dev.BatchSize(), 1), maxBatch)
	p := &devicePort{dev: dev, batch: batch, bufs: make([][]byte, batch), sizes: make([]int, batch)}
	p.out.New = func() any { return new(deviceBatch) }
	go p.watch()
	return p
}

type devicePort struct {
	dev   tun.Device
	batch int
	bufs  [][]byte // of the reader
	sizes []int
	out   sync.Pool // *deviceBatch
	once  sync.Once
	shut  atomic.Bool // Close was called
	err   error
}

// failure is what an error of the device's means. wireguard's devices say that they are closed when the system took them
// away.
func (p *devicePort) failure(err error) error {
	switch {
	case err == nil:
		return nil
	case p.shut.Load():
		return fmt.Errorf("%w: %w", net.ErrClosed, err)
	case errors.Is(err, os.ErrClosed), isGone(p.dev):
		return ErrGone
	}
	return err
}

// deviceBatch is what one Write needs: the packet in one piece and its segments.
type deviceBatch struct {
	seg  Segmenter
	flat []byte
	bufs [][]byte
}

// watch drains the device's events, which must not be left unread, until Close.
func (p *devicePort) watch() {
	for range p.dev.Events() {
	}
}

func (p *devicePort) Read(pkts []Packet) (int, error) {
	n := min(len(pkts), p.batch)
	for i := range n {
		p.bufs[i] = pkts[i].Data[:cap(pkts[i].Data)]
	}
	// Darwin and the BSDs read their four bytes of protocol family in front of the offset.
	got, err := p.dev.Read(p.bufs[:n], p.sizes[:n], headroom)
	for i := range got {
		pkts[i].Meta = Meta{}
		pkts[i].Data = p.bufs[i][headroom : headroom+p.sizes[i]]
	}
	if got > 0 && errors.Is(err, tun.ErrTooManySegments) {
		err = nil // what fitted is good; the rest is lost, as on a card that ran out of descriptors
	}
	return got, p.failure(err)
}

func (p *devicePort) Write(m Meta, pieces [][]byte) error {
	b := p.out.Get().(*deviceBatch)
	defer p.out.Put(b)
	b.flat = b.flat[:0]
	for _, piece := range pieces {
		b.flat = append(b.flat, piece...)
	}
	if err := b.seg.Reset(m, b.flat); err != nil {
		return err
	}
	n := 0
	for ; !b.seg.Done(); n++ {
		if n == len(b.bufs) {
			b.bufs = append(b.bufs, nil)
		}
		want := headroom + len(b.flat)
		if m.GSO != GSONone {
			want = headroom + int(m.SegSize) + 128
		}
		if cap(b.bufs[n]) < want {
			b.bufs[n] = make([]byte, want)
		}
		b.bufs[n] = b.bufs[n][:cap(b.bufs[n])]
		size, err := b.seg.Next(b.bufs[n][headroom:])
		if err != nil {
			return err
		}
		b.bufs[n] = b.bufs[n][:headroom+size]
	}
	_, err := p.dev.Write(b.bufs[:n], headroom)
	return p.failure(err)
}

func (p *devicePort) BatchSize() int { return p.batch }

func (p *devicePort) MTU() int {
	mtu, err := p.dev.MTU()
	if err != nil {
		return 0
	}
	return mtu
}

func (p *devicePort) Close() error {
	p.once.Do(func() {
		p.shut.Store(true)
		p.err = p.dev.Close()
	})
	if errors.Is(p.err, os.ErrClosed) || errors.Is(p.err, syscall.EPIPE) { // it has ended by itself, or is about to
		return nil
	}
	return p.err
}
