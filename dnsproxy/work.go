package dnsproxy

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"

	"penstock/dnsproxy/cache"
	"penstock/dnsproxy/upstream"
	"penstock/dnsproxy/wire"
)

const (
	networkRetry = time.Second     // how long a failure to reach upstreams is cached (RFC 9520: at least 1 s)
	serverRetry  = 5 * time.Second // and a failure that an upstream answered: asking again soon would give the same
)

// asker finds answers: in flights that others began, or from upstreams. It bounds what clients may ask for.
type asker struct {
	cache   *cache.Cache
	limits  *limits
	flights flights
	loops   loops
	tasks   tasks

	log     *slog.Logger
	metrics *Metrics
	clock   func() time.Time
}

// work is a question to be asked of upstreams. It is independent of the exchange that caused it.
type work struct {
	ctx     context.Context // done when the client or the server is closed
	key     cache.Key
	view    *view
	group   *upstream.Group
	host    string
	query   []byte       // for upstreams; each attempt fills in its own id
	id      uint16       // the client's
	old     *cache.Entry // expired, or about to be; nil if there is none
	timeout time.Duration
	release func()
}

// newWork describes a question.
func newWork(q *wire.Question, st *state, v *view, old *cache.Entry) *work {
	key := keyFor(q, v)
	key.Name = strings.Clone(key.Name)
	return &work{
		key: key, view: v, group: st.group(v), host: strings.Clone(q.Host()), query: wire.UpstreamQuery(q), id: q.ID, old: old,
		timeout: st.settings.Timeout,
	}
}

// ticket admits the question of ex as work, or settles ex if a limit forbids it.
func (a *asker) ticket(ctx context.Context, ex *exchange, st *state, v *view, old *cache.Entry) (*work, bool) {
	w := newWork(&ex.q, st, v, old)
	switch a.admit(ctx, ex.flow.Client, ex.begun, st, w) {
	case admitted:
		return w, true
	case overRate:
		ex.settle(resultLimited, wire.AppendEmpty(ex.out[:0], &ex.q, dns.RcodeRefused, edeLimited))
	case overLoad:
		ex.settle(resultOverloaded, wire.AppendEmpty(ex.out[:0], &ex.q, dns.RcodeServerFailure, edeBusy))
	default:
		ex.settle(resultDropped, ex.out[:0])
	}
	return nil, false
}

// admit lets work of a client begin, if no limit forbids it; then release must be called. It uses only the values of ctx: a client
// that disconnects keeps its place among the questions in flight until the upstream answers, or it could start any number of them.
func (a *asker) admit(ctx context.Context, client uint64, now time.Time, st *state, w *work) admission {
	done, refusal := a.limits.admit(client, now, &st.settings)
	if refusal != admitted {
		return refusal
	}
	if !a.tasks.begin() {
		done()
		return overAll
	}
	a.metrics.flying(1)
	clientCtx, cancel := a.tasks.context(context.WithoutCancel(ctx), client)
	w.ctx = clientCtx
	w.release = func() {
		cancel()
		a.metrics.flying(-1)
		done()
		a.tasks.end()
	}
	return admitted
}

// flight is one question on its way to upstreams, and all the clients that wait for it.
type flight struct {
	done   chan struct{} // closed when entry and how are there
	entry  *cache.Entry
	how    result
	cancel context.CancelFunc

	waiting int // clients; guarded by flights.mu

	mu  sync.Mutex // guards below
	ids []uint16   // of the queries to upstreams
}

func (f *flight) sent(id uint16) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ids = append(f.ids, id)
}

// came reports whether a query with this id is one of the flight's own that has come back to us.
func (f *flight) came(id uint16) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Contains(f.ids, id)
}

// flights are the questions that upstreams are being asked. Identical questions share one flight. That also stops loops: a query
// that comes back to us under another id joins its own flight and waits there until the timeout.
type flights struct {
	mu   sync.Mutex // guards below
	open map[cache.Key]*flight
}

// join finds the flight of a question or begins it. Cancel ends a flight that begins.
func (fs *flights) join(key cache.Key, cancel context.CancelFunc) (f *flight, begins bool) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if f := fs.open[key]; f != nil {
		f.waiting++
		return f, false
	}
	f = &flight{done: make(chan struct{}), cancel: cancel, waiting: 1}
	fs.open[key] = f
	return f, true
}

// leave ends the wait of one client. When nobody waits any more, the flight is cancelled and cannot be joined.
func (fs *flights) leave(key cache.Key, f *flight) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if f.waiting--; f.waiting == 0 {
		f.cancel()
		fs.removeLocked(key, f)
	}
}

func (fs *flights) removeLocked(key cache.Key, f *flight) {
	if fs.open[key] == f {
		delete(fs.open, key)
	}
}

func (fs *flights) land(key cache.Key, f *flight) {
	fs.mu.Lock()
	fs.removeLocked(key, f)
	fs.mu.Unlock()
	close(f.done)
}

// fetch asks the upstreams, or joins a flight that asks them already. The result is forwarded, stale or failed. If the client or
// the server is closed first, the result is dropped and there is no entry.
func (a *asker) fetch(w *work) (*cache.Entry, result) {
	asking, cancel := context.WithTimeout(context.WithoutCancel(w.ctx), w.timeout)
	f, begins := a.flights.join(w.key, cancel)
	defer a.flights.leave(w.key, f)
	var late <-chan struct{}
	if begins {
		a.tasks.spawn(func() {
			defer cancel()
			a.fly(asking, w, f)
		})
	} else {
		defer cancel()
		if f.came(w.id) {
			if a.loops.first(w.view.id) {
				a.log.Warn("a dns upstream leads back to this server", "host", w.host)
			}
			return w.failure(dns.RcodeServerFailure, edeLoop, 0, a.clock()), resultFailed
		}
		late = asking.Done()
	}
	select {
	case <-f.done:
		return f.entry, f.how
	case <-w.ctx.Done():
		return nil, resultDropped
	case <-late: // a query that came back under another id ends here, and its flight soon after
		return w.failure(dns.RcodeServerFailure, edeLoop, 0, a.clock()), resultFailed
	}
}

// fly asks the upstreams on behalf of a flight and lands it.
func (a *asker) fly(ctx context.Context, w *work, f *flight) {
	if e := a.cache.Peek(w.key); e != nil && e != w.old && e.Fresh(a.clock()) {
		f.entry, f.how = e, resultForwarded // a flight has landed since this query met an empty cache
	} else {
		f.entry, f.how = a.ask(ctx, w, f.sent)
		switch {
		case f.how == resultStale:
			w.old.KeepStale(a.clock().Add(serverRetry))
		case f.entry.Storable() && !errors.Is(ctx.Err(), context.Canceled):
			a.cache.Put(w.key, f.entry)
		}
	}
	a.flights.land(w.key, f)
}

// ask asks the upstreams and makes an entry of what they say.
func (a *asker) ask(ctx context.Context, w *work, sent func(uint16)) (*cache.Entry, result) {
	var e *cache.Entry
	msg, from, err := w.group.Ask(ctx, w.query, sent)
	now := a.clock()
	if err == nil {
		e, err = cache.Clean(msg, w.host, from, w.view.how, now)
	}
	switch {
	case err == nil:
		return e, resultForwarded
	case w.old.StandsIn(now):
		return w.old, resultStale
	}
	a.log.LogAttrs(ctx, slog.LevelDebug, "dns query failed", slog.String("host", w.host), slog.Any("err", err))
	return w.failed(err, now), resultFailed
}

// failed turns an error into an entry that is the answer for a short while. It passes on what the upstream said.
func (w *work) failed(err error, now time.Time) *cache.Entry {
	var said *upstream.Failure
	switch {
	case errors.As(err, &said):
		why := said.EDE
		if why == (wire.EDE{}) {
			why = wire.EDE{Code: dns.ExtendedErrorCodeNoReachableAuthority, Prefix: "upstreams answered ", Detail: dns.RcodeToString[said.Rcode]}
		}
		return w.failure(said.Rcode, why, serverRetry, now)
	case errors.Is(err, upstream.ErrNone):
		why := wire.EDE{Code: dns.ExtendedErrorCodeNoReachableAuthority, Prefix: "no upstream is configured"}
		return w.failure(dns.RcodeServerFailure, why, serverRetry, now)
	}
	why := wire.EDE{Code: dns.ExtendedErrorCodeNetworkError, Prefix: "no upstream can be reached"}
	return w.failure(dns.RcodeServerFailure, why, networkRetry, now)
}

func (w *work) failure(rcode int, why wire.EDE, ttl time.Duration, now time.Time) *cache.Entry {
	return cache.NewFailure(w.query, w.host, rcode, why, ttl, now)
}
