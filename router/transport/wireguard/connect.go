package wireguard

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"golang.zx2c4.com/wireguard/device"

	"penstock/router/transport"
)

const (
	// firstWait is how long the first round of calls waits for an answer from each address. Every further round waits
	// twice as long, up to lastWait. A new call voids the one before, so an answer slower than the wait is lost:
	// lastWait is longer than any useful round trip, and short enough to use a path soon after it comes back.
	//
	// An answer that arrives at the moment of the next call can leave a session in which nothing comes back, because the
	// device mixes up the two handshakes (ConsumeMessageResponse computes outside its lock; wireguard-go as of 2026-05).
	// Only a probe finds that.
	firstWait = time.Second
	lastWait  = 2 * time.Second

	// answerPoll is how often the counters are read while waiting for an answer: the device has no event for it.
	answerPoll = 20 * time.Millisecond

	// headStart is by how much another address must be nearer than the one in use to be used instead. To move ends the flows
	// there, so it has to be worth it: 100 ms is the way to another continent and back.
	headStart = 100 * time.Millisecond

	// newcomer is how long after Connect, or after a silent address has answered again, a peer may call from another of its
	// addresses, and so send the client on. A gateway with many peers does that with those that come, and one that is drained
	// with all.
	newcomer = 30 * time.Second
)

// callee is a peer that can be called. Only Connect, Probe and Call use its fields, except for addrs and asked.
type callee struct {
	peer      *device.Peer
	key       PublicKey
	endpoints []Endpoint
	known     [][]netip.AddrPort // of each endpoint, for when its name cannot be resolved any more
	addrs     []netip.AddrPort   // of all endpoints, in the order in which to try them; Client.mu guards it
	asked     netip.AddrPort     // the one in use when Call began, until the handshake; Client.mu guards it

	called time.Time        // when Call last began a handshake; zero: never
	others []netip.AddrPort // whom else Call asks for it
}

// expire lets the device send an initiation now: otherwise it sends none within 5 s of the last one. From here on packets
// for the peer wait until it has answered.
func (c *callee) expire() { c.peer.ExpireCurrentKeypairs() }

// Connect resolves the endpoints again and makes handshakes until a peer answers or ctx ends. It asks all addresses of a peer
// at once, and the first to answer, which is the nearest, is the one in use from then on; one that was in use before has
// a head start. If none answers, it tries them in turn. If a name cannot be resolved, it tries the last known addresses. A
// session that was up keeps receiving meanwhile, and sends again once the new one is up. The reason of a failure is endpoint_unresolved if no peer has an
// address, handshake_failed if none answered or could be sent to, error if the sockets cannot be opened. After a failure
// WireGuard itself keeps calling while the inner device has something to send.
func (c *Client) Connect(ctx context.Context) error {
	reason, err := c.connect(ctx)
	if err == nil {
		return nil
	}
	if c.hasEnded() {
		reason, err = transport.ReasonError, errDeviceLost
	}
	err = fmt.Errorf("wireguard %s: %w", c.name, err)
	switch {
	case errors.Is(ctx.Err(), context.Canceled):
		return err
	case errors.Is(err, errNotPermitted), errors.Is(err, errDeviceLost):
		return &transport.BlockedError{Reason: reason, Err: err}
	}
	return &transport.ReasonedError{Reason: reason, Err: err}
}

func (c *Client) connect(ctx context.Context) (transport.Reason, error) {
	callees, err := c.locate(ctx)
	if err != nil {
		return transport.ReasonEndpointUnresolved, err
	}
	known := !c.sample().LastHandshake.IsZero() // the first address of a peer is one that has answered
	fresh, err := c.openSockets(callees)
	if err != nil {
		return transport.ReasonError, err
	}
	most := 0 // addresses of one peer
	for _, callee := range callees {
		most = max(most, len(callee.addrs))
	}
	tries := most
	if most > 1 {
		// After all at once each alone: where two addresses are those of one server, the message that arrives there first has
		// the handshake, even if no answer comes back on its way.
		tries++
	}
	for wait := c.firstWait; ; wait = min(2*wait, lastWait) {
		var errs []error
		for i := range tries {
			// The device calls its peers when it comes up. They would take another initiation within 20 ms for a flood.
			before, err := c.call(callees, max(i-1, 0), !fresh)
			fresh = false
			answered := false
			if i == 0 && most > 1 {
				if err == nil && known {
					answered, _ = c.await(ctx, before, c.headStart) // what ended it ends the next one too
				}
				if !answered && c.spread(callees) {
					err = nil
				}
			}
			if err != nil {
				errs = append(errs, err)
				continue
			}
			if !answered {
				answered, err = c.await(ctx, before, wait)
			}
			if err != nil {
				err = fmt.Errorf("no answer from %s: %w", names(callees), err)
				if late := c.lateClock(); late != "" {
					err = fmt.Errorf("%s: %w", late, err)
				}
				return transport.ReasonHandshakeFailed, err
			}
			if answered {
				c.choice.Welcome(newcomer)
				return transport.ReasonNone, nil
			}
		}
		if len(errs) == tries {
			return transport.ReasonHandshakeFailed, fmt.Errorf("call %s: %w", names(callees), errors.Join(errs...))
		}
	}
}

// spread asks the other addresses of peers for the handshake that their first one was asked for. It reports whether anything was
// sent.
func (c *Client) spread(callees []*callee) (sent bool) {
	for _, callee := range callees {
		if len(callee.addrs) < 2 {
			continue
		}
		initiation := c.choice.Last(callee.addrs[0].String())
		if initiation == nil {
			continue
		}
		for _, addr := range callee.addrs[1:] {
			if err := c.choice.SendTo(initiation, addr); err != nil {
				c.log.Debug("an endpoint was not called", "endpoint", addr, "err", err)
				continue
			}
			sent = true
		}
	}
	return sent
}

// locate returns the peers that can be called, with their addresses, the one in use first.
func (c *Client) locate(ctx context.Context) ([]*callee, error) {
	current := make(map[PublicKey]netip.AddrPort)
	c.mu.Lock()
	_, peers, _ := readStatus(c.dev)
	c.mu.Unlock()
	for _, p := range peers {
		current[p.PublicKey] = p.Endpoint
	}
	var found []*callee
	var errs []error
	for _, callee := range c.callees {
		for i, endpoint := range callee.endpoints {
			addrs, err := candidates(ctx, endpoint, c.resolve)
			if err == nil {
				callee.known[i] = addrs
				continue
			}
			err = fmt.Errorf("resolve endpoint %s: %w", endpoint, err)
			errs = append(errs, err)
			if callee.known[i] != nil {
				c.log.Info("cannot resolve an endpoint, trying its last known addresses", "err", err)
			}
		}
		if addrs := inTurn(callee.known, current[callee.key]); len(addrs) > 0 {
			c.mu.Lock()
			callee.addrs = addrs
			c.mu.Unlock()
			found = append(found, callee)
		}
	}
	if len(found) == 0 {
		return nil, errors.Join(errs...)
	}
	return found, nil
}

// inTurn returns all addresses of a peer in the order in which to try them: the one in use, if it is known, then the first of
// each endpoint, then the second of each, and so on.
func inTurn(known [][]netip.AddrPort, current netip.AddrPort) []netip.AddrPort {
	var all []netip.AddrPort
	for _, addr := range interleave(known...) {
		switch {
		case slices.Contains(all, addr):
		case addr == current:
			all = slices.Insert(all, 0, addr)
		default:
			all = append(all, addr)
		}
	}
	return all
}

// openSockets opens the sockets unless they are open, and returns whether it did. Peers get their first address before
// that, because those with a keepalive are sent one at once.
func (c *Client) openSockets(callees []*callee) (fresh bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.open {
		return false, nil
	}
	if err := c.aimLocked(callees, 0); err != nil {
		return false, err
	}
	if err := c.up(); err != nil {
		return false, err
	}
	c.open = true
	return true, nil
}

// call sends an initiation to the i-th address of each callee, or the i-th modulo its number of addresses. before is the
// time of the last handshake that cannot be an answer to it. The error says that nothing could be sent to anyone.
func (c *Client) call(callees []*callee, i int, force bool) (before time.Time, err error) {
	c.mu.Lock()
	c.choice.HearAll()
	err = c.aimLocked(callees, i)
	c.mu.Unlock()
	if err != nil {
		return before, err
	}
	if force {
		for _, callee := range callees {
			callee.expire()
		}
	}
	// After expire: a handshake that ended before it made a session that expire has ended.
	before = c.sample().LastHandshake
	var errs []error
	for _, callee := range callees {
		if err := callee.peer.SendHandshakeInitiation(false); err != nil {
			errs = append(errs, err)
		}
	}
	if len(errs) == len(callees) {
		return before, errors.Join(errs...)
	}
	return before, nil
}

// aimLocked sets the endpoint of each callee to its i-th address.
func (c *Client) aimLocked(callees []*callee, i int) error {
	var s script
	for _, callee := range callees {
		s.selectPeer(callee.key)
		s.set("endpoint", callee.addrs[i%len(callee.addrs)])
	}
	return c.dev.IpcSet(s.String())
}

// await waits until the time of the last handshake differs from before, and returns whether that was within wait.
func (c *Client) await(ctx context.Context, before time.Time, wait time.Duration) (answered bool, err error) {
	timeout := time.NewTimer(wait)
	defer timeout.Stop()
	poll := time.NewTicker(answerPoll)
	defer poll.Stop()
	for {
		select {
		case <-poll.C:
			if !c.sample().LastHandshake.Equal(before) {
				return true, nil
			}
		case <-timeout.C:
			return !c.sample().LastHandshake.Equal(before), nil
		case <-ctx.Done():
			return false, ctx.Err()
		case <-c.dev.Wait():
			return false, errDeviceLost
		}
	}
}

// names lists endpoints and their addresses for messages.
func names(callees []*callee) string {
	texts := make([]string, len(callees))
	for i, callee := range callees {
		texts[i] = list(callee.endpoints)
		if slices.ContainsFunc(callee.endpoints, Endpoint.isName) {
			texts[i] += " (" + list(callee.addrs) + ")"
		}
	}
	return strings.Join(texts, ", ")
}
