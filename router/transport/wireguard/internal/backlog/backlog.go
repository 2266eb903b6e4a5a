// Package backlog bounds how many packets of each peer wait in a WireGuard device, where each takes 64 KiB and nothing else bounds them.
//
// It does not decrypt, and knows neither keys nor addresses.
package backlog

import (
	"encoding/binary"
	"sync"
	"time"

	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun"
)

const (
	// Most is how many packets may wait in all for small ones to be taken: 64 MiB. A session may have as many as are left, so half of it
	// if no other has any, and a third each if two want all they can get. One with few loses nothing then.
	Most = 1024
	// MostLarge is the same for large ones: 1 GiB. Those are what an upload consists of, and cost a flooder 20 times as much. TCP fills
	// the queue of a gateway that is busy, and what it loses there it has to send again: with 8192, 6,000 of the million packets of an
	// upload of 8 streams on two cores.
	MostLarge = 16384
	// small is the size up to which a datagram is small, bytes.
	small = 512
	// least is what each session may have in any case.
	least = 64
	// stale is after what time without one that was handed on those that wait do not count any more: a device drops what is no packet of
	// the peer's, and says nothing.
	stale = time.Second
	// sessionLasts is more than a session carries (180 s).
	sessionLasts = 200 * time.Second
)

// A Backlog counts the data packets that a device has received, and has not handed to its inner device yet. It drops what comes for a
// session of which too many wait.
//
//	sockets --> Bind --> device: decryption, a queue for each peer --> Device --> inner device
//
// Sessions are told apart by the receiver's index in the header, which the device leaves before what it has decrypted. One counts once
// a packet of it was handed on, so that nobody can fill the list who has no key.
type Backlog struct {
	dropped func()

	mu       sync.Mutex // guards below
	sessions map[uint32]*session
	waiting  int // of all sessions
	sweep    int // how many sessions there are when those that are over are forgotten
	released time.Time
}

// session is one of them. Its packets are handed on in the order in which they came, without those that the device drops.
type session struct {
	queue
	handed time.Time // when the last packet was handed on
}

// New returns a Backlog of a device. dropped is called for each packet that is dropped, by several goroutines, and must return. It may be
// nil.
func New(dropped func()) *Backlog {
	if dropped == nil {
		dropped = func() {}
	}
	return &Backlog{dropped: dropped, sessions: make(map[uint32]*session), sweep: 64}
}

// Bind returns the sockets for the device.
func (b *Backlog) Bind(sockets conn.Bind) conn.Bind { return &bind{sockets, b} }

// Device returns the inner device for the device.
func (b *Backlog) Device(inner tun.Device) tun.Device { return &inside{inner, b} }

type bind struct {
	conn.Bind
	backlog *Backlog
}

// Open opens the sockets.
func (d *bind) Open(port uint16) ([]conn.ReceiveFunc, uint16, error) {
	ways, port, err := d.Bind.Open(port)
	for i, receive := range ways {
		ways[i] = func(packets [][]byte, sizes []int, from []conn.Endpoint) (int, error) {
			n, err := receive(packets, sizes, from)
			if err == nil {
				d.backlog.received(packets[:n], sizes[:n], time.Now())
			}
			return n, err
		}
	}
	return ways, port, err
}

type inside struct {
	tun.Device
	backlog *Backlog
}

// Write hands packets of one peer on. They are counted before, because a device may write its own header where theirs is.
func (d *inside) Write(packets [][]byte, offset int) (int, error) {
	if offset == device.MessageTransportOffsetContent { // as the device does
		d.backlog.handed(packets, time.Now())
	}
	return d.Device.Write(packets, offset)
}

func indexOf(packet []byte) uint32 {
	return binary.LittleEndian.Uint32(packet[device.MessageTransportOffsetReceiver:])
}

// counterOf returns the lower half of a packet's counter.
func counterOf(packet []byte) uint32 {
	return binary.LittleEndian.Uint32(packet[device.MessageTransportOffsetCounter:])
}

// received counts data, and makes the size of what is to be dropped 0. The device passes over it then.
func (b *Backlog) received(packets [][]byte, sizes []int, now time.Time) {
	b.mu.Lock()
	drops := b.receivedLocked(packets, sizes, now)
	b.mu.Unlock()
	for range drops {
		b.dropped()
	}
}

func (b *Backlog) receivedLocked(packets [][]byte, sizes []int, now time.Time) (drops int) {
	var s *session
	var last uint32
	for i, size := range sizes {
		// One of the least size is a keepalive, which is not handed on.
		if size <= device.MessageTransportSize || binary.LittleEndian.Uint32(packets[i]) != device.MessageTransportType {
			continue
		}
		if index := indexOf(packets[i]); index != last || s == nil {
			s, last = b.sessions[index], index
		}
		if s == nil {
			continue
		}
		if !b.roomLocked(s, size) && !(b.releaseLocked(now) && b.roomLocked(s, size)) {
			sizes[i] = 0
			drops++
			continue
		}
		s.push(counterOf(packets[i]))
		b.waiting++
	}
	return drops
}

// roomLocked reports whether one more packet of a session may wait.
func (b *Backlog) roomLocked(s *session, size int) bool {
	most := MostLarge
	if size <= small {
		most = Most
	}
	return s.len() < max(least, most-b.waiting)
}

// releaseLocked takes what has waited for too long for lost. It reports whether it has looked for that, which it does once in a while.
func (b *Backlog) releaseLocked(now time.Time) bool {
	if now.Sub(b.released) < stale {
		return false
	}
	b.released = now
	for _, other := range b.sessions {
		if now.Sub(other.handed) >= stale {
			b.waiting -= other.clear()
		}
	}
	return true
}

// handed counts packets that the device has handed on, all of one peer and in order.
func (b *Backlog) handed(packets [][]byte, now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	var s *session
	var last uint32
	for _, packet := range packets {
		if index := indexOf(packet); index != last || s == nil {
			if s, last = b.sessions[index], index; s == nil {
				s = b.addLocked(index, now)
			}
			s.handed = now
		}
		b.waiting -= s.popTo(counterOf(packet))
	}
}

// addLocked adds a session, and forgets those that are over.
func (b *Backlog) addLocked(index uint32, now time.Time) *session {
	if len(b.sessions) >= b.sweep {
		for other, s := range b.sessions {
			if now.Sub(s.handed) >= sessionLasts {
				b.waiting -= s.clear()
				delete(b.sessions, other)
			}
		}
		b.sweep = max(64, 2*len(b.sessions))
	}
	s := &session{handed: now}
	b.sessions[index] = s
	return s
}
