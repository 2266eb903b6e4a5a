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
	"penstock/cmd/internal/ingress"
	"penstock/cmd/internal/lists"
	"penstock/cmd/internal/privatedns"
	"penstock/policy"
	"penstock/policy/blocklist"
)

// Live holds the current edition. It is safe for concurrent use.
type Live struct {
	Lists    *lists.Lists
	Sessions Sessions // who has signed in; must be set before the first flow, if anybody can

	log        *slog.Logger
	now        atomic.Pointer[Edition]
	conditions atomic.Pointer[policy.Conditions]

	mu        sync.Mutex // guards below
	decisions []policy.Decision
	former    []*Edition // oldest first
}

// Limits for the former editions kept for explanations.
const (
	maxFormer      = 16
	maxFormerBytes = 32 << 20 // of lists that are no longer in force
)

// NewLive returns a Live without an edition: call Use before anything else. NewLive sets c.Current and c.Replace.
func NewLive(c lists.Config) *Live {
	l := &Live{Sessions: noSessions{}, log: c.Log}
	l.conditions.Store(&policy.Conditions{})
	c.Current = func() *lists.Content { return l.now.Load().Lists }
	c.Replace = l.replaceLists
	l.Lists = lists.New(c)
	return l
}

// Now returns the current edition.
func (l *Live) Now() *Edition { return l.now.Load() }

// Config returns the current configuration.
func (l *Live) Config() *config.Config { return l.now.Load().Config }

// Compile compiles a configuration that can replace the current edition.
func (l *Live) Compile(ctx context.Context, cfg *config.Config) (*Edition, error) {
	from := Sources{Lists: l.Lists}
	if now := l.now.Load(); now != nil {
		from.Before = now.Clients
	}
	return Compile(ctx, cfg, from)
}

// Use puts an edition in force: it judges every flow from now on. Use returns the keys of the clients that are in the
// previous edition and not in this one.
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
	next.Policy = e.Policy.WithDecisions(l.decisions).WithEdition(next.Number)
	l.now.Store(&next)
	l.forgetLocked(next.Lists)
}

// forgetLocked drops former editions until the rest are within their limits. A set of names that several editions share
// counts once. The current set does not count.
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

// replaceLists puts newer lists in force under the same rules. It returns false if old is no longer in force.
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

// Readdress puts an edition in force in which the TUN has other addresses.
func (l *Live) Readdress(addresses []netip.Prefix) {
	l.mu.Lock()
	defer l.mu.Unlock()
	next := *l.now.Load()
	cfg, tun := *next.Config, *next.Config.Listen.TUN
	tun.Address = addresses
	cfg.Listen.TUN, next.Config = &tun, &cfg
	l.useLocked(&next)
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

// Conditions returns the current conditions of the host and its network.
func (l *Live) Conditions() *policy.Conditions { return l.conditions.Load() }

// SetConditions changes the conditions of the host and its network. It reports whether anything changed.
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

// Decide judges a flow by the current edition, under the current conditions.
func (l *Live) Decide(f policy.Flow) policy.Verdict {
	f.Now = l.conditions.Load()
	return l.now.Load().Policy.Decide(f)
}

// DecideName judges a question by the current edition, under the current conditions.
func (l *Live) DecideName(f policy.Flow) policy.Verdict {
	f.Now = l.conditions.Load()
	return l.now.Load().Policy.DecideName(f)
}

// Describe adds the facts about a flow's client. It returns false if the client is gone.
func (l *Live) Describe(f *policy.Flow) bool {
	return l.DescribeIn(l.now.Load(), f)
}

// DescribeIn is Describe for the clients of another edition.
func (l *Live) DescribeIn(e *Edition, f *policy.Flow) bool {
	c, ok := e.Clients.Client(f.Client)
	f.Peer, f.Groups, f.User = c.Name, c.Groups, ""
	if c.ID != "" {
		var groups []string
		if f.User, groups = l.Sessions.SignedIn(c.ID); len(groups) > 0 {
			f.Groups = slices.Concat(c.Groups, groups)
		}
	}
	return ok
}

// Peer returns the key of the peer that has an address inside the tunnel.
func (l *Live) Peer(src netip.Addr) (key uint64, ok bool) { return l.now.Load().Clients.Peer(src) }

// Key returns the key of the sender at an address: see clients.Book.Key.
func (l *Live) Key(src netip.Addr) uint64 { return l.now.Load().Clients.Key(src) }

// ListStatus returns the state of the current lists.
func (l *Live) ListStatus() []lists.Status { return l.Lists.Status(l.now.Load().Lists) }

// Logins knows who may use listen.proxy. It implements ingress.Users.
type Logins struct{ *Live }

// Open returns the login of this machine's programs, if they need no password.
func (l Logins) Open() (ingress.Login, bool) { return l.Now().Proxy.Open() }

// Login returns the login of the peer with this name and password.
func (l Logins) Login(name, password string) (ingress.Login, bool) {
	now := l.Now()
	return now.Proxy.Login(now.Clients, name, password)
}

// Holds reports whether a login is still good.
func (l Logins) Holds(login ingress.Login) bool {
	now := l.Now()
	return now.Proxy.Holds(now.Clients, login)
}

// Strangers describes clients that ask DNS on an address of the host. It implements dnsproxy.Clients.
type Strangers struct{ *Live }

// Describe returns the facts about the client at an address.
func (s Strangers) Describe(src netip.AddrPort) policy.Flow {
	f := policy.Flow{Client: s.Key(src.Addr()), Src: src}
	s.Live.Describe(&f)
	return f
}

// Phone returns the facts about who comes with a token to encrypted DNS, or without one: see privatedns.Config.
func (l *Live) Phone(w privatedns.Way, token string, src netip.AddrPort) (policy.Flow, bool) {
	now := l.now.Load()
	if token == "" {
		return Strangers{l}.Describe(src), now.Phones.Anonymous()
	}
	id, ok := now.Phones.Peer(w, token)
	if !ok {
		return policy.Flow{}, false
	}
	key, ok := now.Clients.Identified(id) // not if it is disabled or has expired
	f := policy.Flow{Client: key, Src: src}
	ok = l.DescribeIn(now, &f) && ok
	return f, ok
}
