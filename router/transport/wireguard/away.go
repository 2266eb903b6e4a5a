package wireguard

import (
	"context"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/gaissmai/bart"
	"golang.org/x/time/rate"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun"

	"penstock/router/lookup"
	"penstock/router/transport/wireguard/internal/door"
)

// A wireguard-go device takes 25 KB, two goroutines and an X25519 for each peer, and has at most 65,536. So a server with many peers
// keeps those out of its device that are away:
//
//	         an initiation of it arrives (door), a packet for it is
//	away     read from the inner device, or Call                        present
//	(table) ----------------------------------------------------------> (device)
//	        <----------------------------------------------------------
//	         nothing sent or received for leaveAfter: there is no session any more
//
// What can be seen of a peer survives its leaving: its counters, where it was, its last handshake, and the newest time in its
// initiations, because of which an old one is not taken again.

const (
	// manyPeers is how many peers a server has all at once in its device, if its configuration does not say.
	manyPeers = 100
	// leaveAfter is more than a session carries without a new handshake (180 s) and a lost initiation is repeated (90 s).
	leaveAfter = 240 * time.Second
	leaveLook  = 30 * time.Second
	// wakeRate bounds how many peers per second are made present because of packets from inside, each of which delays the others.
	wakeRate  = 200
	wakeBurst = 50
)

// table is the peers of a server that keeps those out of its device that are away.
type table struct {
	index   *lookup.Table[PublicKey] // in Server.peers
	callers map[PublicKey]*caller

	// gone has the addresses of those who are away and whose endpoint is known, so that they can be called. nil: there are none.
	gone  atomic.Pointer[bart.Table[PublicKey]]
	wakes *rate.Limiter
}

func newTable() *table {
	return &table{callers: make(map[PublicKey]*caller), wakes: rate.NewLimiter(wakeRate, wakeBurst)}
}

// caller is a peer that has called, or was called, since it was added.
type caller struct {
	present bool
	newest  door.Moment // in its initiations
	active  time.Time   // when anything was last seen of it
	before  trace       // of the times that it was present
	seen    trace       // of this time, at the last look
}

// trace is what is kept of a PeerStatus.
type trace struct {
	endpoint  netip.AddrPort
	handshake time.Time
	rx, tx    uint64 // bytes
}

func traceOf(p PeerStatus) trace { return trace{p.Endpoint, p.LastHandshake, p.RxBytes, p.TxBytes} }

// join adds what a device says of a peer to what was before.
func (c *caller) join(now PeerStatus) PeerStatus {
	now.RxBytes += c.before.rx
	now.TxBytes += c.before.tx
	if !now.Endpoint.IsValid() {
		now.Endpoint = c.before.endpoint
	}
	if now.LastHandshake.IsZero() {
		now.LastHandshake = c.before.handshake
	}
	return now
}

// admit makes sure that the device has the peer with a key, in whose initiation read finds the time.
func (s *Server) admit(caller device.NoisePublicKey, read func() (door.Moment, error)) door.Refusal {
	key := PublicKey(caller)
	if !s.isPeer(key) {
		return door.Stranger
	}
	at, err := read()
	if err != nil {
		return door.Replayed
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.peerLocked(key); !ok {
		return door.Stranger // it was removed meanwhile
	}
	c := s.callerLocked(key)
	if !at.After(c.newest) {
		s.warnOfReplayLocked(key)
		return door.Replayed
	}
	if err := s.addLocked(key, netip.AddrPort{}); err != nil {
		return door.NoRoom
	}
	c.newest = at
	return door.Admitted
}

func (s *Server) isPeer(key PublicKey) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.table.index.Find(key)
	return ok
}

// peerLocked returns the peer with a key.
func (s *Server) peerLocked(key PublicKey) (p Peer, ok bool) {
	i, ok := s.table.index.Find(key)
	if !ok {
		return p, false
	}
	return s.peers.At(i), true
}

func (s *Server) callerLocked(key PublicKey) *caller {
	c := s.table.callers[key]
	if c == nil {
		c = new(caller)
		s.table.callers[key] = c
	}
	return c
}

// addLocked makes a peer present. An invalid endpoint is left to its initiation.
func (s *Server) addLocked(key PublicKey, endpoint netip.AddrPort) error {
	c := s.callerLocked(key)
	if c.present {
		c.active = time.Now()
		return nil
	}
	peer, _ := s.peerLocked(key)
	var add script
	add.change(Peer{}, peer)
	if endpoint.IsValid() {
		add.set("endpoint", endpoint)
	}
	if err := s.dev.IpcSet(add.String()); err != nil {
		return err
	}
	c.present, c.active, c.seen = true, time.Now(), trace{}
	if t := s.table.gone.Load(); t != nil && c.before.endpoint.IsValid() {
		for _, prefix := range peer.AllowedIPs {
			t = t.DeletePersist(prefix.Masked())
		}
		s.table.gone.Store(t)
	}
	return nil
}

// setAway is SetPeers for a server with a table. list has the same peers. It needs mu.
func (s *Server) setAway(peers Peers, list List) error {
	next := lookup.New(len(list), func(i int) PublicKey { return peers.At(i).PublicKey })
	var change script
	for key, c := range s.table.callers {
		if _, stays := next.Find(key); !stays && c.present {
			change.remove(key)
		}
	}
	for key, c := range s.table.callers {
		if i, stays := next.Find(key); stays && c.present {
			before, _ := s.peerLocked(key)
			change.change(before, list[i])
		}
	}
	if text := change.String(); text != "" {
		if err := s.dev.IpcSet(text); err != nil {
			return err
		}
	}
	s.peers, s.table.index = peers, next
	for key := range s.table.callers {
		if _, stays := next.Find(key); !stays {
			delete(s.table.callers, key)
		}
	}
	s.setGone()
	return nil
}

// setGone makes table.gone anew. It needs mu.
func (s *Server) setGone() {
	var t *bart.Table[PublicKey]
	for key, c := range s.table.callers {
		if c.present || !c.before.endpoint.IsValid() {
			continue
		}
		if t == nil {
			t = new(bart.Table[PublicKey])
		}
		peer, _ := s.peerLocked(key)
		for _, prefix := range peer.AllowedIPs {
			t.Insert(prefix.Masked(), key)
		}
	}
	s.table.gone.Store(t)
}

// leave takes the peers out of the device of which nothing was seen for leaveAfter. A peer with a keepalive is called for as long as
// it is a peer, so it stays.
func (s *Server) leave(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, states, err := readStatus(s.dev)
	if err != nil {
		return // it is closed
	}
	var change script
	var leaving []PeerStatus
	for _, state := range states {
		c := s.table.callers[state.PublicKey]
		if c == nil {
			continue
		}
		if seen := traceOf(state); seen != c.seen {
			c.seen, c.active = seen, now
		}
		if peer, _ := s.peerLocked(state.PublicKey); now.Sub(c.active) >= leaveAfter && peer.PersistentKeepalive == 0 {
			change.remove(state.PublicKey)
			leaving = append(leaving, state)
		}
	}
	if len(leaving) == 0 || s.dev.IpcSet(change.String()) != nil {
		return
	}
	for _, state := range leaving {
		c := s.table.callers[state.PublicKey]
		c.before, c.present, c.seen = traceOf(c.join(state)), false, trace{}
	}
	s.setGone()
}

// tend looks for peers that may leave until ctx ends.
func (s *Server) tend(ctx context.Context) {
	tick := time.NewTicker(leaveLook)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			s.leave(time.Now())
		}
	}
}

// wake makes a peer present to which something is sent. It is called by the reader of the inner device, which must not wait: if the
// peers are being changed, the packet is lost.
func (s *Server) wake(key PublicKey) {
	if !s.table.wakes.Allow() || !s.mu.TryLock() {
		return
	}
	defer s.mu.Unlock()
	if c := s.table.callers[key]; c != nil && !c.present && !s.closing.Load() {
		_ = s.addLocked(key, c.before.endpoint) // without room the packet is dropped, as one to a peer that does not answer
	}
}

// callAway is Call for one peer of a server with a table. It returns false if the peer is left alone.
func (s *Server) callAway(former PeerStatus) (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.table.index.Find(former.PublicKey); !ok || s.table.callers[former.PublicKey] != nil || !callable(former.Endpoint) {
		return false, nil
	}
	return true, s.addLocked(former.PublicKey, former.Endpoint)
}

// statesLocked returns the state of the peers that have called or were called, by key.
func (s *Server) statesLocked() map[PublicKey]PeerStatus {
	_, states, _ := readStatus(s.dev)
	byKey := make(map[PublicKey]PeerStatus, len(states))
	for _, state := range states {
		byKey[state.PublicKey] = state
	}
	if s.table == nil {
		return byKey
	}
	for key, c := range s.table.callers {
		byKey[key] = c.join(byKey[key])
	}
	return byKey
}

// wakingDevice is the inner device of a server with a table. It wakes the peers that packets from inside are for.
type wakingDevice struct {
	tun.Device
	server *Server
}

// Read reads packets as the inner device does.
func (d *wakingDevice) Read(packets [][]byte, sizes []int, offset int) (n int, err error) {
	n, err = d.Device.Read(packets, sizes, offset)
	gone := d.server.table.gone.Load()
	if gone == nil {
		return n, err
	}
	for i := range n {
		if to, ok := destination(packets[i][offset : offset+sizes[i]]); ok {
			if key, ok := gone.Lookup(to); ok {
				d.server.wake(key)
			}
		}
	}
	return n, err
}

// destination returns where an IP packet goes.
func destination(packet []byte) (netip.Addr, bool) {
	switch {
	case len(packet) >= 20 && packet[0]>>4 == 4:
		return netip.AddrFrom4([4]byte(packet[16:20])), true
	case len(packet) >= 40 && packet[0]>>4 == 6:
		return netip.AddrFrom16([16]byte(packet[24:40])), true
	}
	return netip.Addr{}, false
}

// initiate starts a handshake with a peer whose endpoint the device knows.
func (s *Server) initiate(key PublicKey) {
	if peer := s.dev.LookupPeer(device.NoisePublicKey(key)); peer != nil {
		_ = peer.SendHandshakeInitiation(false) // an address that cannot be reached any more is as good as one where nobody is
	}
}
