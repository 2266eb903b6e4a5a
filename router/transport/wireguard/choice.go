package wireguard

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"

	"penstock/router/transport"
)

var _ transport.Caller = (*Client)(nil)

// choice is the sockets of a client whose peers may have several addresses. The device knows one address of a peer, and each
// handshake that it begins voids the one before. So all addresses are asked for the same handshake: its first message is copied,
// and whoever answers it first has the session. Servers with one key that share no state each take the copy for new.
//
// The device listens for changes of routes only on its own sockets. Tunnel.PathChanged does that work for those of a choice.
type choice struct {
	conn.Bind
	deaf atomic.Pointer[map[netip.AddrPort]bool] // addresses that are heard only if they answer a handshake; nil: none

	mu   sync.Mutex        // guards below
	sent map[string][]byte // the last first message to each address since forget
}

// forget forgets the first messages that were sent.
func (c *choice) forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sent = make(map[string][]byte)
}

// last returns the last first message that was sent to an address since forget, or nil. Whoever began that handshake, us or the
// device, it is the one that counts.
func (c *choice) last(addr string) []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.sent[addr]
}

// mostSent bounds how many addresses are remembered when peers move about by themselves.
const mostSent = 64

// Send sends what the device sends.
func (c *choice) Send(packets [][]byte, to conn.Endpoint) error {
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

// send sends a copy of a first message to an address.
func (c *choice) send(initiation []byte, addr netip.AddrPort) error {
	to, err := c.ParseEndpoint(addr.String())
	if err != nil {
		return err
	}
	return c.Bind.Send([][]byte{bytes.Clone(initiation)}, to)
}

// Open opens the sockets. What is received from a deaf address is dropped, unless it answers a handshake. Otherwise a server that
// was left, and has not noticed, would draw the client back with every packet: the device sends to where it last heard a peer.
func (c *choice) Open(port uint16) ([]conn.ReceiveFunc, uint16, error) {
	receivers, actual, err := c.Bind.Open(port)
	for i, receive := range receivers {
		receivers[i] = func(packets [][]byte, sizes []int, from []conn.Endpoint) (int, error) {
			n, err := receive(packets, sizes, from)
			if deaf := c.deaf.Load(); deaf != nil {
				for j := range n {
					if !isAnswer(packets[j][:sizes[j]]) && (*deaf)[addrOf(from[j])] {
						sizes[j] = 0 // the device passes over an empty packet
					}
				}
			}
			return n, err
		}
	}
	return receivers, actual, err
}

// hearAll makes no address deaf. It does nothing if c is nil.
func (c *choice) hearAll() {
	if c != nil {
		c.deaf.Store(nil)
	}
}

// typeOf returns the type of a WireGuard message, or 0.
func typeOf(packet []byte) uint32 {
	if len(packet) < 4 {
		return 0
	}
	return binary.LittleEndian.Uint32(packet)
}

func isAnswer(packet []byte) bool {
	t := typeOf(packet)
	return t == device.MessageResponseType || t == device.MessageCookieReplyType
}

// addrOf returns where a packet came from.
func addrOf(e conn.Endpoint) netip.AddrPort {
	if std, ok := e.(*conn.StdNetEndpoint); ok {
		return unmapped(std.AddrPort)
	}
	addr, _ := netip.ParseAddrPort(e.DstToString())
	return unmapped(addr)
}

func unmapped(a netip.AddrPort) netip.AddrPort { return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()) }

// isName reports whether an endpoint is named, so that it may have several addresses.
func (e Endpoint) isName() bool {
	_, err := netip.ParseAddr(e.Host)
	return err != nil
}

// mayMove reports whether a peer may have several addresses.
func (p Peer) mayMove() bool {
	return len(p.Endpoints) > 1 || slices.ContainsFunc(p.Endpoints, Endpoint.isName)
}

// Call asks peers for a new handshake, and does not wait. Call(0) begins one with the address in use of each peer that has
// several. Call(i) asks the i-th of the others for the same handshake. The address that answers first is the one in use from
// then on, and sessions stay until then if the last handshake began more than 5 s ago.
func (c *Client) Call(i int) error {
	if !c.isOpen() {
		return fmt.Errorf("wireguard %s: call: %w", c.name, transport.ErrNotUp)
	}
	if c.choice == nil {
		return nil
	}
	if i == 0 {
		c.lookAround()
	}
	var errs []error
	for _, callee := range c.callees {
		var err error
		switch {
		case len(callee.others) == 0:
		case i == 0:
			err = c.begin(callee)
		case i <= len(callee.others):
			if initiation := c.choice.last(c.endpointOf(callee.key)); initiation != nil {
				err = c.choice.send(initiation, callee.others[i-1])
			}
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("wireguard %s: call %s: %w", c.name, list(callee.endpoints), err))
		}
	}
	return errors.Join(errs...)
}

// lookAround decides which other addresses the next calls are for. All may answer.
func (c *Client) lookAround() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.choice.hearAll()
	c.choice.forget()
	_, peers, _ := readStatus(c.dev)
	for _, callee := range c.callees {
		callee.others = nil
		for _, p := range peers {
			if p.PublicKey == callee.key && len(callee.addrs) > 1 {
				callee.others = after(callee.addrs, unmapped(p.Endpoint))
			}
		}
	}
}

// after returns all addresses but one, beginning behind that one.
func after(addrs []netip.AddrPort, one netip.AddrPort) []netip.AddrPort {
	i := slices.Index(addrs, one)
	if i < 0 {
		return addrs
	}
	return slices.Concat(addrs[i+1:], addrs[:i])
}

// begin begins a handshake with the address in use. If the last one is less than 5 s old, it is given up, and the session with it.
func (c *Client) begin(callee *callee) error {
	callee.called = time.Now()
	err := callee.peer.SendHandshakeInitiation(false)
	if err == nil && c.choice.last(c.endpointOf(callee.key)) == nil {
		callee.expire()
		err = callee.peer.SendHandshakeInitiation(false)
	}
	return err
}

// endpointOf returns where the device sends what is for a peer.
func (c *Client) endpointOf(key PublicKey) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, peers, _ := readStatus(c.dev)
	for _, p := range peers {
		if p.PublicKey == key {
			return p.Endpoint.String()
		}
	}
	return ""
}

// settleLocked makes all addresses deaf but those in use. It is called after a handshake.
func (c *Client) settleLocked(peers []PeerStatus) {
	if c.choice == nil {
		return
	}
	deaf := make(map[netip.AddrPort]bool)
	for _, callee := range c.callees {
		for _, addr := range callee.addrs {
			deaf[addr] = true
		}
	}
	for _, p := range peers {
		delete(deaf, unmapped(p.Endpoint))
	}
	c.choice.deaf.Store(&deaf)
}

// othersLocked returns how many addresses the peer with most of them has beside the one in use. A peer with one has no other one,
// wherever it went.
func (c *Client) othersLocked(peers []PeerStatus) int {
	most := 0
	for _, callee := range c.callees {
		for _, p := range peers {
			if p.PublicKey == callee.key && len(callee.addrs) > 1 {
				most = max(most, len(after(callee.addrs, unmapped(p.Endpoint))))
			}
		}
	}
	return most
}
