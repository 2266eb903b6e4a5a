package fleet

import (
	"encoding/hex"
	"encoding/json"
	"errors"
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
	Generation uint64 `json:"generation,omitempty"` // of the bundle in force
	// Refused is the generation of a bundle that was not put in force, and Fault why.
	Refused uint64 `json:"refused,omitempty"`
	Fault   string `json:"fault,omitempty"`
	Peers   int    `json:"peers"` // with a session
	Version string `json:"version,omitempty"`
	// Pulse is where the gateway answers when it is asked whether it lives.
	Pulse netip.AddrPort `json:"pulse,omitzero"`
}

// record is where a peer has a session.
type record struct {
	Endpoint netip.AddrPort `json:"endpoint"`
	// Age is how old the handshake was when the record was written. No clock of another machine is believed.
	Age time.Duration `json:"age"`
	// Moved says that the gateway has dropped the session, so that another takes the peer.
	Moved bool `json:"moved,omitempty"`
}

// sighting is a record as it was seen here.
type sighting struct {
	record
	fresh bool      // it came while the store was watched, so seen is when it was written
	seen  time.Time // here, by the monotonic clock
}

// handshake is when the peer had its handshake, by the clock of this machine. It is only worth something if s is fresh.
func (s sighting) handshake() time.Time { return s.seen.Add(-s.Age) }

// sessions are those of one gateway.
type sessions struct {
	by    map[wireguard.PublicKey]sighting
	moved int // how many of them are Moved: mostly none, and then nobody looks for them
}

func (all *sessions) put(peer wireguard.PublicKey, s sighting) {
	all.remove(peer)
	all.by[peer] = s
	if s.Moved {
		all.moved++
	}
}

func (all *sessions) remove(peer wireguard.PublicKey) {
	if all.by[peer].Moved {
		all.moved--
	}
	delete(all.by, peer)
}

func (all *sessions) has(peer wireguard.PublicKey) bool {
	if all == nil {
		return false
	}
	_, has := all.by[peer]
	return has
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

	mu       sync.Mutex // guards below
	gateways map[string]*other
	sessions map[string]*sessions  // of others, by gateway
	watched  map[store.Bucket]bool // its present values are known
}

func newBoard(site, self string) *board {
	return &board{
		site: site, self: self, gateways: make(map[string]*other), sessions: make(map[string]*sessions),
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
	if !ok || name == b.self || len(e.Value) == 0 {
		return // a gateway whose report is gone is silent by its age
	}
	var r Report
	if json.Unmarshal(e.Value, &r) != nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	o := b.gateway(name)
	o.Report, o.heard = r, time.Now() // a value that was there before is not old: it would be gone
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

// session takes an entry of store.Sessions. It returns the peer and what was seen; ok is false for a session of our own and for one
// that is gone.
func (b *board) session(e store.Entry) (peer wireguard.PublicKey, s sighting, ok bool) {
	gateway, peer, err := parseSessionKey(b.site, e.Key)
	if err != nil || gateway == b.self {
		return peer, s, false
	}
	gone := len(e.Value) == 0 || json.Unmarshal(e.Value, &s.record) != nil
	b.mu.Lock()
	defer b.mu.Unlock()
	all := b.sessions[gateway]
	if gone {
		if all != nil {
			all.remove(peer)
		}
		return peer, s, false
	}
	if all == nil {
		all = &sessions{by: make(map[wireguard.PublicKey]sighting)}
		b.sessions[gateway] = all
	}
	s.fresh, s.seen = b.watched[store.Sessions], time.Now()
	all.put(peer, s)
	return peer, s, true
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

// wanted calls take with the sessions of the gateways that are gone, and with those that other gateways have dropped for others to
// take. Each peer is there once. take must not call the board.
func (b *board) wanted(gone []string, take func(wireguard.PublicKey, sighting)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	hasOneOf := func(peer wireguard.PublicKey, gateways []string) bool {
		return slices.ContainsFunc(gateways, func(name string) bool { return b.sessions[name].has(peer) })
	}
	for i, name := range gone {
		if b.sessions[name] == nil {
			continue
		}
		for peer, s := range b.sessions[name].by {
			if !hasOneOf(peer, gone[i+1:]) {
				take(peer, s)
			}
		}
	}
	told := make(map[wireguard.PublicKey]bool)
	for name, all := range b.sessions {
		if all.moved == 0 || slices.Contains(gone, name) {
			continue
		}
		for peer, s := range all.by {
			if s.Moved && !told[peer] && !hasOneOf(peer, gone) {
				told[peer] = true
				take(peer, s)
			}
		}
	}
}

// count returns how many sessions of a gateway are known.
func (b *board) count(gateway string) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	if all := b.sessions[gateway]; all != nil {
		return len(all.by)
	}
	return 0
}

// sweep forgets the sessions that are older than WireGuard lets them be.
func (b *board) sweep(now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for gateway, all := range b.sessions {
		for peer, s := range all.by {
			if now.Sub(s.seen) > store.SessionLife {
				all.remove(peer)
			}
		}
		if len(all.by) == 0 {
			delete(b.sessions, gateway)
		}
	}
}

// elsewhere reports whether another gateway that serves has a session with a peer.
func (b *board) elsewhere(peer wireguard.PublicKey, serves func(gateway string) bool) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	for gateway, all := range b.sessions {
		if s, ok := all.by[peer]; ok && !s.Moved && serves(gateway) {
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
