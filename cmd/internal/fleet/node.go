// Package fleet makes a gateway one of several: it takes bundles from a store and puts them in force, tells the others how it is and
// which peers it has, and takes over the peers of a gateway that is gone.
//
// The store is never needed to serve: without it the gateway goes on with the bundle that it has, and peers of a gateway that is gone
// are taken over as far as this one knows them.
package fleet

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"penstock/cmd/internal/config"
	"penstock/cmd/internal/fleet/bundle"
	"penstock/cmd/internal/fleet/store"
	"penstock/router/transport/wireguard"
)

const (
	beatEvery = 500 * time.Millisecond  // a gateway tells how it is
	silence   = 1500 * time.Millisecond // after which a gateway that says nothing is gone
	askAfter  = 700 * time.Millisecond  // without hearing of a gateway it is asked
	lookEvery = 250 * time.Millisecond  // at the others
	ownEvery  = time.Second             // at our own peers
	// sessionLife is how long a WireGuard session carries without a new handshake (Reject-After-Time).
	sessionLife = 180 * time.Second
	// later is by how much a handshake elsewhere must be later than ours for our session to be over. The way through the store takes
	// that long.
	later       = 200 * time.Millisecond
	beatLimit   = 2 * time.Second // for writing a beat
	watchPause  = time.Second     // before a store is watched again
	leaveLimit  = 500 * time.Millisecond
	listingTime = 2 * time.Second // that a start waits to learn where the peers are
)

// Gateway is what runs the WireGuard port.
type Gateway interface {
	// Peers returns those peers that have a session, or had one since they were added, in any order. Others may be among them.
	Peers() []wireguard.PeerStatus
	// Call starts handshakes with peers at their endpoints. It may take some time.
	Call(ctx context.Context, former []wireguard.PeerStatus) error
	// Forget ends the sessions and the flows of peers. They may connect again. With silent, nothing is sent to them any more: it would
	// lead them back here.
	Forget(peers []wireguard.PublicKey, silent bool) error
	// Idle returns those peers that have no flows.
	Idle(peers []wireguard.PublicKey) []wireguard.PublicKey
	// Fit returns why the gateway cannot serve, or nil.
	Fit() error
	// Draining reports whether the gateway was asked to hand over its peers.
	Draining() bool
}

// Config is what New needs. All fields must be set.
type Config struct {
	// Live returns the configuration in force.
	Live    func() *config.Config
	Store   store.Store
	Gateway Gateway
	// Reload reads the configuration again, with the changes of peers that are in the folder.
	Reload func(context.Context) error
	// Use puts an unpacked bundle in force. It calls accept before it does, when the bundle has passed all tests.
	Use func(ctx context.Context, dir string, generation uint64, accept func() error) error
	// Grace is how long a gateway that is unfit keeps its peers, so that all have looked at their targets: if nobody reaches them,
	// nobody is handed over.
	Grace    time.Duration
	Listen   net.ListenConfig // for the pulse
	Version  string
	Registry prometheus.Registerer
	Log      *slog.Logger
}

// Node is a gateway of a fleet.
type Node struct {
	Config
	site, self string
	board      *board
	pulse      *pulse // nil without fleet.endpoint
	sessions   *writer
	metrics    metrics
	drop       chan struct{} // capacity 1: there is something in passed
	bundles    *bundles
	calls      sync.WaitGroup

	mu        sync.Mutex                        // guards below
	heard     map[wireguard.PublicKey]handshake // of all peers that had any
	own       map[wireguard.PublicKey]time.Time // handshakes of our sessions, by the monotonic clock
	passed    map[wireguard.PublicKey]time.Time // handshakes elsewhere that are later than ours
	published map[wireguard.PublicKey]record    // in the store, as far as is known
	balance   balance
	called    map[wireguard.PublicKey]time.Time // the sighting that a peer was called because of
	takers    []string                          // at the last look
	regions   map[string]string                 // then
	notOurs   map[wireguard.PublicKey]string    // wanted peers that another of takers takes, with the gateway that they were at
	beaten    time.Time                         // when the store last took a beat
	leaving   bool
	since     time.Time // of draining or being unfit; zero: neither
	handing   string    // which of them
	gone      map[string]bool
	twin      bool // another gateway has our name
}

// handshake is the last one of a peer.
type handshake struct {
	told time.Time // as WireGuard says it, by the wall clock, which can jump
	seen time.Time // here, by the monotonic clock, which stands still while the machine sleeps
}

// age returns how old a handshake is by the clock that makes it older.
func (h handshake) age(now time.Time) time.Duration { return max(now.Sub(h.seen), now.Sub(h.told)) }

// New returns a node that does nothing before Run. The error is about fleet.endpoint.
func New(ctx context.Context, c Config) (*Node, error) {
	cfg := c.Live()
	n := &Node{
		Config: c, site: cfg.Fleet.Site, self: cfg.Fleet.Gateway,
		board: newBoard(cfg.Fleet.Site, cfg.Fleet.Gateway),
		drop:  make(chan struct{}, 1), passed: make(map[wireguard.PublicKey]time.Time),
		heard: make(map[wireguard.PublicKey]handshake), own: make(map[wireguard.PublicKey]time.Time), published: make(map[wireguard.PublicKey]record),
		called: make(map[wireguard.PublicKey]time.Time), gone: make(map[string]bool), balance: newBalance(),
	}
	n.sessions = newWriter(c.Store, blockKey(n.site, n.self, n.board.run), c.Log)
	if at := cfg.Fleet.Endpoint; at.IsValid() {
		secret, err := cfg.Listen.WireGuard.PrivateKey.Read()
		if err != nil {
			return nil, err
		}
		if n.pulse, err = listenPulse(ctx, c.Listen, at, secret); err != nil {
			return nil, err
		}
	}
	n.metrics = newMetrics(n)
	n.bundles = &bundles{
		Config: &n.Config, site: n.site, disk: bundle.Disk{Dir: cfg.Fleet.Folder}, changes: newChanges(), joins: newJoins(), watch: n.watch, refusals: n.metrics.refusals, forged: n.metrics.forged, again: againEvery,
	}
	return n, nil
}

// Run is a gateway of the fleet until ctx ends, and then tells the others that it leaves. It returns nil. Without a node there is
// nothing to run.
func (n *Node) Run(ctx context.Context) error {
	if n == nil {
		return nil
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	defer n.calls.Wait()
	if n.pulse != nil {
		wg.Go(func() { n.pulse.run(ctx, n.board.answered) })
	}
	wg.Go(func() { n.bundles.run(ctx) })
	wg.Go(func() { n.beat(ctx) })
	wg.Go(func() { n.sessions.run(ctx) })
	wg.Go(func() { n.watch(ctx, store.State, n.board.state) })
	wg.Go(func() { n.watch(ctx, store.Sessions, n.sighted) })
	look, own := time.NewTicker(lookEvery), time.NewTicker(ownEvery)
	defer look.Stop()
	defer own.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-n.drop:
			n.yield()
		case <-own.C:
			n.publish()
		case <-look.C:
			n.look(ctx)
		}
	}
}

// watch watches a bucket until ctx ends. A store that has lost its watchers is asked by all of them at once: those whose watch does not
// begin wait longer each time.
func (n *Node) watch(ctx context.Context, bucket store.Bucket, changed func(store.Entry)) {
	said := false
	for pause := watchPause; ctx.Err() == nil; {
		err := n.Store.Watch(ctx, bucket, n.site, func(e store.Entry) {
			if e.Key == "" {
				pause = watchPause
				n.board.watching(bucket, true)
				if bucket == store.Sessions {
					n.missing()
				}
				return
			}
			changed(e)
		})
		n.board.watching(bucket, false)
		n.Log.Debug("the store of the fleet is no longer watched", "bucket", bucket, "err", err)
		if errors.Is(err, store.ErrForbidden) && !said {
			said = true
			n.Log.Error("the store does not let this gateway read what it needs: give its user the rights that deploy/nats/server.conf has", "bucket", bucket, "err", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause/2 + rand.N(pause)):
		}
		pause = min(2*pause, longestPause)
	}
}

// missing lets sessions be published again that the store does not have, now that it has told what it has.
func (n *Node) missing() {
	n.mu.Lock()
	defer n.mu.Unlock()
	maps.DeleteFunc(n.published, func(peer wireguard.PublicKey, _ record) bool { return !n.board.hasOwn(peer) })
}

// beat tells the others how this gateway is until ctx ends, and then that it leaves.
func (n *Node) beat(ctx context.Context) {
	tick := time.NewTicker(beatEvery)
	defer tick.Stop()
	failed := false
	for {
		err := n.beatOnce(ctx, beatLimit)
		switch {
		case ctx.Err() != nil:
		case err != nil && !failed:
			n.Log.Warn("the store of the fleet cannot be reached: this gateway goes on with what it has", "err", err)
		case err == nil && failed:
			n.Log.Info("the store of the fleet is reached again")
		}
		failed = err != nil
		select {
		case <-ctx.Done():
			n.mu.Lock()
			n.leaving = true
			n.mu.Unlock()
			_ = n.beatOnce(context.WithoutCancel(ctx), leaveLimit) // without it, the others find out by themselves
			return
		case <-tick.C:
		}
	}
}

func (n *Node) beatOnce(ctx context.Context, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	text, err := json.Marshal(n.report())
	if err != nil {
		return err
	}
	if _, err := n.Store.Put(ctx, store.State, n.site+"."+n.self, text, store.Any); err != nil {
		return err
	}
	n.mu.Lock()
	n.beaten = time.Now()
	n.mu.Unlock()
	return nil
}

// report returns what this gateway says of itself.
func (n *Node) report() Report {
	cfg := n.Live()
	state, why := n.state()
	r := Report{State: state, Region: cfg.Fleet.Region, Generation: cfg.Fleet.Generation, Version: n.Version, Run: n.board.run}
	if why != nil {
		r.Why = why.Error()
	}
	if n.pulse != nil {
		r.Pulse = cfg.Fleet.Endpoint
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	r.Peers = len(n.own)
	if refused := n.bundles.last(); refused.err != nil {
		r.Refused, r.Fault = refused.generation, firstLine(refused.err)
	}
	return r
}

// state returns the state of this gateway, and why it is unfit.
func (n *Node) state() (state string, why error) {
	n.mu.Lock()
	leaving := n.leaving
	n.mu.Unlock()
	if leaving {
		return Leaving, nil
	}
	if n.Gateway.Draining() {
		return Draining, nil
	}
	if err := n.Gateway.Fit(); err != nil {
		return Unfit, err
	}
	return Serving, nil
}

// Connected reports whether the store takes what this gateway says, and tells it of others.
func (n *Node) Connected() bool {
	n.mu.Lock()
	beaten := n.beaten
	n.mu.Unlock()
	return time.Since(beaten) < beatEvery+beatLimit && n.board.isWatching(store.State) && n.board.isWatching(store.Sessions)
}

// sighted takes an entry of store.Sessions. If a peer has had a later handshake with another gateway than with this one, this one's
// session is over.
func (n *Node) sighted(e store.Entry) {
	elsewhere := n.board.block(e, n.isMember)
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, t := range elsewhere {
		if ours, have := n.own[t.peer]; have {
			n.compare(t.peer, ours, t.sighting)
		}
	}
}

// compare notes a peer that has had a later handshake elsewhere than ours. The caller holds mu.
func (n *Node) compare(peer wireguard.PublicKey, ours time.Time, s sighting) {
	if s.fresh && !s.Moved && !s.handshake().Before(ours.Add(later)) && n.isMember(s.gateway) {
		n.passed[peer] = s.handshake()
		tell(n.drop)
	}
}

// isOnLoopback reports whether all of the site is on this machine: then its loopback is that of the others, too.
func (n *Node) isOnLoopback() bool { return n.Live().Fleet.Endpoint.Addr().IsLoopback() }

// isMember reports whether the bundle in force names a gateway. What others say counts for nothing.
func (n *Node) isMember(gateway string) bool {
	return slices.ContainsFunc(n.Live().Site.Gateways, func(g config.SiteGateway) bool { return g.Name == gateway })
}

// yield drops our sessions with peers that have later ones elsewhere.
func (n *Node) yield() {
	n.mu.Lock()
	var peers []wireguard.PublicKey
	for peer, there := range n.passed {
		if ours, have := n.own[peer]; have && !there.Before(ours.Add(later)) { // or it has come back meanwhile
			peers = append(peers, peer)
		}
	}
	clear(n.passed)
	n.mu.Unlock()
	if len(peers) == 0 {
		return
	}
	n.forget(peers, true)
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, peer := range peers {
		delete(n.published, peer)
		n.sessions.put(peer, record{Over: true})
		if n.balance.over(peer, time.Now()) {
			n.metrics.handedOver("load")
		} else {
			n.metrics.handedOver("later")
		}
	}
}

// forget drops sessions with peers. It reports whether it could.
func (n *Node) forget(peers []wireguard.PublicKey, silent bool) bool {
	if err := n.Gateway.Forget(peers, silent); err != nil {
		n.Log.Error("sessions of peers cannot be dropped", "err", err)
		return false
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, peer := range peers {
		delete(n.own, peer)
	}
	return true
}

// publish tells the others of sessions that are new, renewed, elsewhere on the network, or over.
func (n *Node) publish() {
	now := time.Now()
	n.board.sweep(now)
	list := n.Gateway.Peers()
	n.mu.Lock()
	defer n.mu.Unlock()
	heard, carried := 0, 0
	for _, p := range list {
		if !p.Endpoint.IsValid() || p.LastHandshake.IsZero() {
			continue
		}
		peer := p.PublicKey
		h, known := n.heard[peer]
		renewed := !known || !h.told.Equal(p.LastHandshake)
		if renewed {
			h = handshake{told: p.LastHandshake, seen: now}
			n.heard[peer] = h
		}
		heard++
		age := h.age(now)
		if age >= sessionLife {
			delete(n.own, peer)
			continue
		}
		_, old := n.own[peer]
		n.own[peer] = now.Add(-age)
		carried++
		if !old && renewed {
			n.balance.begun(peer, now)
		}
		if renewed {
			for _, s := range n.board.sightings(peer) { // told before we knew of ours
				n.compare(peer, n.own[peer], s)
			}
		}
		if last, ok := n.published[peer]; !ok || last.Moved || last.Endpoint != p.Endpoint || renewed {
			n.put(peer, record{Endpoint: p.Endpoint, Age: age})
		}
	}
	if heard < len(n.heard) || carried < len(n.own) {
		forgetAbsent(list, n.heard, n.own)
	}
	if len(n.published) > len(n.own) { // all of own are in it
		for peer, r := range n.published {
			if _, here := n.own[peer]; !here && !r.Moved {
				delete(n.published, peer)
				n.sessions.put(peer, record{Over: true})
			}
		}
	}
	for peer, seen := range n.called {
		if now.Sub(seen) > store.SessionLife {
			delete(n.called, peer)
		}
	}
}

// forgetAbsent removes the handshakes of peers that are not in a list.
func forgetAbsent(list []wireguard.PeerStatus, heard map[wireguard.PublicKey]handshake, own map[wireguard.PublicKey]time.Time) {
	present := make(map[wireguard.PublicKey]bool, len(list))
	for _, p := range list {
		present[p.PublicKey] = p.Endpoint.IsValid() && !p.LastHandshake.IsZero()
	}
	maps.DeleteFunc(heard, func(peer wireguard.PublicKey, _ handshake) bool { return !present[peer] })
	maps.DeleteFunc(own, func(peer wireguard.PublicKey, _ time.Time) bool { return !present[peer] })
}

// put publishes a record. The caller holds mu.
func (n *Node) put(peer wireguard.PublicKey, r record) {
	n.published[peer] = r
	n.sessions.put(peer, r)
}

// view is what a look at the other gateways finds.
type view struct {
	others  map[string]other  // that were heard of
	alive   map[string]bool   // serving or not
	takers  []string          // who can take peers, in order
	gone    []string          // whose peers are to be taken, in order
	regions map[string]string // of the gateways; of one that was not heard of: none

	doubtful map[string]netip.AddrPort // where to ask those that are silent whether they live
}

// near returns who can take peers of a gateway: those of its region, or all if there are none.
func (v view) near(gateway string) []string {
	same := slices.DeleteFunc(slices.Clone(v.takers), func(t string) bool { return v.regions[t] != v.regions[gateway] })
	if len(same) == 0 {
		return v.takers
	}
	return same
}

// see looks at the other gateways of the site.
func (n *Node) see(now time.Time) view {
	cfg := n.Live()
	v := view{
		others: make(map[string]other), alive: make(map[string]bool), regions: map[string]string{n.self: cfg.Fleet.Region},
		doubtful: make(map[string]netip.AddrPort),
	}
	others := n.board.others()
	witnessed := n.Connected()
	var silent []string
	for _, g := range cfg.Site.Gateways {
		o, known := others[g.Name]
		if !known || g.Name == n.self {
			continue
		}
		v.others[g.Name], v.regions[g.Name] = o, o.Region
		if now.Sub(o.heard) > askAfter && canBeAt(o.Pulse) && n.pulse != nil {
			v.doubtful[g.Name] = o.Pulse
		}
		answers := now.Sub(o.answered) < silence
		witnessed = witnessed || answers
		switch {
		case o.State == Leaving && !answers:
			v.gone = append(v.gone, g.Name)
		case answers || now.Sub(o.heard) < silence:
			v.alive[g.Name] = true
			if o.State == Serving {
				v.takers = append(v.takers, g.Name)
			}
		default:
			silent = append(silent, g.Name)
		}
	}
	if witnessed { // or else it is this gateway that is cut off
		v.gone = append(v.gone, silent...)
	}
	if state, _ := n.state(); state == Serving {
		v.takers = append(v.takers, n.self)
	}
	slices.Sort(v.takers)
	slices.Sort(v.gone)
	return v
}

// look takes the peers that are ours to take, and hands over our own if this gateway is drained or unfit.
func (n *Node) look(ctx context.Context) {
	now := time.Now()
	v := n.see(now)
	n.note(v)
	for name, at := range v.doubtful {
		n.pulse.ask(name, at)
	}
	wanted, offers := n.board.wanted(n.isMember, v.gone, now), make(map[wireguard.PublicKey]bool)
	var call []wireguard.PeerStatus
	n.mu.Lock()
	if n.notOurs == nil || !slices.Equal(v.takers, n.takers) || !maps.Equal(v.regions, n.regions) {
		n.takers, n.regions, n.notOurs = v.takers, v.regions, make(map[wireguard.PublicKey]string)
	}
	near, had := make(map[string][]string), make(map[wireguard.PublicKey]time.Time)
	for peer, s := range wanted {
		ours, here := n.own[peer]
		if (s.Moved || s.To != 0) && s.seen.After(ours) {
			here = false // what we have is older than what was dropped or offered
			if given := s.seen.Add(-2 * later); given.After(ours) {
				ours = given // so is a handshake that is not known yet, unless it is about as new
			}
		}
		if !canBeAt(s.Endpoint) || s.Endpoint.Addr().IsLoopback() && !n.isOnLoopback() { // of the other machine
			continue
		}
		if here || n.notOurs[peer] == s.gateway || n.called[peer].Equal(s.seen) {
			continue
		}
		if near[s.gateway] == nil {
			near[s.gateway] = v.near(s.gateway)
		}
		switch offered := s.isOffer(n.self, now) && !slices.Contains(v.gone, s.gateway); {
		case offered && (!slices.Contains(v.takers, n.self) || v.regions[s.gateway] != v.regions[n.self]):
			continue
		case offered:
			offers[peer] = true
		case taker(peer, near[s.gateway]) != n.self:
			n.notOurs[peer] = s.gateway
			continue
		}
		n.called[peer], had[peer] = s.seen, ours
		call = append(call, wireguard.PeerStatus{PublicKey: peer, Endpoint: s.Endpoint})
	}
	if len(wanted) == 0 {
		clear(n.notOurs)
	}
	n.mu.Unlock()
	call = slices.DeleteFunc(call, func(p wireguard.PeerStatus) bool {
		return !offers[p.PublicKey] && n.board.elsewhere(p.PublicKey, func(gateway string) bool { return v.alive[gateway] })
	})
	if call = (mover{n}).withoutCallers(call, had); len(call) > 0 {
		mover{n}.take(ctx, call)
	}
	mover{n}.handOver(now, v)
	mover{n}.offer(ctx, now, v)
}

// mover is a node as peers move to it and from it.
type mover struct{ *Node }

// withoutCallers returns those peers that have not come by themselves since they were looked at, which is up to a second ago. had are the
// handshakes of sessions that are known.
func (n mover) withoutCallers(call []wireguard.PeerStatus, had map[wireguard.PublicKey]time.Time) []wireguard.PeerStatus {
	if len(call) == 0 {
		return nil
	}
	n.publish()
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.DeleteFunc(call, func(p wireguard.PeerStatus) bool {
		now, here := n.own[p.PublicKey]
		return here && now.After(had[p.PublicKey].Add(later))
	})
}

// note logs which gateways have gone or come back.
func (n *Node) note(v view) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, name := range v.gone {
		if !n.gone[name] {
			n.gone[name] = true
			n.Log.Warn("a gateway of the site is gone; its peers are taken over", "gateway", name, "takers", v.takers)
		}
	}
	if twin := n.board.hasTwin(time.Now()); twin != n.twin {
		if n.twin = twin; twin {
			n.Log.Error(twinTrouble(n.self))
		} else {
			n.Log.Info("no other gateway says any more that it is this one", "gateway", n.self)
		}
	}
	for name := range n.gone {
		if !slices.Contains(v.gone, name) {
			delete(n.gone, name)
			n.Log.Info("a gateway of the site is back", "gateway", name)
		}
	}
}

// take calls peers.
func (n mover) take(ctx context.Context, peers []wireguard.PeerStatus) {
	keys := make([]wireguard.PublicKey, len(peers))
	for i, p := range peers {
		keys[i] = p.PublicKey
	}
	if !n.forget(keys, true) { // of an older session, whose endpoint would be called
		return
	}
	n.mu.Lock()
	for _, peer := range keys {
		n.balance.keep(peer, time.Now())
	}
	n.mu.Unlock()
	n.metrics.taken(len(peers))
	n.Log.Info("taking over peers", "peers", len(peers))
	n.calls.Go(func() { // it takes 2 ms for each
		if err := n.Gateway.Call(ctx, peers); err != nil && ctx.Err() == nil {
			n.Log.Error("peers cannot be taken over", "err", err)
		}
	})
}

// handOver lets go of some of our peers if this gateway is drained or unfit, and another can take them: those without flows first.
// In the second half of fleet.drain_limit, and if this gateway is unfit, the others as well. Who is unfit waits for Grace.
func (n mover) handOver(now time.Time, v view) {
	state, _ := n.state()
	n.mu.Lock()
	if state != Draining && state != Unfit {
		n.since = time.Time{}
		n.mu.Unlock()
		return
	}
	if n.since.IsZero() || n.handing != state {
		n.since, n.handing = now, state
		n.Log.Info("handing peers over", "because", state, "peers", len(n.own), "takers", v.takers)
	}
	half := max(n.Live().Fleet.DrainLimit/2, lookEvery)
	left := max(half-now.Sub(n.since)%half, lookEvery)
	if state == Unfit && now.Sub(n.since) < n.Grace {
		n.mu.Unlock()
		return
	}
	all := state == Unfit || now.Sub(n.since) > half
	peers := slices.Collect(maps.Keys(n.own))
	n.mu.Unlock()
	if len(v.takers) == 0 {
		return
	}
	some := 1 + int(int64(len(peers))*int64(lookEvery)/int64(left))
	if !all {
		peers = n.Gateway.Idle(peers)
	}
	peers = peers[:min(some, len(peers))]
	if len(peers) == 0 {
		return
	}
	endpoints := make(map[wireguard.PublicKey]wireguard.PeerStatus)
	for _, p := range n.Gateway.Peers() {
		endpoints[p.PublicKey] = p
	}
	if !n.forget(peers, false) {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, peer := range peers {
		n.put(peer, record{Endpoint: endpoints[peer].Endpoint, Moved: true})
		n.metrics.handedOver(state)
	}
}

// Settle waits until the store has told where the peers are, at most 2 s.
func (n *Node) Settle() {
	tick := time.NewTicker(beatEvery / 10)
	defer tick.Stop()
	for end := time.Now().Add(listingTime); !n.Connected() && time.Now().Before(end); {
		<-tick.C
	}
}

// Elsewhere returns a function that reports whether a peer has a session with another gateway that lives, as far as the store has told
// by now.
func (n *Node) Elsewhere() func(peer wireguard.PublicKey) bool {
	v := n.see(time.Now())
	return func(peer wireguard.PublicKey) bool {
		return n.board.elsewhere(peer, func(gateway string) bool { return v.alive[gateway] })
	}
}
