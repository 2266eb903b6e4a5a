package edition

import (
	"context"
	"log/slog"
	"net/netip"
	"reflect"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"

	"penstock/cmd/internal/config"
	"penstock/cmd/internal/lists"
	"penstock/policy"
	"penstock/policy/blocklist"
)

// Live holds the edition in force. Its methods may be called by several goroutines at once.
type Live struct {
	Lists *lists.Lists

	log        *slog.Logger
	now        atomic.Pointer[Edition]
	conditions atomic.Pointer[policy.Conditions]

	mu         sync.Mutex // guards below
	exceptions []policy.Exception
	former     []*Edition    // oldest first
	excepted   chan struct{} // of capacity 1: there is a new exception
}

// Bounds of the former editions that are kept for explanations.
const (
	maxFormer      = 16
	maxFormerBytes = 32 << 20 // of lists that are not in force any more
)

// NewLive returns a Live without an edition: call Use before anything else. NewLive sets c.Current and c.Replace.
func NewLive(c lists.Config) *Live {
	l := &Live{log: c.Log, excepted: make(chan struct{}, 1)}
	l.conditions.Store(&policy.Conditions{})
	c.Current = func() *lists.Content { return l.now.Load().Lists }
	c.Replace = l.replaceLists
	l.Lists = lists.New(c)
	return l
}

// Now is the edition in force.
func (l *Live) Now() *Edition { return l.now.Load() }

// Config is the configuration in force.
func (l *Live) Config() *config.Config { return l.now.Load().Config }

// Compile compiles a configuration that may follow the edition in force.
func (l *Live) Compile(ctx context.Context, cfg *config.Config) (*Edition, error) {
	from := Sources{Lists: l.Lists}
	if now := l.now.Load(); now != nil {
		from.Before = now.Clients
	}
	return Compile(ctx, cfg, from)
}

// Use puts an edition in force: it judges every flow from now on. It returns the keys of the clients that the edition
// before knew and this one does not.
func (l *Live) Use(e *Edition) (gone []uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	before := l.now.Load()
	l.useLocked(e)
	l.Lists.Wake()
	debug.FreeOSMemory() // compiling takes more memory than its result
	if before == nil {
		return nil
	}
	return before.Clients.Gone(e.Clients)
}

// useLocked numbers a copy of an edition and puts it in force.
func (l *Live) useLocked(e *Edition) {
	next := *e
	next.Number = 1
	if old := l.now.Load(); old != nil {
		next.Number = old.Number + 1
		l.former = append(l.former, old)
	}
	next.Policy = e.Policy.WithExceptions(l.exceptions).WithEdition(next.Number)
	l.now.Store(&next)
	l.forgetLocked(next.Lists)
}

// forgetLocked keeps the former editions within their bounds. Editions that share a set of names count it once, and the
// set in force not at all.
func (l *Live) forgetLocked(inForce *lists.Content) {
	seen := map[*blocklist.Set]bool{inForce.Set(): true}
	bytes := 0
	for i := len(l.former) - 1; i >= 0; i-- {
		if set := l.former[i].Lists.Set(); !seen[set] {
			seen[set] = true
			bytes += set.Bytes()
		}
		if bytes > maxFormerBytes || len(l.former)-i > maxFormer {
			l.former = slices.Delete(l.former, 0, i+1)
			return
		}
	}
}

// replaceLists puts newer lists in force under the same rules. It refuses if old is no longer in force.
func (l *Live) replaceLists(old, content *lists.Content) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now.Load()
	if now.Lists != old {
		return false
	}
	next := *now
	next.Policy, next.Lists = now.Policy.WithLists(content.Set), content
	l.useLocked(&next)
	debug.FreeOSMemory() // compiling takes more memory than its result
	return true
}

// Edition returns the edition with a number, if it is in force or still kept.
func (l *Live) Edition(number uint64) (*Edition, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range append(l.former[:len(l.former):len(l.former)], l.now.Load()) {
		if e.Number == number {
			return e, true
		}
	}
	return nil, false
}

// Conditions returns what is true of the host and its network now.
func (l *Live) Conditions() *policy.Conditions { return l.conditions.Load() }

// SetConditions changes what is true of the host and its network, and reports whether it differs from before.
func (l *Live) SetConditions(change func(*policy.Conditions)) bool {
	for {
		before := l.conditions.Load()
		next := *before
		change(&next)
		if reflect.DeepEqual(next, *before) { // compares portals by value
			return false
		}
		if l.conditions.CompareAndSwap(before, &next) {
			return true
		}
	}
}

// Decide judges a flow by the edition in force, under the present conditions.
func (l *Live) Decide(f policy.Flow) policy.Verdict {
	f.Now = l.conditions.Load()
	return l.now.Load().Policy.Decide(f)
}

// DecideName judges a question by the edition in force, under the present conditions.
func (l *Live) DecideName(f policy.Flow) policy.Verdict {
	f.Now = l.conditions.Load()
	return l.now.Load().Policy.DecideName(f)
}

// Describe adds what is known of a flow's client. It reports false for a client that is gone.
func (l *Live) Describe(f *policy.Flow) bool {
	c, ok := l.now.Load().Clients.Client(f.Client)
	f.Peer, f.Groups = c.Name, c.Groups
	return ok
}

// Peer returns the key of the peer that an inner address belongs to.
func (l *Live) Peer(src netip.Addr) (key uint64, ok bool) { return l.now.Load().Clients.Peer(src) }

// Key returns the key of whoever sends from an address: see clients.Book.Key.
func (l *Live) Key(src netip.Addr) uint64 { return l.now.Load().Clients.Key(src) }

// ListStatus returns the state of the lists in force.
func (l *Live) ListStatus() []lists.Status { return l.Lists.Status(l.now.Load().Lists) }
