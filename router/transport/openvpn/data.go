package openvpn

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"penstock/router/transport"
	"penstock/router/transport/openvpn/internal/datakey"
	"penstock/router/transport/openvpn/internal/wire"
)

// Plaintexts that are not IP packets.
var (
	pingMagic  = []byte{0x2a, 0x18, 0x7b, 0xf3, 0x64, 0x1e, 0xb4, 0xcb, 0x07, 0xed, 0x2d, 0x0a, 0x98, 0x1f, 0xc7, 0x48}
	occMagic   = []byte{0x28, 0x7f, 0x34, 0x6b, 0xd4, 0xef, 0x7a, 0x81, 0x2d, 0x56, 0xb8, 0xd3, 0xaf, 0xc5, 0x45, 0x9c}
	occRequest = append(bytes.Clone(occMagic), 0)
	occExit    = append(bytes.Clone(occMagic), 6)
)

const (
	// switchSlack is how long beyond one ping interval we wait for the server to prove that it has the new key. Packets
	// sealed with the new key before the server has it would be lost: 3 to 7 s at 15 % loss.
	switchSlack = 5 * time.Second

	earlyPackets = 128 // kept for a key that is being derived

	troublePause = 10 * time.Millisecond
)

// slot is a data key in use.
type slot struct {
	id  uint8
	op  wire.Opcode // of the packets it opens
	key datakey.Key
}

// dataPath seals what the device gives and opens what the link brings. Receiving goes strictly by a packet's key id;
// sending stays with the old key until the server has used the new one.
type dataPath struct {
	slots  [8]atomic.Pointer[slot]
	newest atomic.Pointer[slot]
	send   atomic.Pointer[slot]
	// awaited is the key id under negotiation, plus one: packets may come before its key does. 0: none.
	awaited atomic.Uint32

	sealMu sync.Mutex // keeps packets on the link in the order of their ids: TCP servers insist
	sealed [][]byte   // scratch, under sealMu

	openMu sync.Mutex // guards below
	plain  [][]byte   // scratch
	early  [][]byte   // packets that came before their key

	// Touched by the session's goroutine only.
	switchAt  time.Time // send with the newest key by then, proven or not; zero: it does already
	duckUntil time.Time // the end of the key before
}

// install makes key the newest one.
func (d *dataPath) install(s *session, id uint8, key datakey.Key, switchAt, duckUntil time.Time) {
	op := wire.DataV1
	if s.push.v2 {
		op = wire.DataV2
	}
	fresh := &slot{id: id, op: op, key: key}
	d.trust()
	d.openMu.Lock()
	d.slots[id].Store(fresh)
	d.newest.Store(fresh)
	d.awaited.Store(0)
	early := d.early
	d.early = nil
	d.openMu.Unlock()
	d.switchAt, d.duckUntil = switchAt, duckUntil
	if d.send.Load() == nil {
		d.trust()
	}
	if len(early) > 0 {
		s.receive(early)
	}
}

// trust starts to send with the newest key.
func (d *dataPath) trust() {
	d.send.Store(d.newest.Load())
	d.switchAt = time.Time{}
}

func (d *dataPath) tick(now time.Time) {
	if !d.switchAt.IsZero() && (d.send.Load() == d.newest.Load() || now.After(d.switchAt)) {
		d.trust()
	}
}

func (d *dataPath) remove(id uint8) {
	d.slots[id].Store(nil)
	d.duckUntil = time.Time{}
}

func (d *dataPath) spent() bool {
	k := d.newest.Load()
	return k != nil && k.key.Spent()
}

// send seals the packets of a batch from the device, which start at deviceOffset, and gives them to the link.
func (s *session) send(bufs [][]byte, sizes []int) {
	d := &s.data
	d.sealMu.Lock()
	defer d.sealMu.Unlock()
	k := d.send.Load()
	if k == nil {
		return
	}
	start := deviceOffset - k.key.Head()
	sealed, total := d.sealed[:0], 0
	for i, b := range bufs {
		if sizes[i] == 0 {
			continue
		}
		out, err := k.key.Seal(b[start : deviceOffset+sizes[i]])
		if err != nil {
			s.drop(dropExhausted)
			continue
		}
		total += len(out)
		sealed = append(sealed, b[start-linkHead:start+len(out)])
	}
	d.sealed = sealed
	s.sendSealed(sealed, total)
}

func (s *session) sendSealed(sealed [][]byte, total int) {
	if len(sealed) == 0 {
		return
	}
	if err := s.outer().write(sealed); err != nil {
		s.linkTrouble(err)
		return
	}
	now := time.Now()
	s.spoke.set(s.start, now)
	s.client.counters.sent(total, now)
}

// sendSpecial sends a ping or the like. If the link is busy sending data it is not needed.
func (s *session) sendSpecial(plain []byte) {
	d := &s.data
	if !d.sealMu.TryLock() {
		return
	}
	defer d.sealMu.Unlock()
	k := d.send.Load()
	if k == nil {
		return
	}
	head := linkHead + k.key.Head()
	buf := append(make([]byte, head, head+len(plain)+datakey.Tail), plain...)
	out, err := k.key.Seal(buf[linkHead:])
	if err != nil {
		s.drop(dropExhausted)
		return
	}
	s.sendSealed([][]byte{buf[:linkHead+len(out)]}, len(out))
}

// receive sorts the packets of one read: data to the device, control to the session's goroutine.
func (s *session) receive(packets [][]byte) {
	d := &s.data
	d.openMu.Lock()
	defer d.openMu.Unlock()
	d.plain = d.plain[:0]
	head, total := 0, 0
	var now time.Time
	for _, packet := range packets {
		if len(packet) == 0 {
			s.drop(dropMalformed)
			continue
		}
		op, id := wire.ParseHeader(packet[0])
		if !op.IsData() {
			select {
			case s.inbox <- bytes.Clone(packet):
			default:
				s.drop(dropControl)
			}
			continue
		}
		k := d.slots[id].Load()
		if k == nil || k.op != op {
			d.keepEarly(s, packet, id, k)
			continue
		}
		plain, err := k.key.Open(packet)
		if err != nil {
			s.dropData(err)
			continue
		}
		total += len(packet)
		if now.IsZero() {
			now = time.Now()
		}
		if k == d.newest.Load() && k != d.send.Load() {
			d.send.Store(k) // proven: the server has this key
		}
		if !isIP(plain) {
			continue
		}
		head = k.key.Head()
		d.plain = append(d.plain, packet[:head+len(plain)])
	}
	if total > 0 {
		s.heard.set(s.start, now)
		s.client.counters.received(total, now)
	}
	if len(d.plain) == 0 {
		return
	}
	if _, err := s.client.cfg.Device.Write(d.plain, head); err != nil {
		s.client.cfg.Metrics.drop(s.client.cfg.Name, dropInner, len(d.plain))
	}
}

// keepEarly keeps a packet whose key is about to be installed: the server may be done before we are.
func (d *dataPath) keepEarly(s *session, packet []byte, id uint8, k *slot) {
	if k != nil || d.awaited.Load() != uint32(id)+1 || len(d.early) >= earlyPackets {
		s.drop(dropUnknownKey)
		return
	}
	d.early = append(d.early, append(make([]byte, 0, len(packet)+datakey.Tail), packet...))
}

// isIP tells an IP packet from a ping and other special plaintexts by its first byte.
func isIP(plain []byte) bool {
	return len(plain) > 0 && (plain[0]>>4 == 4 || plain[0]>>4 == 6)
}

// A reader that wakes up for every packet of a busy link spends more on waking than on packets, and so does the inner
// stack with an acknowledgement for each. Measured against the C server: 94 MB/s without the rest, 112 MB/s with it; the
// C client did 117. An idle link has no such rest.
const (
	restPackets = 8                      // a read that brings fewer was early
	restGap     = 200 * time.Microsecond // since the read before: the link is busy
	rest        = 100 * time.Microsecond
)

// startReader reads l until it is closed.
func (s *session) startReader(l link) {
	s.wg.Go(func() {
		var last time.Time
		for {
			packets, err := l.read()
			if err == nil {
				s.receive(packets)
				early := len(packets) < restPackets && time.Since(last) < restGap
				if early {
					time.Sleep(rest)
				}
				last = time.Now()
				continue
			}
			if errors.Is(err, net.ErrClosed) || s.outer() != l {
				return
			}
			if isTCP(s.network) {
				s.linkDown <- s.client.failed(transport.ReasonError, fmt.Errorf("the server closed the connection: %w", err))
				return
			}
			s.linkTrouble(err)
			if pause(s.lifetime, troublePause) != nil { // an error that stays must not spin
				return
			}
		}
	})
}

// linkTrouble takes an error of a UDP socket as a hint. TCP's show in its reader.
func (s *session) linkTrouble(err error) {
	if errors.Is(err, syscall.ECONNREFUSED) && !s.refused.Swap(true) {
		s.nudge()
	}
	s.drop(dropLink)
}

// rebind replaces the socket of a UDP session.
func (s *session) rebind() error {
	if isTCP(s.network) {
		return s.client.failed(transport.ReasonPathChange, errors.New("a session over TCP cannot move to a new socket"))
	}
	return s.do(func() error {
		old := s.outer()
		fresh, err := s.client.dial(s.lifetime, s.network, old.remote())
		if err != nil {
			return err
		}
		s.link.Store(&fresh)
		s.startReader(fresh)
		_ = old.close()
		s.probe()
		return nil
	})
}
