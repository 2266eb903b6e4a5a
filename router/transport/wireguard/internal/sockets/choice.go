// Package sockets has the UDP sockets of WireGuard's devices, and those of a client whose peers may have several addresses. It makes no
// decisions: Client in package wireguard says whom to ask and whom to hear.
package sockets

import (
	"bytes"
	"encoding/binary"
	"maps"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
)

// NewChoice returns sockets that are not open.
func NewChoice() *Choice { return &Choice{Bind: ForClient()} }

// Choice is the sockets of a client whose peers may have several addresses. The device knows one address of a peer, and each
// handshake that it begins voids the one before. So all addresses are asked for the same handshake: its first message is copied,
// and whoever answers it first has the session. Servers with one key that share no state each take the copy for new.
type Choice struct {
	conn.Bind
	deaf    atomic.Pointer[map[netip.AddrPort]bool] // addresses that are heard only if they answer a handshake; nil: none
	welcome atomic.Pointer[time.Time]               // until when deaf addresses may begin a handshake; nil: they may not

	mu     sync.Mutex        // guards below
	sent   map[string][]byte // the last first message to each address since Forget
	answer answer            // the last that was passed on
}

// answer is one to a first message.
type answer struct {
	to   uint32 // the sender's index in the first message
	from netip.AddrPort
	at   time.Time
}

// apart is how far apart answers from two addresses to one first message are passed on. The device mixes up two that it works on
// at once: it computes outside its lock (ConsumeMessageResponse; wireguard-go as of 2026-05). It needs some 0.2 ms for one. Undo it
// when that is mended.
const apart = 100 * time.Millisecond

// Forget forgets the first messages that were sent.
func (c *Choice) Forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sent = make(map[string][]byte)
}

// Last returns the last first message that was sent to an address since Forget, or nil. Whoever began that handshake, us or the
// device, it is the one that counts.
func (c *Choice) Last(addr string) []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.sent[addr]
}

// mostSent bounds how many addresses are remembered when peers move about by themselves.
const mostSent = 64

// Send sends what the device sends.
func (c *Choice) Send(packets [][]byte, to conn.Endpoint) error {
	if len(packets) == 1 && typeOf(packets[0]) == device.MessageInitiationType { // the device sends each alone
		c.mu.Lock()
		if c.sent == nil || len(c.sent) >= mostSent {
			c.sent = make(map[string][]byte)
		}
		c.sent[to.DstToString()] = bytes.Clone(packets[0])
		c.mu.Unlock()
	}
	return c.Bind.Send(packets, to)
}

// SendTo sends a copy of a first message to an address.
func (c *Choice) SendTo(initiation []byte, addr netip.AddrPort) error {
	to, err := c.ParseEndpoint(addr.String())
	if err != nil {
		return err
	}
	return c.Bind.Send([][]byte{bytes.Clone(initiation)}, to)
}

// Open opens the sockets. What is received from a deaf address is dropped, unless it answers a handshake, or begins one when it may.
// Otherwise a server that was left, and has not noticed, would draw the client back with every packet: the device sends to where it
// last heard a peer.
func (c *Choice) Open(port uint16) ([]conn.ReceiveFunc, uint16, error) {
	receivers, actual, err := c.Bind.Open(port)
	for i, receive := range receivers {
		receivers[i] = func(packets [][]byte, sizes []int, from []conn.Endpoint) (int, error) {
			n, err := receive(packets, sizes, from)
			deaf := c.deaf.Load()
			for j := range n {
				if c.drops(packets[j][:sizes[j]], from[j], deaf) {
					sizes[j] = 0 // the device passes over an empty packet
				}
			}
			return n, err
		}
	}
	return receivers, actual, err
}

// drops reports whether a packet is not passed on.
func (c *Choice) drops(packet []byte, from conn.Endpoint, deaf *map[netip.AddrPort]bool) bool {
	switch kind := typeOf(packet); {
	case kind == device.MessageResponseType:
		return c.isLate(packet, addrOf(from))
	case kind == device.MessageCookieReplyType || deaf == nil || !(*deaf)[addrOf(from)]:
		return false
	case kind == device.MessageInitiationType:
		until := c.welcome.Load()
		if until == nil || time.Now().After(*until) {
			return true
		}
		others := maps.Clone(*deaf)
		delete(others, addrOf(from)) // what follows is heard too
		c.deaf.CompareAndSwap(deaf, &others)
		return false
	}
	return true
}

// isLate reports whether an answer comes close behind one from another address to the same first message.
func (c *Choice) isLate(packet []byte, from netip.AddrPort) bool {
	if len(packet) != device.MessageResponseSize {
		return true
	}
	a := answer{to: binary.LittleEndian.Uint32(packet[8:]), from: from, at: time.Now()} // whitepaper 5.4.3: type, sender, receiver
	c.mu.Lock()
	defer c.mu.Unlock()
	if last := c.answer; last.to == a.to && last.from != a.from && a.at.Sub(last.at) < apart {
		return true
	}
	c.answer = a
	return false
}

// HearAll makes no address deaf. It does nothing if c is nil.
func (c *Choice) HearAll() {
	if c != nil {
		c.deaf.Store(nil)
	}
}

// Welcome lets deaf addresses begin a handshake for some time; 0 ends that. It does nothing if c is nil.
func (c *Choice) Welcome(d time.Duration) {
	if c != nil {
		until := time.Now().Add(d)
		c.welcome.Store(&until)
	}
}

// Deafen makes the given addresses deaf, and no others.
func (c *Choice) Deafen(deaf map[netip.AddrPort]bool) { c.deaf.Store(&deaf) }

// typeOf returns the type of a WireGuard message, or 0.
func typeOf(packet []byte) uint32 {
	if len(packet) < 4 {
		return 0
	}
	return binary.LittleEndian.Uint32(packet)
}

// addrOf returns where a packet came from.
func addrOf(e conn.Endpoint) netip.AddrPort {
	switch e := e.(type) {
	case interface{ AddrPort() netip.AddrPort }: // of ours
		return e.AddrPort()
	case *conn.StdNetEndpoint:
		return Unmapped(e.AddrPort)
	}
	addr, _ := netip.ParseAddrPort(e.DstToString())
	return Unmapped(addr)
}

// Unmapped returns a with an IPv4 address in its IPv4 form.
func Unmapped(a netip.AddrPort) netip.AddrPort { return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()) }
