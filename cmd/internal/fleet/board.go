package fleet

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"penstock/cmd/internal/fleet/store"
	"penstock/router/transport/wireguard"
)

// States of a gateway, as it tells them.
const (
	Serving  = "serving"
	Draining = "draining" // it hands its peers over, because it was asked to
	Unfit    = "unfit"    // the same, because it does not reach its health targets
	Leaving  = "leaving"  // it is stopping
	Silent   = "silent"   // it says nothing; only others say this of it
)

// Report is what a gateway says of itself.
type Report struct {
	State      string `json:"state"`
	Why        string `json:"why,omitempty"`        // it is unfit
	Region     string `json:"region,omitempty"`     // where it is; "" is a region too
	Generation uint64 `json:"generation,omitempty"` // of the bundle in force
	// Refused is the generation of a bundle that was not put in force, and Fault why.
	Refused uint64 `json:"refused,omitempty"`
	Fault   string `json:"fault,omitempty"`
	Peers   int    `json:"peers"` // with a session
	Version string `json:"version,omitempty"`
	// Pulse is where the gateway answers when it is asked whether it lives.
	Pulse netip.AddrPort `json:"pulse,omitzero"`
	// Run is another one after each start of a gateway.
	Run string `json:"run,omitempty"`
}

// record is where a peer has a session.
type record struct {
	Endpoint netip.AddrPort
	// Age is how old the handshake was when the record was written. No clock of another machine is believed.
	Age time.Duration
	// Moved says that the gateway has dropped the session, so that another takes the peer.
	Moved bool
	// Over says that the gateway has no session with the peer any more.
	Over bool
	// To is the mark of the gateway that may take the peer, which has just come and stays until that one has it; 0: there is none.
	To mark
}

// sighting is a record as it was seen here.
type sighting struct {
	record
	fresh   bool // it came while the store was watched, so seen is when it was written
	gateway string
	version uint64    // in the store: of two sightings of a peer, the larger one is the later
	seen    time.Time // here, by the monotonic clock
}

// handshake is when the peer had it, by the clock here. It is only worth something if the sighting is fresh.
func (s sighting) handshake() time.Time { return s.seen.Add(-s.Age) }

// sightings are those of the sessions of one gateway.
type sightings struct {
	all    map[wireguard.PublicKey]sighting
	handed map[wireguard.PublicKey]bool // those of all that are Moved or offered, which are few
}

func newSightings() *sightings {
	return &sightings{all: make(map[wireguard.PublicKey]sighting), handed: make(map[wireguard.PublicKey]bool)}
}

// set takes a sighting, unless a later one is known: a store may tell what it has in any order.
func (s *sightings) set(peer wireguard.PublicKey, now sighting) {
	if last, ok := s.all[peer]; ok && last.version > now.version {
		return
	}
	s.all[peer] = now
	if now.Moved || now.To != 0 {
		s.handed[peer] = true
	} else if len(s.handed) > 0 {
		delete(s.handed, peer)
	}
}

// told is what a block says of one peer.
type told struct {
	peer wireguard.PublicKey
	sighting
}

// isOffer reports whether a peer is offered to a gateway now.
func (s sighting) isOffer(to string, now time.Time) bool {
	return s.To == markOf(to) && s.fresh && !s.Moved && now.Sub(s.seen) < offerLife
}

// other is a gateway of the site as it is seen here.
type other struct {
	Report
	heard    time.Time // in the store; zero: never
	answered time.Time // when it was asked whether it lives; zero: never
}

// board is what the store has told. It is safe for concurrent use.
type board struct {
	site, self string
	run        string // see Report.Run

	mu       sync.Mutex // guards below
	gateways map[string]*other
	sessions map[string]*sightings // by gateway
	swept    time.Time
	watched  map[store.Bucket]bool // its present values are known
	twins    int                   // reports of others that have our name, in a row
	twin     time.Time             // the last of them
}

const (
	twinLife  = 5 * time.Second // after which a twin that says nothing is gone
	twinSpeak = 3               // times until one is believed: what is on its way of an earlier run is less
)

func newBoard(site, self string) *board {
	return &board{
		site: site, self: self, run: rand.Text(), gateways: make(map[string]*other), sessions: make(map[string]*sightings),
		watched: make(map[store.Bucket]bool),
	}
}

// watching notes whether a bucket is watched. When Sessions no longer is, it is unknown which of our own the store has.
func (b *board) watching(bucket store.Bucket, yes bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.watched[bucket] = yes
	if bucket == store.Sessions && !yes {
		delete(b.sessions, b.self)
	}
}

// hasOwn reports whether the store has told of a session of our own.
func (b *board) hasOwn(peer wireguard.PublicKey) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	own := b.sessions[b.self]
	if own == nil {
		return false
	}
	_, ok := own.all[peer]
	return ok
}

// isWatching reports whether the present values of a bucket are known.
func (b *board) isWatching(bucket store.Bucket) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.watched[bucket]
}

// state takes an entry of store.State.
func (b *board) state(e store.Entry) {
	name, ok := strings.CutPrefix(e.Key, b.site+".")
	if !ok || len(e.Value) == 0 {
		return // a gateway whose report is gone is silent by its age
	}
	var r Report
	if json.Unmarshal(e.Value, &r) != nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if name == b.self {
		b.same(r, time.Now())
		return
	}
	o := b.gateway(name)
	o.Report, o.heard = r, time.Now() // a value that was there before is not old: it would be gone
}

// same takes a report with our own name. The caller holds mu.
func (b *board) same(r Report, now time.Time) {
	if r.Run == b.run || !b.watched[store.State] { // of an earlier run, perhaps
		return
	}
	if now.Sub(b.twin) > twinLife {
		b.twins = 0
	}
	b.twins++
	b.twin = now
}

// hasTwin reports whether another gateway has our name.
func (b *board) hasTwin(now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.twins >= twinSpeak && now.Sub(b.twin) < twinLife
}

// twinTrouble says so.
func twinTrouble(name string) string {
	return fmt.Sprintf("another gateway of the site says that it is %s too: give each its own fleet.gateway", name)
}

// firstLine returns the first line of an error. A report is written twice a second, and a bundle can have thousands of faults.
func firstLine(err error) string {
	first, rest, more := strings.Cut(err.Error(), "\n")
	const most = 500 // bytes
	if len(first) > most {
		first = strings.ToValidUTF8(first[:most], "") + "..."
	}
	if more && rest != "" {
		first += " (the log has more)"
	}
	return first
}

// canBeAt reports whether an address that another machine has told can be that of a machine. A zone means something there alone.
func canBeAt(at netip.AddrPort) bool {
	addr := at.Addr()
	return at.Port() > 0 && addr.IsValid() && !addr.IsUnspecified() && !addr.IsMulticast() && addr.Zone() == ""
}

// gateway returns the entry of a gateway. The caller holds mu.
func (b *board) gateway(name string) *other {
	o := b.gateways[name]
	if o == nil {
		o = new(other)
		b.gateways[name] = o
	}
	return o
}

// answered notes that a gateway has answered.
func (b *board) answered(name string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.gateway(name).answered = time.Now()
}

// block takes an entry of store.Sessions. It returns what it says of the sessions that other gateways have. What a gateway says that is
// not of the site counts for nothing.
func (b *board) block(e store.Entry, isMember func(gateway string) bool) (elsewhere []told) {
	gateway, ok := writerOf(b.site, e.Key)
	if !ok || len(e.Value) == 0 || !isMember(gateway) { // of a block that is gone, sweep forgets what it said
		return nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	list := b.sessions[gateway]
	if list == nil {
		list = newSightings()
	}
	fresh, now := b.watched[store.Sessions], time.Now()
	err := records(e.Value, func(peer wireguard.PublicKey, r record) {
		s := sighting{record: r, fresh: fresh, gateway: gateway, version: e.Version, seen: now}
		list.set(peer, s)
		if gateway != b.self && fresh && !r.Over {
			elsewhere = append(elsewhere, told{peer, s})
		}
	})
	if err == nil {
		b.sessions[gateway] = list
	}
	return elsewhere
}

// others returns the gateways that were heard of, by name.
func (b *board) others() map[string]other {
	b.mu.Lock()
	defer b.mu.Unlock()
	all := make(map[string]other, len(b.gateways))
	for name, o := range b.gateways {
		all[name] = *o
	}
	return all
}

// sightings returns where else than here a peer has been seen.
func (b *board) sightings(peer wireguard.PublicKey) []sighting {
	b.mu.Lock()
	defer b.mu.Unlock()
	var list []sighting
	for gateway, sessions := range b.sessions {
		if s, ok := sessions.all[peer]; ok && !s.Over && gateway != b.self {
			list = append(list, s)
		}
	}
	return list
}

// wanted returns the sessions that members have dropped for others to take or offer to us, and those of gateways that are gone. Of a
// peer with several, it is the last.
func (b *board) wanted(isMember func(gateway string) bool, gone []string, now time.Time) map[wireguard.PublicKey]sighting {
	b.mu.Lock()
	defer b.mu.Unlock()
	all := make(map[wireguard.PublicKey]sighting)
	take := func(peer wireguard.PublicKey, s sighting) {
		if last, ok := all[peer]; !s.Over && (!ok || last.version < s.version) {
			all[peer] = s
		}
	}
	for gateway, sessions := range b.sessions {
		isGone := slices.Contains(gone, gateway)
		switch {
		case !isGone && len(sessions.handed) == 0 || gateway == b.self || !isMember(gateway):
		case isGone:
			for peer, s := range sessions.all {
				take(peer, s)
			}
		default:
			for peer := range sessions.handed {
				if s := sessions.all[peer]; s.Moved || s.isOffer(b.self, now) {
					take(peer, s)
				}
			}
		}
	}
	return all
}

// sweepEvery is how often sightings are looked through for old ones.
const sweepEvery = 10 * time.Second

// sweep forgets the sightings that are older than WireGuard lets sessions be, now and then.
func (b *board) sweep(now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if now.Sub(b.swept) < sweepEvery {
		return
	}
	b.swept = now
	for gateway, sessions := range b.sessions {
		for peer, s := range sessions.all {
			if now.Sub(s.seen) > store.SessionLife {
				delete(sessions.all, peer)
				delete(sessions.handed, peer)
			}
		}
		if len(sessions.all) == 0 {
			delete(b.sessions, gateway)
		}
	}
}

// elsewhere reports whether another gateway that serves has a session with a peer.
func (b *board) elsewhere(peer wireguard.PublicKey, serves func(gateway string) bool) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	for gateway, sessions := range b.sessions {
		if s, ok := sessions.all[peer]; ok && !s.Moved && !s.Over && gateway != b.self && serves(gateway) {
			return true
		}
	}
	return false
}

// sortedNames returns the keys of a map in order.
func sortedNames[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
