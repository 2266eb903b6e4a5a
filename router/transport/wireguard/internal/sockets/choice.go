// Package sockets has the UDP sockets of WireGuard's devices, and those of a client whose peers may have several addresses. It makes no
// decisions: Client in package wireguard says whom to ask and whom to hear.
package sockets

import (
	"bytes"
	"encoding/binary"
	"maps"
	"net/netip"
	"slices"
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
//
// A peer may also call from another of its addresses. The session is then there once the peer has sent something in it. Until then what
// the former address still sends would draw the device back: it answers to where it last heard the peer.
type Choice struct {
	conn.Bind
	deaf    atomic.Pointer[map[netip.AddrPort]bool] // addresses that are heard only if they answer a handshake; nil: none
	welcome atomic.Pointer[time.Time]               // until when deaf addresses may begin a handshake; nil: they may not
	called  atomic.Pointer[call]                    // the newest call whose session has carried nothing yet; nil: none

	mu     sync.Mutex        // held while deaf changes; guards below
	sent   map[string][]byte // the last first message to each address since Forget
	answer answer            // the last that was passed on
	peers  []Place           // of the last Settle
	moved  netip.AddrPort    // whose call was the last with a session that carried, since HearAll
}

// Place is the addresses of one peer, and the one that it is at.
type Place struct {
	Addrs []netip.AddrPort
	At    netip.AddrPort
}

// call is a handshake that a peer began.
type call struct {
	from         conn.Endpoint
	theirs, ours uint32    // the indices of the session
	answered     time.Time // zero: not yet
}

// callLife is how long the session of a call may carry nothing before the address that called is deaf again at the next handshake. A
// device that got the answer sends something at once.
const callLife = 10 * time.Second

// answer is one to a first message.
type answer struct {
	to   uint32 // the sender's index in the first message
	from netip.AddrPort
	at   time.Time
}

// apart is how far apart answers from two addresses to one first message are passed on. The device mixes up two that it works on
// at once: it computes outside its lock (ConsumeMessageResponse; wireguard-go as of 2026-05). It needs some 0.2 ms for one, and more
// than 100 ms where many programs want the processors. Undo it when that is mended.
const apart = time.Second

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
	if len(packets) == 1 && typeOf(packets[0]) == device.MessageResponseType && len(packets[0]) == device.MessageResponseSize {
		to = c.answers(packets[0], to)
	}
	return c.Bind.Send(packets, to)
}

// answers notes that the device answers a call, and returns where the answer goes: to where the call came from, wherever the device
// heard the peer since.
func (c *Choice) answers(response []byte, to conn.Endpoint) conn.Endpoint {
	old := c.called.Load()
	if old == nil || binary.LittleEndian.Uint32(response[8:]) != old.theirs { // whitepaper 5.4.3: type, sender, receiver
		return to
	}
	answered := *old
	answered.ours, answered.answered = binary.LittleEndian.Uint32(response[4:]), time.Now()
	c.called.CompareAndSwap(old, &answered)
	return old.from
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
			for j := range n {
				if c.drops(packets[j][:sizes[j]], from[j]) {
					sizes[j] = 0 // the device passes over an empty packet
				}
			}
			return n, err
		}
	}
	return receivers, actual, err
}

// drops reports whether a packet is not passed on.
func (c *Choice) drops(packet []byte, from conn.Endpoint) bool {
	isDeaf := func() bool { deaf := c.deaf.Load(); return deaf != nil && (*deaf)[addrOf(from)] }
	kind := typeOf(packet)
	switch kind {
	case device.MessageResponseType:
		return c.isLate(packet, addrOf(from))
	case device.MessageCookieReplyType:
		return false
	case device.MessageInitiationType:
		if len(packet) != device.MessageInitiationSize {
			return true
		}
		if isDeaf() && !c.hear(addrOf(from)) {
			return true
		}
		c.called.Store(&call{from: from, theirs: binary.LittleEndian.Uint32(packet[4:])}) // whitepaper 5.4.2: type, sender
		return false
	}
	if isDeaf() {
		return true
	}
	call := c.called.Load()
	if call != nil && !call.answered.IsZero() && kind == device.MessageTransportType && len(packet) >= device.MessageTransportSize &&
		binary.LittleEndian.Uint32(packet[4:]) == call.ours && addrOf(from) == addrOf(call.from) { // whitepaper 5.4.6: type, receiver
		c.move(call)
	}
	return false
}

// hear ends that an address is deaf, if those may call now, and reports whether they may.
func (c *Choice) hear(addr netip.AddrPort) bool {
	until := c.welcome.Load()
	if until == nil || time.Now().After(*until) {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if deaf := c.deaf.Load(); deaf != nil {
		others := maps.Clone(*deaf)
		delete(others, addr) // what follows is heard too
		c.deaf.Store(&others)
	}
	return true
}

// move makes the other addresses of the peer that called deaf: its session is where it called from.
func (c *Choice) move(call *call) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.called.CompareAndSwap(call, nil) {
		return
	}
	c.moved = addrOf(call.from)
	deaf := c.deaf.Load()
	if deaf == nil {
		return // all may answer; Settle follows
	}
	others := maps.Clone(*deaf)
	for _, p := range c.peers {
		if slices.Contains(p.Addrs, c.moved) {
			for _, addr := range p.Addrs {
				others[addr] = true
			}
		}
	}
	delete(others, c.moved)
	c.deaf.Store(&others)
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

// HearAll makes no address deaf, because the device is about to ask some of them. It does nothing if c is nil.
func (c *Choice) HearAll() {
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.deaf.Store(nil)
	c.called.Store(nil)
	c.moved = netip.AddrPort{}
}

// Welcome lets deaf addresses begin a handshake for some time; 0 ends that. It does nothing if c is nil.
func (c *Choice) Welcome(d time.Duration) {
	if c != nil {
		until := time.Now().Add(d)
		c.welcome.Store(&until)
	}
}

// Settle makes all addresses of peers deaf but those that they are at. It corrects a place whose peer has called from another of its
// addresses, and goes on hearing a call that may still get its session.
func (c *Choice) Settle(peers []Place) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.peers = slices.Clone(peers)
	deaf := make(map[netip.AddrPort]bool)
	for _, p := range peers {
		for _, addr := range p.Addrs {
			deaf[addr] = true
		}
	}
	call := c.called.Load()
	for i, p := range peers {
		if slices.Contains(p.Addrs, c.moved) {
			peers[i].At = c.moved
		}
		delete(deaf, peers[i].At)
	}
	if call != nil && time.Since(call.answered) < callLife {
		delete(deaf, addrOf(call.from))
	}
	c.deaf.Store(&deaf)
}

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
