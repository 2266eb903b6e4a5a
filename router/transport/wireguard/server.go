package wireguard

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun"

	"penstock/router/transport/wireguard/internal/backlog"
	"penstock/router/transport/wireguard/internal/door"
	"penstock/router/transport/wireguard/internal/sockets"
)

// ServerConfig configures a Server.
type ServerConfig struct {
	// Device is the inner side. NewServer takes it over: Close closes it, and so does NewServer if it fails. Once it is
	// closed its Read must return, its Write must not block, and its Events must end. Its Write is called concurrently,
	// by one goroutine per peer, and must return: SetPeers waits for the Writes of a peer that it removes.
	Device tun.Device

	PrivateKey PrivateKey
	ListenPort uint16 // UDP, on all addresses; 0: any, see Port
	Peers      Peers  // who may call, see SetPeers; nil: nobody

	// Many is the number of peers beyond which the server keeps those that are not connected out of its WireGuard device, where
	// each takes 25 KB. Packets from inside for a peer that has not called are then dropped, and do not wait for its call. It is
	// decided by Peers, once. 0: 100; negative: none.
	Many int

	// Mark is put on the UDP sockets before anything is sent: SO_MARK on Linux, SO_USER_COOKIE on FreeBSD, the routing
	// table on OpenBSD; ignored elsewhere. 0: none. It needs CAP_NET_ADMIN on Linux.
	Mark uint32

	// Listen opens the UDP sockets on Linux, as net.ListenPacket does, one of "udp4" and one of "udp6". They may have been open before.
	// Each must be a *net.UDPConn. nil: net.ListenPacket. Other systems do not use it.
	Listen func(network, address string) (net.PacketConn, error)

	// Foreign is called for each packet that is dropped because its source inside the tunnel is not among its peer's AllowedIPs. It is
	// called by several goroutines, and must return. Nil: they are not counted.
	Foreign func()

	// Crowded is called for each packet that is dropped because too many of its peer wait to be decrypted and handed to Device. It is
	// called by several goroutines, and must return. Nil: they are not counted.
	Crowded func()

	Log *slog.Logger // nil: silent
}

// Peers are those who may call a Server. They do not change, and are safe for concurrent use.
type Peers interface {
	Len() int
	// At returns the i-th peer, from 0. A server with many peers asks for one whenever it needs it, so that it keeps none of those that
	// are away.
	At(i int) Peer
}

// List is a slice as Peers.
type List []Peer

// Len returns how many there are.
func (l List) Len() int { return len(l) }

// At returns the i-th peer.
func (l List) At(i int) Peer { return l[i] }

// listOf returns peers as a slice.
func listOf(peers Peers) List {
	list := make(List, peers.Len())
	for i := range list {
		list[i] = peers.At(i)
	}
	return list
}

// Server is the called side of WireGuard tunnels. A packet whose inner source is not among its peer's AllowedIPs never
// reaches Device: WireGuard itself ensures that, so a source address identifies a peer.
type Server struct {
	*core
	public PublicKey
	log    *slog.Logger

	door *door.Door
	halt func() // ends what the door and the table need, and waits

	mu    sync.Mutex // held while the device is changed; guards below
	peers Peers      // as the device has them, or as many of them as are present
	table *table     // nil: all peers are in the device
	// newest is the newest time in the initiations of each peer. nil: the table has it.
	newest map[PublicKey]door.Moment
	warned *limiter
}

// NewServer makes a Server that listens. The error names the port if it is in use, or every peer that cannot be served.
func NewServer(config ServerConfig) (*Server, error) {
	s, err := newServer(config)
	if err != nil {
		return nil, fmt.Errorf("wireguard server: %w", err)
	}
	return s, nil
}

func newServer(config ServerConfig) (*Server, error) {
	if config.PrivateKey.IsZero() {
		config.Device.Close()
		return nil, errNoPrivateKey
	}
	log := config.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	if config.Peers == nil {
		config.Peers = List(nil)
	}
	s := &Server{public: config.PrivateKey.Public(), log: log, peers: List(nil), warned: &limiter{last: make(map[string]time.Time)}}
	waiting := backlog.New(config.Crowded)
	admit, inner := s.admitPresent, waiting.Device(config.Device)
	if config.Peers.Len() > cmp.Or(config.Many, manyPeers) {
		s.table = newTable()
		admit, inner = s.admit, &wakingDevice{inner, s}
	}
	s.door = door.New(waiting.Bind(sockets.ForServer(config.Listen)), device.NoisePrivateKey(config.PrivateKey.secret), device.NoisePublicKey(s.public), admit)
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	s.halt = func() { cancel(); wg.Wait() }
	wg.Go(func() { s.door.Run(ctx) })
	var err error
	if s.core, err = newCore(inner, s.door, config.PrivateKey, config.ListenPort, config.Mark, "", newDeviceLogger(log, config.Foreign)); err != nil {
		s.halt()
		return nil, err
	}
	if err = s.setPeers(config.Peers); err == nil {
		err = s.up()
	}
	if err != nil {
		s.Close()
		return nil, err
	}
	if s.table != nil {
		wg.Go(func() { s.tend(ctx) })
	}
	return s, nil
}

// admitPresent lets peers pass of which the device has all. read finds the time in an initiation.
func (s *Server) admitPresent(caller device.NoisePublicKey, read func() (door.Moment, error)) door.Refusal {
	key := PublicKey(caller)
	s.mu.Lock()
	_, isPeer := s.newest[key]
	s.mu.Unlock()
	if !isPeer {
		return door.Stranger
	}
	at, err := read()
	if err != nil {
		return door.Replayed
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	newest, isPeer := s.newest[key]
	switch {
	case !isPeer:
		return door.Stranger // it was removed meanwhile
	case !at.After(newest):
		s.warnOfReplayLocked(key)
		return door.Replayed
	}
	s.newest[key] = at
	return door.Admitted
}

func (s *Server) warnOfReplayLocked(key PublicKey) {
	if !s.warned.allow("replay") {
		return
	}
	for i := range s.peers.Len() { // once a minute
		if p := s.peers.At(i); p.PublicKey == key {
			warnOfReplay(s.log, p.Name)
			return
		}
	}
}

// Run serves until ctx ends or Device fails, closes s and returns. The error is nil if ctx ended or Close was called.
func (s *Server) Run(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return s.Close()
	case <-s.dev.Wait():
	}
	closed := s.closing.Load()
	s.Close()
	if closed {
		return nil
	}
	return fmt.Errorf("wireguard server: %w", errDeviceLost)
}

// SetPeers makes peers the only ones that may call. A peer that stays keeps its session, whatever changed about it. A peer
// that is no longer in the list is removed with its session: after SetPeers has returned, Device is given no packet from
// it, and no packet read from Device is sent to it. If it is added again later, it needs a new handshake.
//
// If two peers share an address, or a key is wrong or given twice, nothing changes and the error names all such peers.
// Endpoints are not used: peers call.
func (s *Server) SetPeers(peers Peers) error {
	if err := s.setPeers(peers); err != nil {
		return fmt.Errorf("wireguard server: %w", err)
	}
	return nil
}

func (s *Server) setPeers(peers Peers) error {
	list := listOf(peers)
	if err := CheckPeers(list, s.public); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.table != nil {
		if err := s.setAway(peers, list); err != nil {
			return fmt.Errorf("set peers: %w", err)
		}
		return nil
	}
	if change := difference(listOf(s.peers), list); change != "" {
		if err := s.dev.IpcSet(change); err != nil {
			return fmt.Errorf("set peers: %w", err)
		}
	}
	newest := make(map[PublicKey]door.Moment, len(list))
	for i := range list {
		list[i].AllowedIPs = slices.Clone(list[i].AllowedIPs)
		newest[list[i].PublicKey] = s.newest[list[i].PublicKey]
	}
	s.peers, s.newest = list, newest
	return nil
}

// difference returns the script that turns the peers of a device from old into new. It removes peers first, because their
// addresses may be given to others.
func difference(old, new []Peer) string {
	before := make(map[PublicKey]Peer, len(old))
	for _, p := range old {
		before[p.PublicKey] = p
	}
	stays := make(map[PublicKey]bool, len(new))
	for _, p := range new {
		stays[p.PublicKey] = true
	}
	var s script
	for _, p := range old {
		if !stays[p.PublicKey] {
			s.remove(p.PublicKey)
		}
	}
	for _, p := range new {
		s.change(before[p.PublicKey], p)
	}
	return s.String()
}

// callPause is between two calls of peers, so that a restart with many peers does not take a core, nor fill a router's queue.
const callPause = 2 * time.Millisecond

// Call starts handshakes with peers at the addresses where they were before a restart. A peer whose session is lost here would go
// on sending with it for some 15 s. Peers that have called already, or are no longer peers, are left alone. Call returns when all
// handshakes have been started, or ctx ends; the device repeats them for 90 s.
func (s *Server) Call(ctx context.Context, former []PeerStatus) error {
	if s.table == nil {
		known, err := s.setEndpoints(former)
		if err != nil {
			return fmt.Errorf("wireguard server: call peers: %w", err)
		}
		former = known
	}
	pause := time.NewTicker(callPause)
	defer pause.Stop()
	for _, p := range former {
		if s.table != nil {
			if called, err := s.callAway(p); err != nil {
				return fmt.Errorf("wireguard server: call peers: %w", err)
			} else if !called {
				continue
			}
		}
		s.initiate(p.PublicKey)
		select {
		case <-ctx.Done():
			return nil
		case <-pause.C:
		}
	}
	return nil
}

// callable reports whether a peer can be at an address, and the text of the address is one word. The zone of an IPv6 address can be any
// text, also one with lines that would be settings of the device.
func callable(at netip.AddrPort) bool {
	addr := at.Addr()
	return at.Port() > 0 && addr.IsValid() && !addr.IsUnspecified() && !addr.IsMulticast() &&
		!strings.ContainsFunc(addr.Zone(), func(r rune) bool { return r <= ' ' || r > '~' })
}

// setEndpoints sets the addresses of those peers that have none yet, and returns them.
func (s *Server) setEndpoints(former []PeerStatus) (silentOnes []PeerStatus, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, states, err := readStatus(s.dev)
	if err != nil {
		return nil, err
	}
	silent := make(map[PublicKey]bool, len(states))
	for _, p := range states {
		silent[p.PublicKey] = !p.Endpoint.IsValid()
	}
	var change script
	for _, p := range former {
		if silent[p.PublicKey] && callable(p.Endpoint) {
			silent[p.PublicKey] = false // once is enough
			change.selectPeer(p.PublicKey)
			change.set("update_only", true)
			change.set("endpoint", p.Endpoint)
			silentOnes = append(silentOnes, p)
		}
	}
	if len(silentOnes) == 0 {
		return nil, nil
	}
	return silentOnes, s.dev.IpcSet(change.String())
}

// Peers returns the state of the peers, in the order in which they were set.
func (s *Server) Peers() []PeerStatus {
	s.mu.Lock()
	defer s.mu.Unlock()
	states := s.statesLocked()
	all := make([]PeerStatus, s.peers.Len())
	for i := range all {
		p := s.peers.At(i)
		if len(states) > 0 {
			all[i] = states[p.PublicKey]
		}
		all[i].Name, all[i].PublicKey = p.Name, p.PublicKey
	}
	return all
}

// Callers returns the state of the peers that have called, or were called, since they were added, without their names and in no
// order. Of many peers those are few.
func (s *Server) Callers() []PeerStatus {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []PeerStatus
	for key, state := range s.statesLocked() {
		if state.PublicKey = key; state.Endpoint.IsValid() || state.RxBytes > 0 || state.TxBytes > 0 {
			all = append(all, state)
		}
	}
	return all
}

// Refused returns how many messages of handshakes were refused, by reason, as a label of few values.
func (s *Server) Refused() map[string]uint64 {
	n := make(map[string]uint64)
	for why, count := range s.door.Refused() {
		n[why.String()] = count
	}
	return n
}

const (
	settleLook  = 5 * time.Millisecond
	settleQuiet = 4 // looks: on a busy machine one of them may come between a packet and its encryption
	settleLimit = 200 * time.Millisecond
)

// Settle waits until what was read from the inner device has been sent, or 200 ms. Close would discard it.
func (s *Server) Settle() {
	sent := func() (n uint64) {
		for _, p := range s.Callers() {
			n += p.TxBytes
		}
		return n
	}
	before, quiet := sent(), 0
	for end := time.Now().Add(settleLimit); quiet < settleQuiet && time.Now().Before(end); {
		time.Sleep(settleLook)
		if now := sent(); now != before {
			before, quiet = now, 0
		} else {
			quiet++
		}
	}
}

// Port returns the UDP port that s listens on.
func (s *Server) Port() uint16 {
	if port, _, _ := readStatus(s.dev); port != 0 {
		return port
	}
	// wireguard-go loses the port where the system has no IPv6 at all.
	return s.port
}

// Close ends all sessions, closes the port and the inner device, and waits. It is idempotent.
func (s *Server) Close() error {
	s.closing.Store(true)
	s.halt()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.close()
	return nil
}
