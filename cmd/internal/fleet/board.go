package fleet

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
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
	Endpoint netip.AddrPort `json:"endpoint"`
	// Age is how old the handshake was when the record was written. No clock of another machine is believed.
	Age time.Duration `json:"age"`
	// Moved says that the gateway has dropped the session, so that another takes the peer.
	Moved bool `json:"moved,omitempty"`
	// To is the gateway that may take the peer, which has just come and stays until that one has it.
	To string `json:"to,omitempty"`
}

// sighting is a record as it was seen here.
type sighting struct {
	record
	gateway   string
	version   uint64    // in the store: of two sightings of a peer, the larger one is the later
	fresh     bool      // it came while the store was watched, so seen is when it was written
	seen      time.Time // here, by the monotonic clock
	handshake time.Time // here; only worth something if fresh
}

// isOffer reports whether a peer is offered to a gateway now.
func (s sighting) isOffer(to string, now time.Time) bool {
	return s.To == to && s.fresh && !s.Moved && now.Sub(s.seen) < offerLife
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
	sessions map[string]map[wireguard.PublicKey]sighting // by gateway
	watched  map[store.Bucket]bool                       // its present values are known
	twins    int                                         // reports of others that have our name, in a row
	twin     time.Time                                   // the last of them
}

const (
	twinLife  = 5 * time.Second // after which a twin that says nothing is gone
	twinSpeak = 3               // times until one is believed: what is on its way of an earlier run is less
)

func newBoard(site, self string) *board {
	return &board{
		site: site, self: self, run: rand.Text(), gateways: make(map[string]*other), sessions: make(map[string]map[wireguard.PublicKey]sighting),
		watched: make(map[store.Bucket]bool),
	}
}

// watching notes whether a bucket is watched.
func (b *board) watching(bucket store.Bucket, yes bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.watched[bucket] = yes
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

// session takes an entry of store.Sessions. It returns the peer and what was seen; ok is false for a session of our own for one
// that is gone, and for one of a gateway that is not of the site.
func (b *board) session(e store.Entry, isMember func(gateway string) bool) (peer wireguard.PublicKey, s sighting, ok bool) {
	gateway, peer, err := parseSessionKey(b.site, e.Key)
	if err != nil || !isMember(gateway) {
		return peer, s, false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(e.Value) == 0 || json.Unmarshal(e.Value, &s.record) != nil {
		delete(b.sessions[gateway], peer)
		return peer, s, false
	}
	s.gateway, s.version, s.Age = gateway, e.Version, max(0, s.Age)
	s.fresh, s.seen = b.watched[store.Sessions], time.Now()
	s.handshake = s.seen.Add(-s.Age)
	if b.sessions[gateway] == nil {
		b.sessions[gateway] = make(map[wireguard.PublicKey]sighting)
	}
	b.sessions[gateway][peer] = s
	return peer, s, gateway != b.self
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

// of returns the sessions of a gateway.
func (b *board) of(gateway string) map[wireguard.PublicKey]sighting {
	b.mu.Lock()
	defer b.mu.Unlock()
	return maps.Clone(b.sessions[gateway])
}

// sightings returns where else than here a peer has been seen.
func (b *board) sightings(peer wireguard.PublicKey) []sighting {
	b.mu.Lock()
	defer b.mu.Unlock()
	var list []sighting
	for gateway, sessions := range b.sessions {
		if s, ok := sessions[peer]; ok && gateway != b.self {
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
	for gateway, sessions := range b.sessions {
		if gateway == b.self || !isMember(gateway) {
			continue
		}
		isGone := slices.Contains(gone, gateway)
		for peer, s := range sessions {
			if last, ok := all[peer]; (s.Moved || isGone || s.isOffer(b.self, now)) && (!ok || last.version < s.version) {
				all[peer] = s
			}
		}
	}
	return all
}

// sweep forgets the sessions that are older than WireGuard lets them be.
func (b *board) sweep(now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for gateway, sessions := range b.sessions {
		maps.DeleteFunc(sessions, func(_ wireguard.PublicKey, s sighting) bool { return now.Sub(s.seen) > store.SessionLife })
		if len(sessions) == 0 {
			delete(b.sessions, gateway)
		}
	}
}

// elsewhere reports whether another gateway that serves has a session with a peer.
func (b *board) elsewhere(peer wireguard.PublicKey, serves func(gateway string) bool) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	for gateway, sessions := range b.sessions {
		if s, ok := sessions[peer]; ok && !s.Moved && gateway != b.self && serves(gateway) {
			return true
		}
	}
	return false
}

// sessionKey returns the key of a session in the store.
func sessionKey(site, gateway string, peer wireguard.PublicKey) string {
	return strings.Join([]string{site, gateway, hex.EncodeToString(peer[:])}, ".")
}

// parseSessionKey reads what sessionKey writes.
func parseSessionKey(site, key string) (gateway string, peer wireguard.PublicKey, err error) {
	words := strings.Split(key, ".")
	if len(words) != 3 || words[0] != site {
		return "", peer, errors.New("not the key of a session")
	}
	raw, err := hex.DecodeString(words[2])
	if err != nil || len(raw) != len(peer) {
		return "", peer, errors.New("not the key of a peer")
	}
	copy(peer[:], raw)
	return words[1], peer, nil
}

// sortedNames returns the keys of a map in order.
func sortedNames[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
