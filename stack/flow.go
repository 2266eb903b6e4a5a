package stack

import (
	"context"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"golang.org/x/time/rate"
)

// flowKind is what a datagram flow carries.
type flowKind uint8

const (
	kindUDP   flowKind = iota
	kindEcho           // echo requests that came in; the remote port is their identifier
	kindReply          // echo replies to requests of ours; the local port is their identifier
)

// addrPair names a flow from the stack's side: remote sent its first packet, or is whom we dialled.
type addrPair struct{ remote, local netip.AddrPort }

type flowKey struct {
	kind flowKind
	addrPair
}

// verdict is what became of a flow's request.
type flowState uint8

const (
	flowPending flowState = iota
	flowAccepted
	flowRefused // answered with ICMP errors until it expires
	flowDropped
)

// tombstone is how long a refused flow's packets are answered from memory instead of being judged again.
const tombstone = time.Second

// sweepEvery is how often idle flows are looked for, and so how late they may end.
const sweepEvery = 2 * time.Second

// flowTable holds the datagram and echo flows of a stack, by source so that one source cannot push out the others.
type flowTable struct {
	s      *Stack
	errors *rate.Limiter // ICMP errors, as hosts limit them

	mu      sync.Mutex // guards below
	flows   map[flowKey]*datagramConn
	clients map[uint64]map[flowKey]*datagramConn
	count   int
	ended   bool
	wake    chan struct{} // capacity 1: there may be something to sweep
}

func newFlowTable(s *Stack) *flowTable {
	return &flowTable{s: s, errors: rate.NewLimiter(1000, 50), flows: make(map[flowKey]*datagramConn), clients: make(map[uint64]map[flowKey]*datagramConn), wake: make(chan struct{}, 1)}
}

// arrived hands a datagram to its flow, making one for the first.
func (t *flowTable) arrived(kind flowKind, a addrPair, data []byte) {
	k := flowKey{kind, a}
	t.mu.Lock()
	c := t.flows[k]
	if c == nil {
		if t.s.handle == nil || kind == kindReply || t.ended {
			t.mu.Unlock()
			if kind == kindUDP && !t.ended {
				t.s.unreachable(k, codePort)
			}
			return
		}
		client, ok := t.s.client(a.remote.Addr())
		if !ok {
			t.mu.Unlock()
			t.s.metrics.drop(dropSource)
			return
		}
		c = t.addLocked(k, client)
		if c == nil {
			t.mu.Unlock()
			t.s.metrics.drop(dropCap)
			return
		}
		t.s.wg.Add(1)
		go t.serve(c)
	}
	t.mu.Unlock()
	c.deliver(data)
}

// serve runs the handler for a new flow.
func (t *flowTable) serve(c *datagramConn) {
	defer t.s.wg.Done()
	defer t.s.recover()
	ctx, cancel := context.WithCancel(t.s.life)
	defer cancel()
	r := &Request{Network: c.network(), Src: c.key.remote, Dst: c.key.local, Client: c.client, datagram: c}
	defer r.finish()
	t.s.handle(ctx, r)
}

// addLocked makes a flow, pushing out the longest silent of those that may be pushed out for it.
func (t *flowTable) addLocked(k flowKey, client uint64) *datagramConn {
	if len(t.clients[client]) >= t.s.limits.UDPPerClient {
		t.evictLocked(t.clients[client])
	} else if t.count >= t.s.limits.UDPFlows {
		t.evictAnyLocked()
	}
	if t.count >= t.s.limits.UDPFlows || len(t.clients[client]) >= t.s.limits.UDPPerClient {
		return nil
	}
	c := newDatagramConn(t, k)
	c.client = client
	if t.clients[client] == nil {
		t.clients[client] = make(map[flowKey]*datagramConn)
	}
	t.clients[client][k] = c
	t.flows[k] = c
	t.count++
	select {
	case t.wake <- struct{}{}:
	default:
	}
	return c
}

// evictSample is how many flows are compared to find one that was silent for long: close to the longest silent at a
// cost that does not grow with the table.
const evictSample = 16

func (t *flowTable) evictLocked(flows map[flowKey]*datagramConn) {
	var oldest *datagramConn
	n := 0
	for _, c := range flows {
		if oldest == nil || c.active.Load() < oldest.active.Load() {
			oldest = c
		}
		if n++; n == evictSample {
			break
		}
	}
	if oldest != nil {
		t.removeLocked(oldest)
		oldest.shut(errEvicted)
		t.s.metrics.evicted()
	}
}

// evictAnyLocked takes from the source that holds most among a few: whoever floods pays first.
func (t *flowTable) evictAnyLocked() {
	var largest map[flowKey]*datagramConn
	n := 0
	for _, flows := range t.clients {
		if len(flows) > len(largest) {
			largest = flows
		}
		if n++; n == evictSample {
			break
		}
	}
	t.evictLocked(largest)
}

func (t *flowTable) removeLocked(c *datagramConn) {
	if t.flows[c.key] != c {
		return
	}
	delete(t.flows, c.key)
	delete(t.clients[c.client], c.key)
	if len(t.clients[c.client]) == 0 {
		delete(t.clients, c.client)
	}
	t.count--
}

func (t *flowTable) remove(c *datagramConn) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.removeLocked(c)
}

// fail tells the flow that sent to remote that an ICMP error came back.
func (t *flowTable) fail(k flowKey, err syscall.Errno) {
	t.mu.Lock()
	c := t.flows[k]
	t.mu.Unlock()
	if c != nil && c.dialled {
		c.fail(err)
	}
}

// sweep ends idle flows until the stack closes. It sleeps while there are none.
func (t *flowTable) sweep() {
	timer := time.NewTimer(sweepEvery)
	defer timer.Stop()
	for {
		select {
		case <-t.s.life.Done():
			return
		case <-t.wake:
		}
		for t.sweepOnce(time.Now()) > 0 {
			timer.Reset(sweepEvery)
			select {
			case <-t.s.life.Done():
				return
			case <-timer.C:
			}
		}
	}
}

// sweepOnce ends the flows that are idle at now and returns how many are left.
func (t *flowTable) sweepOnce(now time.Time) int {
	var idle []*datagramConn
	t.mu.Lock()
	for _, flows := range t.clients {
		for _, c := range flows {
			if c.idleAt(now) {
				idle = append(idle, c)
			}
		}
	}
	for _, c := range idle {
		t.removeLocked(c)
	}
	left := t.count
	t.mu.Unlock()
	for _, c := range idle {
		c.shut(errIdle)
	}
	return left
}

func (t *flowTable) closeLocal(addr netip.Addr) {
	t.closeIf(errAddressGone, func(c *datagramConn) bool { return c.key.local.Addr() == addr })
}

// closeAll ends every flow, and takes no new ones.
func (t *flowTable) closeAll() {
	t.mu.Lock()
	t.ended = true
	t.mu.Unlock()
	t.closeIf(net.ErrClosed, func(*datagramConn) bool { return true })
}

func (t *flowTable) closeClient(key uint64) int {
	return t.closeIf(errClientClosed, func(c *datagramConn) bool { return c.client == key && !c.dialled })
}

// closeIf ends the flows that match with err, and returns how many.
func (t *flowTable) closeIf(err error, match func(*datagramConn) bool) int {
	var conns []*datagramConn
	t.mu.Lock()
	for _, flows := range t.clients {
		for _, c := range flows {
			if match(c) {
				conns = append(conns, c)
			}
		}
	}
	for _, c := range conns {
		t.removeLocked(c)
	}
	t.mu.Unlock()
	for _, c := range conns {
		c.shut(err)
	}
	return len(conns)
}

// dial makes a flow of our own to remote, from a free local port.
func (t *flowTable) dial(kind flowKind, remote netip.AddrPort, local netip.Addr) (*datagramConn, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ended {
		return nil, errAddressGone
	}
	for range 64 {
		k := flowKey{kind, addrPair{remote: remote, local: netip.AddrPortFrom(local, ephemeralPort())}}
		if t.flows[k] != nil {
			continue
		}
		c := t.addLocked(k, 0)
		if c == nil {
			return nil, syscall.ENOBUFS
		}
		c.dialled = true
		c.state.Store(uint32(flowAccepted))
		return c, nil
	}
	return nil, syscall.EADDRNOTAVAIL
}
