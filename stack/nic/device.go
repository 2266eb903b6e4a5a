package nic

import (
	"errors"
	"net"
	"os"
	"sync"
	"time"

	"golang.zx2c4.com/wireguard/tun"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"penstock/stack/link"
)

const (
	// Batch is how many packets one Read or Write may carry: the batch of wireguard-go on Linux.
	Batch = 128
	// queueBytes bounds what waits for the reader: a few bandwidth-delay products of a LAN, little enough not to
	// bloat a slow uplink much beyond what TCP itself keeps in flight.
	queueBytes = 1 << 20
	// queuePatience is how long a writer waits for a reader that has stopped reading. After that, packets are dropped.
	// A healthy reader drains the queue in well under a millisecond.
	queuePatience = 20 * time.Millisecond
)

// Device is a stack seen as a tun.Device: what the stack sends is read, what is written arrives at the stack.
// Super-packets are cut late, into the reader's own buffers; what is written in one batch is merged again before the
// stack sees it. A full queue holds its writers back, so that TCP inside meets no loss that the transport did not make.
type Device struct {
	name    string
	card    *Card
	receive func(bufs [][]byte, offset int)
	events  chan tun.Event

	mu      sync.Mutex // guards below
	queue   []queued
	bytes   int
	stalled bool // a writer ran out of patience: drop until the reader comes back
	closed  bool
	filled  chan struct{} // capacity 1: something was queued
	drained sync.Cond

	// The reader's own state: one goroutine reads.
	batch []queued
	next  int // first of batch that was not handed out
	seg   link.Segmenter
	flat  []byte
	raw   queued // what seg cuts, if it is not in flat
	close chan struct{}
	woken chan struct{} // capacity 1: see Wake
}

// Pools of the packets of ours that wait for a reader: ordinary ones, and super-packets.
var (
	rawPool = sync.Pool{New: func() any { b := make([]byte, smallPacket); return &b }}
	bigPool = sync.Pool{New: func() any { b := make([]byte, link.MaxPacket); return &b }}
)

const smallPacket = 2048

var errQueueFull = errors.New("the reader of the device does not keep up")

// queued is one outbound packet: gVisor's, or the bytes of one of ours, from a pool.
type queued struct {
	pkt  *stack.PacketBuffer
	raw  *[]byte
	meta link.Meta     // of raw
	mark chan struct{} // in place of a packet: closed once the reader is done with all before it
}

// release gives the packet back. Nobody may use it afterwards.
func (q queued) release() {
	switch {
	case q.mark != nil:
		close(q.mark)
		return
	case q.pkt != nil:
		q.pkt.DecRef()
		return
	case q.raw == nil:
		return
	}
	if cap(*q.raw) > smallPacket {
		bigPool.Put(q.raw)
	} else {
		rawPool.Put(q.raw)
	}
}

// newRaw returns an empty buffer for a packet of ours. release gives it back.
func newRaw(size int) *[]byte {
	var raw *[]byte
	if size > smallPacket {
		raw = bigPool.Get().(*[]byte)
	} else {
		raw = rawPool.Get().(*[]byte)
	}
	*raw = (*raw)[:0]
	return raw
}

func (q queued) size() int {
	switch {
	case q.mark != nil:
		return 0
	case q.pkt != nil:
		return q.pkt.Size()
	}
	return len(*q.raw)
}

// Device makes a device of the card. receive takes what is written to it, a packet from each buffer's offset on, and does
// not keep the bytes. The card sends to it once UseDevice says so.
func (n *Card) Device(name string, receive func(bufs [][]byte, offset int)) *Device {
	d := &Device{
		name:    name,
		card:    n,
		receive: receive,
		events:  make(chan tun.Event, 4),
		filled:  make(chan struct{}, 1),
		close:   make(chan struct{}),
		woken:   make(chan struct{}, 1),
	}
	d.drained.L = &d.mu
	d.events <- tun.EventUp
	return d
}

func (d *Device) sendPacket(pkt *stack.PacketBuffer) error {
	size := pkt.Size() // before the reader can have it
	if err := d.push(queued{pkt: pkt.IncRef()}); err != nil {
		pkt.DecRef()
		return err
	}
	d.card.count.Wrote(size)
	return nil
}

func (d *Device) sendBytes(m link.Meta, pieces [][]byte) error {
	size := 0
	for _, b := range pieces {
		size += len(b)
	}
	raw := newRaw(size)
	for _, b := range pieces {
		*raw = append(*raw, b...)
	}
	q := queued{raw: raw, meta: m}
	if err := d.push(q); err != nil {
		q.release()
		return err
	}
	return nil
}

func (d *Device) push(q queued) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.bytes >= queueBytes && !d.stalled && !d.closed {
		d.waitLocked()
	}
	switch {
	case d.closed:
		return net.ErrClosed
	case d.bytes >= queueBytes:
		d.stalled = true
		return errQueueFull
	}
	d.queue = append(d.queue, q)
	d.bytes += q.size()
	select {
	case d.filled <- struct{}{}:
	default:
	}
	return nil
}

// Settle waits until the reader is done with everything that was sent before, but no longer than patience.
func (d *Device) Settle(patience time.Duration) {
	mark := make(chan struct{})
	d.mu.Lock()
	if d.closed {
		d.mu.Unlock()
		return
	}
	d.queue = append(d.queue, queued{mark: mark})
	select {
	case d.filled <- struct{}{}:
	default:
	}
	d.mu.Unlock()
	select {
	case <-mark:
	case <-d.close:
	case <-time.After(patience):
	}
}

// waitLocked waits until the reader has made room, the device is closed or patience ends.
func (d *Device) waitLocked() {
	late := false
	timer := time.AfterFunc(queuePatience, func() {
		d.mu.Lock()
		late = true
		d.mu.Unlock()
		d.drained.Broadcast()
	})
	for d.bytes >= queueBytes && !d.closed && !late {
		d.drained.Wait()
	}
	timer.Stop()
}

// take moves everything queued to the reader.
func (d *Device) take() {
	d.mu.Lock()
	d.batch, d.queue = d.queue, d.batch[:0]
	d.next, d.bytes, d.stalled = 0, 0, false
	d.mu.Unlock()
	d.drained.Broadcast()
}

// Wake makes a Read that finds nothing return 0 packets, the present one or the next, for a reader that has something else to do.
func (d *Device) Wake() {
	select {
	case d.woken <- struct{}{}:
	default:
	}
}

// Read gives the reader packets that the stack has sent, as many as there are and fit. It returns none only after Wake.
func (d *Device) Read(bufs [][]byte, sizes []int, offset int) (int, error) {
	for {
		if n, err := d.fill(bufs, sizes, offset); n > 0 || err != nil {
			return n, err
		}
		select {
		case <-d.filled:
			d.take()
		case <-d.woken:
			return 0, nil
		case <-d.close:
			return 0, os.ErrClosed
		}
	}
}

// fill cuts queued packets into bufs until either runs out.
func (d *Device) fill(bufs [][]byte, sizes []int, offset int) (n int, err error) {
	for n < len(bufs) {
		if d.seg.Done() {
			d.raw.release()
			d.raw = queued{}
			if d.next == len(d.batch) {
				return n, nil
			}
			q := d.batch[d.next]
			if q.mark != nil && n > 0 {
				return n, nil // the reader is done with these when it comes back
			}
			d.batch[d.next] = queued{}
			d.next++
			if q.mark != nil {
				q.release()
				continue
			}
			if err := d.cut(q); err != nil {
				d.card.count.Drop(dropMalformed)
				continue
			}
		}
		size, err := d.seg.Next(bufs[n][offset:])
		if err != nil { // a reader with smaller buffers than our MTU
			d.seg = link.Segmenter{}
			d.card.count.Drop(dropMalformed)
			continue
		}
		sizes[n] = size
		n++
	}
	return n, nil
}

// cut begins to cut a packet.
func (d *Device) cut(q queued) error {
	if q.pkt == nil {
		d.raw = q
		return d.seg.Reset(q.meta, *q.raw)
	}
	m := d.flatten(q)
	return d.seg.Reset(m, d.flat)
}

// flatten copies a packet of gVisor's into the reader's scratch and lets go of it.
func (d *Device) flatten(q queued) link.Meta {
	d.flat = d.flat[:0]
	defer q.release()
	views, offset := q.pkt.AsViewList()
	for v := views.Front(); v != nil; v = v.Next() {
		b := v.AsSlice()
		if offset >= len(b) {
			offset -= len(b)
			continue
		}
		d.flat = append(d.flat, b[offset:]...)
		offset = 0
	}
	return metaOf(q.pkt)
}

// Write gives the stack packets, whose bytes it does not keep.
func (d *Device) Write(bufs [][]byte, offset int) (int, error) {
	select {
	case <-d.close:
		return 0, os.ErrClosed
	default:
	}
	d.receive(bufs, offset)
	return len(bufs), nil
}

// File is nil: there is no file behind it.
func (d *Device) File() *os.File { return nil }

// MTU is the card's.
func (d *Device) MTU() (int, error) { return d.card.MTU(), nil }

// Name is the stack's.
func (d *Device) Name() (string, error) { return d.name, nil }

// Events says that the device is up, and is closed with it.
func (d *Device) Events() <-chan tun.Event { return d.events }

// BatchSize is how many packets one Read or Write may carry.
func (d *Device) BatchSize() int { return Batch }

// Close ends the reader. The stack itself lives on until its own Close.
func (d *Device) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil
	}
	d.closed = true
	close(d.close)
	close(d.events)
	for _, q := range d.queue {
		q.release()
	}
	d.queue, d.bytes = nil, 0
	d.drained.Broadcast()
	return nil
}

// Closed reports whether Close was called.
func (d *Device) Closed() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.closed
}
