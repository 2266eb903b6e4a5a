// Package data is the data channel of one session: it seals what the inner device gives and sends it on the link, and
// opens what the link brings.
//
// A Channel is made with its link and carries nothing until Install gives it a key. Packets pass it without the
// session's goroutine; control packets that come on the same link are handed over by the Control channel.
//
// The package does not negotiate keys, does not decide when a session is over, and does not connect.
package data

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"penstock/router/transport/openvpn/internal/datakey"
	"penstock/router/transport/openvpn/internal/framing"
	"penstock/router/transport/openvpn/internal/link"
	"penstock/router/transport/openvpn/internal/wire"
)

// Offset is where a packet from the device starts in its buffer, so that what the link, the key and the framing put in
// front fits.
const Offset = link.Head + datakey.MaxHead + framing.Front

// Tail is how many bytes must be free behind such a packet.
const Tail = datakey.Tail + framing.Back

// Special is a plaintext that is not an IP packet.
type Special string

// Specials. Ping is seen by the peer's liveness only; Request makes it answer; Exit says that the session is over.
const (
	Ping    Special = "\x2a\x18\x7b\xf3\x64\x1e\xb4\xcb\x07\xed\x2d\x0a\x98\x1f\xc7\x48"
	Request Special = control + "\x00"
	Exit    Special = control + "\x06"

	control = "\x28\x7f\x34\x6b\xd4\xef\x7a\x81\x2d\x56\xb8\xd3\xaf\xc5\x45\x9c"
)

// Drop is why a packet was dropped, as the metrics name it.
type Drop string

// Reasons for dropping a packet.
const (
	DropMalformed  Drop = "malformed"
	DropControl    Drop = "control"     // a control packet that is not the server's, or too many at once
	DropUnknownKey Drop = "unknown_key" // a data packet for a key id not in use
	DropForged     Drop = "authentication"
	DropReplay     Drop = "replay"
	DropFraming    Drop = "framing" // compressed, or not framed as agreed
	DropExhausted  Drop = "key_exhausted"
	DropNotUp      Drop = "not_up" // from the device, while there is no session
	DropInner      Drop = "device" // the device did not take it
	DropLink       Drop = "link"   // the outer socket did not
)

// Meter counts what passes. It is called for every batch, from several goroutines.
type Meter interface {
	Received(bytes int, now time.Time) // of authenticated packets
	Sent(bytes int, now time.Time)
	Drop(why Drop, packets int)
}

// Device takes inbound packets, which start at offset in their buffers. It may use the 10 bytes before offset and does
// not keep the buffers.
type Device interface {
	Write(bufs [][]byte, offset int) (int, error)
}

// Config is what a Channel needs. All fields are required.
type Config struct {
	Link   link.Link // owned by the channel: Close closes it
	TCP    bool
	Device Device
	Meter  Meter
}

const inboxSize = 128 // control packets: more are dropped and come again

// Channel is the data channel of one session. Methods that say so may be called by anyone; the others belong to the
// session's goroutine.
type Channel struct {
	cfg   Config
	link  atomic.Pointer[link.Link]
	Keys  Keys
	Signs Signs

	inbox chan []byte
	down  chan error
	wake  chan struct{}
	wg    sync.WaitGroup

	sealMu sync.Mutex // guards sealed, and keeps packets on the link in the order of their ids: TCP servers insist
	sealed [][]byte   // scratch
}

// New returns a channel that reads nothing yet.
func New(cfg Config) *Channel {
	c := &Channel{cfg: cfg, inbox: make(chan []byte, inboxSize), down: make(chan error, 1), wake: make(chan struct{}, 1)}
	c.Signs.start = time.Now()
	c.link.Store(&cfg.Link)
	return c
}

// Start reads the link until Close, or until lifetime ends after a Close.
func (c *Channel) Start(lifetime context.Context) { c.startReader(lifetime, c.outer()) }

// Close closes the link and waits for its readers. Anyone may call it while another goroutine is in Send.
func (c *Channel) Close() error {
	err := c.outer().Close()
	c.wg.Wait()
	return err
}

func (c *Channel) outer() link.Link { return *c.link.Load() }

// Remote is the server's outer address. Anyone may call it.
func (c *Channel) Remote() netip.AddrPort { return c.outer().Remote() }

// Stalled reports that the server does not take what is sent to it.
func (c *Channel) Stalled() bool { return c.outer().Stalled() }

// Control gives the control packets that came on the link.
func (c *Channel) Control() <-chan []byte { return c.inbox }

// Down gives the error with which a TCP link ended.
func (c *Channel) Down() <-chan error { return c.down }

// Wake says that Signs have changed in a way that cannot wait.
func (c *Channel) Wake() <-chan struct{} { return c.wake }

// Format is what packets look like, beside what their key says.
type Format struct {
	V2      bool // they carry a peer id
	Framing framing.Kind
}

// Install makes key the newest one. Sending switches to it when the server has used it, or at switchAt; the key before
// is to be removed at duckUntil.
func (c *Channel) Install(id uint8, key datakey.Key, f Format, switchAt, duckUntil time.Time) {
	op := wire.DataV1
	if f.V2 {
		op = wire.DataV2
	}
	early := c.Keys.install(&slot{id: id, op: op, key: key, in: f.Framing}, switchAt, duckUntil)
	if len(early) > 0 {
		c.Receive(early)
	}
}

// Send seals the packets of a batch from the device, which start at Offset, and gives them to the link. Over TCP it
// waits for a server that does not read, until Close. One caller at a time, but any.
func (c *Channel) Send(bufs [][]byte, sizes []int) {
	c.sealMu.Lock()
	defer c.sealMu.Unlock()
	k := c.Keys.send.Load()
	if k == nil {
		return
	}
	sealed, total := c.sealed[:0], 0
	for i, b := range bufs {
		if sizes[i] == 0 {
			continue
		}
		framed, start := k.in.Frame(b[:Offset+sizes[i]], Offset)
		start -= k.key.Head()
		out, err := k.key.Seal(framed[start:])
		if err != nil {
			c.cfg.Meter.Drop(DropExhausted, 1)
			continue
		}
		total += len(out)
		sealed = append(sealed, b[start-link.Head:start+len(out)])
	}
	c.sealed = sealed
	if len(sealed) > 0 {
		c.sent(c.outer().Write(sealed), total)
	}
}

// SendSpecial sends a special plaintext. It never waits: where the link is busy with data, or stalled, there is no need
// for it.
func (c *Channel) SendSpecial(plain Special) {
	if !c.sealMu.TryLock() {
		return
	}
	defer c.sealMu.Unlock()
	k := c.Keys.send.Load()
	if k == nil {
		return
	}
	buf := append(make([]byte, Offset, Offset+len(plain)+Tail), plain...)
	buf, start := k.in.Frame(buf, Offset)
	start -= k.key.Head()
	out, err := k.key.Seal(buf[start:])
	if err != nil {
		c.cfg.Meter.Drop(DropExhausted, 1)
		return
	}
	c.sent(c.outer().Post(buf[start-link.Head:start+len(out)]), len(out))
}

// SendControl sends a packet of the control channel, which starts link.Head bytes into buffer. It never waits. Its only
// error is link.ErrStalled; what the socket does not take is lost, as any packet can be.
func (c *Channel) SendControl(buffer []byte) error {
	err := c.outer().Post(buffer)
	switch {
	case errors.Is(err, link.ErrStalled):
		return err
	case err != nil:
		c.trouble(err)
	default:
		c.cfg.Meter.Sent(len(buffer)-link.Head, time.Now())
	}
	return nil
}

func (c *Channel) sent(err error, bytes int) {
	if err != nil {
		c.trouble(err)
		return
	}
	now := time.Now()
	c.Signs.speak(now)
	c.cfg.Meter.Sent(bytes, now)
}

// Receive sorts the packets of one read: data to the device, control to the session's goroutine. Anyone may call it.
func (c *Channel) Receive(packets [][]byte) {
	k := &c.Keys
	k.mu.Lock()
	defer k.mu.Unlock()
	k.plain = k.plain[:0]
	head, total := 0, 0
	for _, packet := range packets {
		if len(packet) == 0 {
			c.cfg.Meter.Drop(DropMalformed, 1)
			continue
		}
		if op, _ := wire.ParseHeader(packet[0]); !op.IsData() {
			c.receiveControl(packet)
			continue
		}
		s, kept := k.forPacketLocked(packet)
		if s == nil {
			if !kept {
				c.cfg.Meter.Drop(DropUnknownKey, 1)
			}
			continue
		}
		plain, err := s.key.Open(packet)
		if err != nil {
			c.cfg.Meter.Drop(dropOf(err), 1)
			continue
		}
		k.proveLocked(s)
		if plain, err = s.in.Open(plain); err == nil && !isIP(plain) && !isSpecial(plain) {
			err = s.in.Wrong(plain)
		}
		if err != nil { // no sign of life: nothing that we send would be read there either
			c.cfg.Meter.Drop(DropFraming, 1)
			c.puzzle(err)
			continue
		}
		total += len(packet)
		if isIP(plain) {
			head = s.key.Head() + s.in.Shift()
			k.plain = append(k.plain, packet[:head+len(plain)])
		}
	}
	if total > 0 {
		now := time.Now()
		c.Signs.Hear(now)
		c.Signs.read.Store(true)
		c.cfg.Meter.Received(total, now)
	}
	if len(k.plain) == 0 {
		return
	}
	if _, err := c.cfg.Device.Write(k.plain, head); err != nil {
		c.cfg.Meter.Drop(DropInner, len(k.plain))
	}
}

func (c *Channel) receiveControl(packet []byte) {
	select {
	case c.inbox <- bytes.Clone(packet):
	default:
		c.cfg.Meter.Drop(DropControl, 1)
	}
}

func dropOf(err error) Drop {
	switch {
	case errors.Is(err, datakey.ErrReplay):
		return DropReplay
	case errors.Is(err, datakey.ErrShort):
		return DropMalformed
	}
	return DropForged
}

// isIP tells an IP packet from a ping and other special plaintexts by its first byte. The marks of compressed packets look
// like IPv6 of some traffic classes, which has its length in it.
func isIP(plain []byte) bool {
	switch {
	case len(plain) == 0:
		return false
	case framing.LooksCompressed(plain):
		const head, length = 40, 4 // RFC 8200 3
		return len(plain) >= head && head+int(binary.BigEndian.Uint16(plain[length:])) == len(plain)
	}
	return plain[0]>>4 == 4 || plain[0]>>4 == 6
}

// isSpecial tells the plaintexts that servers send besides IP packets.
func isSpecial(plain []byte) bool {
	return string(plain) == string(Ping) || bytes.HasPrefix(plain, []byte(control))
}

// puzzle notes why a packet that authenticated could not be read.
func (c *Channel) puzzle(err error) {
	if !c.Signs.puzzle(err) {
		return
	}
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// A reader that wakes up for every packet of a busy link spends more on waking than on packets, and so does the inner
// stack with an acknowledgement for each. Measured against the C server: 94 MB/s without the rest, 112 MB/s with it; the
// C client did 117. An idle link has no such rest.
const (
	restPackets = 8                      // a read that brings fewer was early
	restGap     = 200 * time.Microsecond // since the read before: the link is busy
	rest        = 100 * time.Microsecond

	troublePause = 10 * time.Millisecond // after an error of a UDP socket: one that stays must not spin
)

// startReader reads l until it is closed or replaced.
func (c *Channel) startReader(lifetime context.Context, l link.Link) {
	c.wg.Go(func() {
		var last time.Time
		for {
			packets, err := l.Read()
			if err == nil {
				c.Receive(packets)
				if len(packets) < restPackets && time.Since(last) < restGap {
					time.Sleep(rest)
				}
				last = time.Now()
				continue
			}
			if errors.Is(err, net.ErrClosed) || c.outer() != l {
				return
			}
			if c.cfg.TCP {
				c.down <- err
				return
			}
			c.trouble(err)
			select {
			case <-time.After(troublePause):
			case <-lifetime.Done():
				return
			}
		}
	})
}

// trouble takes an error of a UDP socket as a hint. TCP's show in its reader.
func (c *Channel) trouble(err error) {
	if errors.Is(err, syscall.ECONNREFUSED) && !c.Signs.refused.Swap(true) {
		select {
		case c.wake <- struct{}{}:
		default:
		}
	}
	c.cfg.Meter.Drop(DropLink, 1)
}

// Rebind replaces the link of a UDP session and closes the old one.
func (c *Channel) Rebind(lifetime context.Context, fresh link.Link) {
	old := c.outer()
	c.link.Store(&fresh)
	c.startReader(lifetime, fresh)
	_ = old.Close()
}
