// Package meter counts what each peer of a gateway sends and gets, and limits its bandwidth. A Meter stands between WireGuard and
// the gateway's stack, where everything crosses that a peer sends or gets.
//
// Each peer has a lane in each direction. What its rate allows passes at once. What is above waits in the lane, for about 0.1 s
// at that rate, so that TCP finds a steady bottleneck; what does not fit there is dropped. One goroutine lets out what waits, so a
// packet of one peer never waits for another peer.
//
// It does not know why a peer has which limits, and it keeps nothing.
package meter

import (
	"context"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gaissmai/bart"
	"golang.zx2c4.com/wireguard/tun"
)

// Direction is a way that packets go.
type Direction int

// Directions, as peers see them.
const (
	Up   Direction = iota // from a peer
	Down                  // to a peer
)

// Device is the stack's side. Wake makes a Read that finds nothing return 0 packets.
type Device interface {
	tun.Device
	Wake()
}

// Peer is a peer to be counted.
type Peer struct {
	ID    string // stays the same for as long as the peer is known
	Addrs []netip.Prefix
}

// Meter is a tun.Device for WireGuard. Read returns size 0 for a packet that is not to be sent now; WireGuard skips those.
type Meter struct {
	Device
	table   atomic.Pointer[table] // nil: nobody is counted, and a packet costs nothing
	dropped [2]drops
	held    atomic.Int64 // bytes in lanes, and on their way out of them
	lifted  atomic.Bool  // see Lift
	start   time.Time
	crowded chan struct{} // capacity 1: a lane has something to let out
	crossed chan struct{} // capacity 1: see Crossed

	use sync.Mutex // held while the table is replaced

	pacing sync.Mutex // held while something is let out; guards below
	look   []*lane    // scratch
	out    []*packet
	bufs   [][]byte

	mu    sync.Mutex // guards below
	lanes []*lane    // those with something in them

	exit  exit // lets out what goes to peers
	other bool // of the reader alone: it reads the device next, not exit
}

// drops are the packets that were dropped in one direction.
type drops struct{ packets, bytes atomic.Uint64 }

// table is who is counted. It is immutable.
type table struct {
	byAddr   bart.Table[*Account]
	accounts map[string]*Account
}

// New returns the meter of a device. Nobody is counted before Use.
func New(d Device) *Meter {
	return &Meter{
		Device: d, start: time.Now(), crowded: make(chan struct{}, 1), crossed: make(chan struct{}, 1),
		out: make([]*packet, 0, batch), bufs: make([][]byte, 0, batch),
	}
}

// Crossed says that an account may have crossed its mark.
func (m *Meter) Crossed() <-chan struct{} { return m.crossed }

// Dropped returns how much was dropped in a direction.
func (m *Meter) Dropped(d Direction) (packets, bytes uint64) {
	return m.dropped[d].packets.Load(), m.dropped[d].bytes.Load()
}

// Use counts these peers and no others, and returns their accounts by ID. Peers that stay keep theirs. What waits for or from an
// address that its peer no longer has is dropped: after Use, the device is given nothing of it.
func (m *Meter) Use(peers []Peer) map[string]*Account {
	m.use.Lock()
	defer m.use.Unlock()
	before := m.table.Load()
	next := &table{accounts: make(map[string]*Account, len(peers))}
	for _, p := range peers {
		var a *Account
		if before != nil {
			a = before.accounts[p.ID]
		}
		if a == nil {
			a = newAccount(m)
		}
		next.accounts[p.ID] = a
		for _, prefix := range p.Addrs {
			next.byAddr.Insert(prefix.Masked(), a)
		}
	}
	if len(peers) == 0 {
		m.table.Store(nil)
	} else {
		m.table.Store(next)
	}
	if before != nil {
		m.clear(before, next)
	}
	return next.accounts
}

// clear empties the lanes of peers that are gone or have lost an address.
func (m *Meter) clear(before, next *table) {
	lost := make(map[*Account]bool)
	for prefix, a := range before.byAddr.All() {
		if now, ok := next.byAddr.Get(prefix); !ok || now != a {
			lost[a] = true
		}
	}
	m.pacing.Lock() // so that nothing of them is on its way to the device
	defer m.pacing.Unlock()
	for a := range lost {
		for d := range a.lanes {
			a.lanes[d].clear()
		}
	}
}

// lookup is a look-up of accounts for packets in a row, which mostly have the same address.
type lookup struct {
	table   *table
	addr    netip.Addr
	account *Account
}

// of returns the account of a packet's peer, or nil.
func (l *lookup) of(packet []byte, d Direction) *Account {
	var addr netip.Addr
	switch at := 12 + 4*int(d); {
	case len(packet) >= 20 && packet[0]>>4 == 4:
		addr = netip.AddrFrom4([4]byte(packet[at:]))
	case len(packet) >= 40 && packet[0]>>4 == 6:
		addr = netip.AddrFrom16([16]byte(packet[8+16*int(d):]))
	default:
		return nil
	}
	if addr != l.addr {
		l.addr = addr
		l.account, _ = l.table.byAddr.Lookup(addr.Unmap())
	}
	return l.account
}

// Read implements tun.Device: it returns what goes to peers.
func (m *Meter) Read(bufs [][]byte, sizes []int, offset int) (int, error) {
	if waiting := m.exit.n.Load() > 0; waiting && !m.other {
		if n := m.exit.read(m, bufs, sizes, offset); n > 0 {
			m.other = true // so that neither starves
			return n, nil
		}
	} else if waiting {
		m.Wake() // come back for the rest even if the device has nothing
	}
	m.other = false
	n, err := m.Device.Read(bufs, sizes, offset)
	t := m.table.Load()
	if t == nil {
		return n, err
	}
	now, l := m.elapsed(), lookup{table: t}
	for i := range n {
		packet := bufs[i][offset : offset+sizes[i]]
		if a := l.of(packet, Down); a != nil && !a.pass(Down, packet, t, now) {
			sizes[i] = 0
		}
	}
	return n, err
}

// Write implements tun.Device: it takes what comes from peers. It rearranges bufs.
func (m *Meter) Write(bufs [][]byte, offset int) (int, error) {
	t := m.table.Load()
	if t == nil {
		return m.Device.Write(bufs, offset)
	}
	now, l, n := m.elapsed(), lookup{table: t}, 0
	for _, b := range bufs {
		if a := l.of(b[offset:], Up); a == nil || a.pass(Up, b[offset:], t, now) {
			bufs[n] = b
			n++
		}
	}
	if n > 0 {
		if _, err := m.Device.Write(bufs[:n], offset); err != nil {
			return 0, err
		}
	}
	return len(bufs), nil
}

// elapsed returns the time since the start.
func (m *Meter) elapsed() time.Duration { return time.Since(m.start) }

// Lift ends all limits for good, for a gateway that closes: what waits goes on at once, and what comes behind it, such as the
// reset of a flow, does not wait for its turn, nor is it dropped. Packets stay in order, and are counted. Run must still run.
func (m *Meter) Lift() {
	m.lifted.Store(true)
	signal(m.crowded)
}

// Settle waits until nothing waits any more, but no longer than patience.
func (m *Meter) Settle(patience time.Duration) {
	for end := time.Now().Add(patience); m.held.Load() > 0 && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
}

// Run lets out what waits in lanes, until ctx ends.
func (m *Meter) Run(ctx context.Context) error {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-m.crowded:
		case <-timer.C:
		}
		if next := m.pace(); next > 0 {
			timer.Reset(next)
		}
	}
}

// quantum is the shortest time between two looks at the lanes.
const quantum = 2 * time.Millisecond

// pace lets out what may go now, and returns when to look again, or 0 if nothing waits.
func (m *Meter) pace() (next time.Duration) {
	m.pacing.Lock()
	defer m.pacing.Unlock()
	m.mu.Lock()
	m.look = append(m.look[:0], m.lanes...)
	m.mu.Unlock()
	for _, l := range m.look {
		wait := l.letOut(m.elapsed())
		if wait > 0 && (next == 0 || wait < next) {
			next = wait
		}
	}
	return next
}
