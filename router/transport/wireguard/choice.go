package wireguard

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"penstock/router/transport"
	"penstock/router/transport/wireguard/internal/sockets"
)

var _ transport.Caller = (*Client)(nil)

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
			if initiation := c.choice.Last(c.endpointOf(callee.key)); initiation != nil {
				err = c.choice.SendTo(initiation, callee.others[i-1])
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
	c.choice.HearAll()
	c.choice.Welcome(0) // whoever moves to another address does not come back because the first one calls
	c.choice.Forget()
	_, peers, _ := readStatus(c.dev)
	for _, callee := range c.callees {
		callee.others = nil
		for _, p := range peers {
			if p.PublicKey == callee.key && len(callee.addrs) > 1 {
				callee.asked = sockets.Unmapped(p.Endpoint)
				callee.others = after(callee.addrs, callee.asked)
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
	if err == nil && c.choice.Last(c.endpointOf(callee.key)) == nil {
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
	var places []sockets.Place
	for _, callee := range c.callees {
		for _, p := range peers {
			if p.PublicKey == callee.key {
				places = append(places, sockets.Place{Addrs: callee.addrs, At: sockets.Unmapped(p.Endpoint)})
			}
		}
	}
	c.choice.Settle(places)
	for _, callee := range c.callees {
		if callee.asked.IsValid() && slices.ContainsFunc(places, func(p sockets.Place) bool { return p.At == callee.asked }) {
			// It had dropped the session, and answers now. A gateway that hands its peers over does that, again and again.
			c.choice.Welcome(newcomer)
		}
		callee.asked = netip.AddrPort{}
	}
}

// othersLocked returns how many addresses the peer with most of them has beside the one in use. A peer with one has no other one,
// wherever it went.
func (c *Client) othersLocked(peers []PeerStatus) int {
	most := 0
	for _, callee := range c.callees {
		for _, p := range peers {
			if p.PublicKey == callee.key && len(callee.addrs) > 1 {
				most = max(most, len(after(callee.addrs, sockets.Unmapped(p.Endpoint))))
			}
		}
	}
	return most
}
