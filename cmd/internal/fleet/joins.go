package fleet

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"penstock/cmd/internal/config"
	"penstock/cmd/internal/fleet/bundle"
	"penstock/cmd/internal/fleet/store"
	"penstock/cmd/internal/private"
	"penstock/router/transport/wireguard"
)

const (
	// mostJoins is how many joins of the store are looked at. A gateway in bad hands can write as many as it likes.
	mostJoins = 10_000
	// mostOfJoin is how much of one is kept, bytes. A join is shorter.
	mostOfJoin = 2 << 10
	// joinKept is how long a join is kept that no invitation belongs to any more: the bundle in force may be an older one for a while.
	joinKept = 30 * 24 * time.Hour
)

// JoinKey returns the key of the join to an invitation in store.Joins.
func JoinKey(site string, invitation bundle.PublicKey) string { return site + "." + invitation.Hex() }

// InvitationOf returns the invitation of a key in store.Joins.
func InvitationOf(site, key string) (bundle.PublicKey, bool) {
	text, ok := strings.CutPrefix(key, site+".")
	if !ok {
		return bundle.PublicKey{}, false
	}
	return bundle.ParseHex(text)
}

// Joins returns the joins in a folder, by invitation. A file that cannot be read is left out.
func Joins(dir string) map[bundle.PublicKey]bundle.Signed {
	all := make(map[bundle.PublicKey]bundle.Signed)
	entries, _ := os.ReadDir(dir) // without a folder there are none
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), config.JoinSuffix)
		if invitation, isKey := bundle.ParseHex(name); ok && isKey {
			if text, err := private.Read(filepath.Join(dir, e.Name()), config.MaxFile); err == nil {
				all[invitation] = text
			}
		}
	}
	return all
}

// joins are the joins that the store has told of. It is safe for concurrent use.
type joins struct {
	mu   sync.Mutex // guards below
	by   map[bundle.PublicKey]*join
	full bool // the last one found no room
}

// join is what the store has told of an invitation.
type join struct {
	signed  bundle.Signed // nil: it is gone
	version uint64        // of the store
	key     string        // of WireGuard, once the signature was seen to be good
	// foreign says that no invitation in force is of this join, at the last look.
	foreign bool
	// refused says that it was refused, and under which configuration. Under another one it is tried again. nil: it never is.
	refused bool
	under   *config.Config
	// late says that it could not be put in force, and is tried again in any case.
	late bool
	// said says that one to this invitation was refused, and that the log has it.
	said bool
}

func newJoins() *joins { return &joins{by: make(map[bundle.PublicKey]*join)} }

// told takes a join. It reports whether there was room, and whether there was before. One that is gone says nothing: what is in force stays.
func (j *joins) told(invitation bundle.PublicKey, e store.Entry) (room, before bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	room, before = j.take(invitation, e), !j.full
	j.full = !room
	return room, before
}

// take is told without the lock. The caller holds mu.
func (j *joins) take(invitation bundle.PublicKey, e store.Entry) (room bool) {
	value := e.Value[:min(len(e.Value), mostOfJoin)]
	before := j.by[invitation]
	switch {
	case before == nil && len(value) == 0:
		return true
	case before != nil && slices.Equal(before.signed, value):
		return true
	case before == nil && len(j.by) >= mostJoins && !j.makeRoom():
		return false
	}
	j.by[invitation] = &join{signed: slices.Clone(bundle.Signed(value)), version: e.Version, said: before != nil && before.said}
	return true
}

// told takes an entry of store.Joins.
func (b *bundles) told(e store.Entry) {
	invitation, ok := InvitationOf(b.site, e.Key)
	if !ok {
		return
	}
	room, before := b.joins.told(invitation, e)
	if !room {
		b.forged.Inc()
		if before {
			b.Log.Error("joins are left out", "err", errTooMany)
		}
	}
	tell(b.changes.wake)
}

// makeRoom forgets a join that no invitation belongs to. The caller holds mu.
func (j *joins) makeRoom() bool {
	for invitation, one := range j.by {
		if one.foreign {
			delete(j.by, invitation)
			return true
		}
	}
	return false
}

// wait reports whether a join is to be tried again under a configuration.
func (j *joins) wait(under *config.Config) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, one := range j.by {
		if one.late || one.refused && one.under != nil && one.under != under {
			return true
		}
	}
	return false
}

var errTooMany = fmt.Errorf("the store has more than %d joins that nobody was invited to", mostJoins)

// claim is a join that is to be put in force.
type claim struct {
	invitation bundle.PublicKey
	signed     bundle.Signed
	peer       string
}

// join puts in force who has joined, as the store tells it. If that fails as a whole, each is tried alone.
func (b *bundles) join(ctx context.Context) error {
	b.changing.Lock()
	defer b.changing.Unlock()
	b.forgetJoins()
	list := b.claims()
	if len(list) == 0 {
		return nil
	}
	if len(list) > 1 && b.admit(ctx, list) == nil {
		b.Log.Info("invited peers have joined the site", "peers", len(list))
		return nil
	}
	var errs []error
	for _, one := range list {
		err := b.admit(ctx, []claim{one})
		_, lasts := errors.AsType[lasting](err)
		switch {
		case err == nil:
			b.Log.Info("an invited peer has joined the site", "peer", one.peer)
		case lasts:
			b.refuseJoin(one.invitation, b.Live(), err)
		default:
			errs = append(errs, fmt.Errorf("peer %s: %w", one.peer, err))
		}
	}
	return errors.Join(errs...)
}

// claims returns the joins that are good and not in force, in the order in which the store got them. Those that are bad are refused.
// The caller holds changing.
func (b *bundles) claims() (list []claim) {
	live := b.Live()
	b.joins.mu.Lock()
	all := make(map[bundle.PublicKey]join)
	for invitation, one := range b.joins.by {
		_, invited := config.Invited(live, invitation)
		if one.foreign = !invited; invited && one.signed != nil && (!one.refused || one.under != nil && one.under != live) {
			all[invitation] = *one
		}
	}
	b.joins.mu.Unlock()
	if len(all) == 0 {
		return nil
	}
	owner := make(map[string]string) // of keys of WireGuard
	for _, p := range live.Peers.All() {
		if p.PublicKey != "" {
			owner[p.PublicKey] = p.Name
		}
	}
	order := slices.SortedFunc(maps.Keys(all), func(x, y bundle.PublicKey) int { return cmp.Compare(all[x].version, all[y].version) })
	for _, invitation := range order {
		one := all[invitation]
		peer, _ := config.Invited(live, invitation)
		if one.key == "" {
			key, err := b.keyOf(one.signed, invitation)
			if err != nil {
				b.refuseJoin(invitation, nil, err)
				continue
			}
			one.key = key
			b.joins.verified(invitation, one.signed, key)
		}
		other, taken := owner[one.key]
		switch {
		case one.key == peer.PublicKey:
		case peer.PublicKey != "":
			b.refuseJoin(invitation, nil, bundle.ErrJoined)
		case taken:
			b.refuseJoin(invitation, live, fmt.Errorf("its key is that of peer %s", other))
		default:
			owner[one.key] = peer.Name
			list = append(list, claim{invitation, one.signed, peer.Name})
		}
	}
	return list
}

// keyOf returns the key of WireGuard in a join to an invitation.
func (b *bundles) keyOf(signed bundle.Signed, invitation bundle.PublicKey) (string, error) {
	joined, err := bundle.VerifyJoin(signed, b.site, invitation)
	if err != nil {
		return "", err
	}
	key, err := wireguard.ParsePublicKey(joined.PublicKey)
	if err == nil {
		err = key.Check()
	}
	return joined.PublicKey, err
}

// verified notes the key in a join whose signature is good.
func (j *joins) verified(invitation bundle.PublicKey, signed bundle.Signed, key string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if one := j.by[invitation]; one != nil && slices.Equal(one.signed, signed) {
		one.key = key
	}
}

// refuseJoin remembers that a join was refused, and tells it once for each invitation. Under another configuration than under it is tried again; nil: never.
func (b *bundles) refuseJoin(invitation bundle.PublicKey, under *config.Config, err error) {
	known, said := false, false
	b.joins.mu.Lock()
	if one := b.joins.by[invitation]; one != nil {
		known, said = one.refused, one.said
		one.refused, one.under, one.late, one.said = true, under, false, true
	}
	b.joins.mu.Unlock()
	if !known {
		b.forged.Inc()
	}
	if said {
		return
	}
	name := ""
	if p, ok := config.Invited(b.Live(), invitation); ok {
		name = p.Name
	}
	b.Log.Error("a join to an invitation is refused", "peer", name, "err", err)
}

// admit writes joins and reloads. If that fails, it takes them back. The error is lasting if the joins are at fault.
func (b *bundles) admit(ctx context.Context, list []claim) error {
	live := b.Live()
	err := os.MkdirAll(live.Fleet.Joins(), 0o700)
	for _, one := range list {
		if err == nil {
			err = private.Replace(live.Fleet.JoinOf(one.invitation), string(one.signed))
		}
	}
	if err == nil {
		err = b.Reload(ctx)
		switch {
		case err != nil && b.Live() != live:
			b.Log.Error("joins are in force, but not all that belongs to them", "err", err)
			err = nil
		case err != nil:
			err = lasting{err}
		}
	}
	b.joins.mu.Lock()
	for _, one := range list {
		if told := b.joins.by[one.invitation]; told != nil {
			told.late = err != nil
			told.refused = told.refused && err != nil
		}
	}
	b.joins.mu.Unlock()
	if err == nil {
		return nil
	}
	for _, one := range list {
		if failed := os.Remove(live.Fleet.JoinOf(one.invitation)); !errors.Is(failed, fs.ErrNotExist) {
			err = errors.Join(err, failed)
		}
	}
	return err
}

// forgetJoins removes the joins that no invitation in force has belonged to for long. The caller holds changing.
func (b *bundles) forgetJoins() {
	live := b.Live()
	entries, _ := os.ReadDir(live.Fleet.Joins()) // without a folder there are none
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), config.JoinSuffix)
		if !ok {
			continue
		}
		if invitation, ok := bundle.ParseHex(name); ok {
			if _, invited := config.Invited(live, invitation); invited {
				continue
			}
		}
		if info, err := e.Info(); err == nil && time.Since(info.ModTime()) > joinKept {
			_ = os.Remove(filepath.Join(live.Fleet.Joins(), e.Name())) // it is tried again
		}
	}
}

// Join makes whoever has the key of an invitation a peer of the site, on all of its gateways. Of any number of calls, on any number of
// gateways, one succeeds: the store takes one join to an invitation. The error is bundle.ErrJoined or bundle.ErrAway, or says what else went wrong.
func (n *Node) Join(ctx context.Context, invitation bundle.PrivateKey, peer wireguard.PublicKey) error {
	if p, ok := config.Invited(n.Live(), invitation.Public()); !ok || p.PublicKey != "" {
		return bundle.ErrJoined // or taken back since
	}
	if !n.Connected() {
		return bundle.ErrAway
	}
	signed, err := bundle.SignJoin(n.site, peer.String(), invitation)
	if err != nil {
		return err
	}
	if err := n.bundles.putJoin(ctx, invitation.Public(), signed); err != nil {
		return err
	}
	// The store has it: from now on the peer is one of all gateways, whatever becomes of this one.
	if err := n.bundles.join(context.WithoutCancel(ctx)); err != nil {
		n.Log.Error("somebody has joined, and cannot use this gateway yet", "err", err)
		return nil
	}
	if p, _ := config.Invited(n.Live(), invitation.Public()); p.PublicKey != peer.String() {
		return errors.New("the store has the join, and it is refused")
	}
	return nil
}

// putJoin writes a join into the store, if that has no other.
func (b *bundles) putJoin(ctx context.Context, invitation bundle.PublicKey, signed bundle.Signed) error {
	key, after := JoinKey(b.site, invitation), uint64(0)
	for range joinTries {
		version, err := asked(ctx, func(ctx context.Context) (uint64, error) {
			return b.Store.Put(ctx, store.Joins, key, signed, after)
		})
		if err == nil {
			b.told(store.Entry{Key: key, Value: signed, Version: version})
			return nil
		}
		if errors.Is(err, store.ErrForbidden) {
			return fmt.Errorf("this gateway may not write joins: give its user in NATS the right to, as deploy/nats/server.conf does: %w", err)
		}
		there, failed := asked(ctx, func(ctx context.Context) (store.Entry, error) { return b.Store.Get(ctx, store.Joins, key) })
		switch {
		case errors.Is(failed, store.ErrNone) && errors.Is(err, store.ErrConflict):
			after = 0 // it was there, and is gone
		case failed != nil:
			return fmt.Errorf("%w: %w", bundle.ErrAway, errors.Join(err, failed))
		case slices.Equal(there.Value, signed): // the answer to ours was lost
			b.told(there)
			return nil
		default:
			if _, err := b.keyOf(there.Value, invitation); err == nil {
				b.told(there)
				return bundle.ErrJoined
			}
			after = there.Version // it is no join, and keeps nobody out
		}
	}
	return fmt.Errorf("%w: it does not keep a join", bundle.ErrAway)
}

const (
	joinTries    = 8 // to write a join, where something else is written meanwhile
	joinPatience = 3 * time.Second
)

// asked bounds how long the store may take.
func asked[T any](ctx context.Context, question func(context.Context) (T, error)) (T, error) {
	ctx, cancel := context.WithTimeout(ctx, joinPatience)
	defer cancel()
	return question(ctx)
}
