package stack

import (
	"context"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"golang.org/x/time/rate"

	"penstock/stack/packet"
	"penstock/stack/share"
)

// flowKind is what a datagram flow carries.
type flowKind uint8

const (
	kindUDP   flowKind = iota
	kindEcho           // echo requests that came in; the remote port is their identifier
	kindReply          // echo replies to our own requests; the local port is their identifier
)

// addrPair names a flow as the stack sees it. remote sent its first packet, or is the address we dialled.
type addrPair struct{ remote, local netip.AddrPort }

type flowKey struct {
	kind flowKind
	addrPair
}

// flowState is where a datagram flow stands.
type flowState uint8

const (
	flowPending  flowState = iota // its handler has not answered yet
	flowAccepted                  // also: dialled by us
	flowRefused                   // each packet is answered with an ICMP error until the flow expires
	flowDropped                   // each packet is dropped until the flow expires
)

// tombstone is how long a refused or dropped flow stays in the table, so that its packets are not judged again.
const tombstone = time.Second

// sweepEvery is how often the table is searched for idle flows, and so how late one may end.
const sweepEvery = 2 * time.Second

// flowTable holds the datagram and echo flows of a stack.
type flowTable struct {
	s      *Stack
	errors *rate.Limiter // for ICMP errors, as hosts limit them

	mu     sync.Mutex // guards below
	flows  map[flowKey]*datagramConn
	shares share.Table
	ended  bool
	wake   chan struct{} // capacity 1: there may be something to sweep
}

func newFlowTable(s *Stack) *flowTable {
	return &flowTable{
		s:      s,
		errors: rate.NewLimiter(1000, 50),
		flows:  make(map[flowKey]*datagramConn),
		shares: share.NewTable(s.limits.UDPFlows, s.limits.UDPPerClient),
		wake:   make(chan struct{}, 1),
	}
}

// arrived hands a datagram to its flow. The first datagram makes the flow.
func (t *flowTable) arrived(kind flowKind, a addrPair, data []byte) {
	k := flowKey{kind, a}
	t.mu.Lock()
	c := t.flows[k]
	if c == nil {
		if t.s.handle == nil || kind == kindReply || t.ended {
			ended := t.ended
			t.mu.Unlock()
			if kind == kindUDP && !ended {
				sender{t.s}.unreachable(k, packet.WhyPort)
			}
			return
		}
		var reason DropReason
		if c, reason = t.acceptLocked(k); c == nil {
			t.mu.Unlock()
			t.s.metrics.drop(reason)
			return
		}
		t.s.wg.Add(1)
		go t.serve(c)
	}
	t.mu.Unlock()
	c.deliver(data)
}

// acceptLocked makes a flow of a client's, or says why there is none.
func (t *flowTable) acceptLocked(k flowKey) (*datagramConn, DropReason) {
	key, ok := t.s.client(k.remote.Addr())
	if !ok {
		return nil, dropSource
	}
	c := t.addLocked(k, share.Owner{Client: key})
	if c == nil {
		return nil, dropCap
	}
	return c, ""
}

// serve runs the handler of a new flow.
func (t *flowTable) serve(c *datagramConn) {
	defer t.s.wg.Done()
	defer t.s.recover()
	ctx, cancel := context.WithCancel(t.s.life)
	defer cancel()
	c.onEnd(cancel)
	r := &Request{Network: c.network(), Src: c.key.remote, Dst: c.key.local, Client: c.owner.Client, datagram: c}
	defer r.finish()
	t.s.handle(ctx, r)
}

// addLocked makes a flow of o. In a full table it pushes out the longest silent flow of whoever has to make room.
func (t *flowTable) addLocked(k flowKey, o share.Owner) *datagramConn {
	c := newDatagramConn(t, k, o)
	evicted, ok := t.shares.Add(&c.place, o)
	if !ok {
		return nil
	}
	if evicted != nil {
		old := evicted.Flow.(*datagramConn)
		delete(t.flows, old.key)
		old.shut(errEvicted)
		t.s.metrics.evicted()
	}
	t.flows[k] = c
	select {
	case t.wake <- struct{}{}:
	default:
	}
	return c
}

func (t *flowTable) removeLocked(c *datagramConn) {
	if t.flows[c.key] == c {
		delete(t.flows, c.key)
		t.shares.Remove(&c.place)
	}
}

func (t *flowTable) remove(c *datagramConn) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.removeLocked(c)
}

func (t *flowTable) find(k flowKey) *datagramConn {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.flows[k]
}

// fail tells a flow that we dialled that an ICMP error came back.
func (t *flowTable) fail(k flowKey, err syscall.Errno) {
	if c := t.find(k); c != nil && c.owner.Own {
		c.fail(err)
	}
}

// sweep ends idle flows until the stack closes. It sleeps while there are no flows.
func (t *flowTable) sweep() {
	timer := time.NewTimer(sweepEvery)
	defer timer.Stop()
	for {
		select {
		case <-t.s.life.Done():
			return
		case <-t.wake:
		}
		for t.sweepOnce(t.s.now()) > 0 {
			timer.Reset(sweepEvery)
			select {
			case <-t.s.life.Done():
				return
			case <-timer.C:
			}
		}
	}
}

// sweepOnce ends the flows that are idle at now, a time of the stack's clock, and returns how many are left.
func (t *flowTable) sweepOnce(now int64) int {
	t.closeIf(errIdle, func(c *datagramConn) bool { return c.idleAt(now) })
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.flows)
}

// closeLocal ends the flows whose own end is addr.
func (t *flowTable) closeLocal(addr netip.Addr) {
	t.closeIf(errAddressGone, func(c *datagramConn) bool { return c.key.local.Addr() == addr })
}

// closeClient ends the flows that a client began, and returns how many.
func (t *flowTable) closeClient(key uint64) int {
	t.mu.Lock()
	places := t.shares.RemoveOwner(share.Owner{Client: key})
	for _, p := range places {
		delete(t.flows, p.Flow.(*datagramConn).key)
	}
	t.mu.Unlock()
	for _, p := range places {
		p.Flow.(*datagramConn).shut(errClientClosed)
	}
	return len(places)
}

// closeAll ends every flow. No flow can be made afterwards.
func (t *flowTable) closeAll() {
	t.mu.Lock()
	t.ended = true
	t.mu.Unlock()
	t.closeIf(net.ErrClosed, func(*datagramConn) bool { return true })
}

// closeIf ends the flows that match. Their reads return err.
func (t *flowTable) closeIf(err error, match func(*datagramConn) bool) {
	var conns []*datagramConn
	t.mu.Lock()
	for _, c := range t.flows {
		if match(c) {
			conns = append(conns, c)
		}
	}
	for _, c := range conns {
		t.removeLocked(c)
	}
	t.mu.Unlock()
	for _, c := range conns {
		c.shut(err)
	}
	for _, c := range conns { // what begins to send from here on is refused; what has begun is waited for
		for end := time.Now().Add(closePatience); c.writing.Load() > 0 && time.Now().Before(end); {
			time.Sleep(100 * time.Microsecond)
		}
	}
}

// dial makes a flow of our own to remote, from a free local port.
func (t *flowTable) dial(kind flowKind, remote netip.AddrPort, local netip.Addr) (*datagramConn, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ended {
		return nil, net.ErrClosed
	}
	for range 64 {
		k := flowKey{kind, addrPair{remote: remote, local: netip.AddrPortFrom(local, ephemeralPort())}}
		if t.flows[k] != nil {
			continue
		}
		c := t.addLocked(k, share.Owner{Own: true})
		if c == nil {
			return nil, syscall.ENOBUFS
		}
		c.state.Store(uint32(flowAccepted))
		return c, nil
	}
	return nil, syscall.EADDRNOTAVAIL
}
