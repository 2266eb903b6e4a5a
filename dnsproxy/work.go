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
)

const (
	networkRetry = time.Second     // how long a failure to reach upstreams is remembered (RFC 9520: 1 s at least)
	serverRetry  = 5 * time.Second // and a failure that they answered, which another query would only bring again
)

// work is a question to be asked of upstreams. It is independent of the exchange that caused it.
type work struct {
	ctx     context.Context // of the client: ends when it is closed, or the server
	key     cacheKey
	view    *view
	group   *group
	host    string
	query   []byte // for upstreams, with an id to be filled in
	id      uint16 // the client's
	old     *entry // expired, or about to be; nil if there is none
	timeout time.Duration
	release func()
}

// newWork describes the question of ex.
func (ex *exchange) newWork(st *state, v *view, old *entry) *work {
	key := keyFor(&ex.q, v)
	key.name = strings.Clone(key.name)
	return &work{
		key: key, view: v, group: st.group(v), host: strings.Clone(ex.q.host()), query: upstreamQuery(&ex.q), id: ex.q.id, old: old,
		timeout: st.settings.Timeout,
	}
}

// ticket admits the question of ex as work. If a limit forbids it, ex is settled. Of ctx only the values are used: a client that
// went away keeps its share of the questions in flight until the answer is there.
func (s *Server) ticket(ctx context.Context, ex *exchange, st *state, v *view, old *entry) (*work, bool) {
	done, refusal := s.limits.admit(ex.flow.Client, ex.begun, &st.settings)
	switch refusal {
	case admitted:
	case overRate:
		ex.settle(resultLimited, appendEmpty(ex.out[:0], &ex.q, dns.RcodeRefused, edeLimited))
		return nil, false
	default:
		ex.settle(resultOverloaded, appendEmpty(ex.out[:0], &ex.q, dns.RcodeServerFailure, edeBusy))
		return nil, false
	}
	if !s.tasks.begin() {
		done()
		ex.settle(resultDropped, ex.out[:0])
		return nil, false
	}
	s.cfg.Metrics.flying(1)
	w := ex.newWork(st, v, old)
	clientCtx, cancel := s.tasks.context(context.WithoutCancel(ctx), ex.flow.Client)
	w.ctx = clientCtx
	w.release = func() {
		cancel()
		s.cfg.Metrics.flying(-1)
		done()
		s.tasks.end()
	}
	return w, true
}

// flight is one question on its way to upstreams, and all the clients that wait for it.
type flight struct {
	done   chan struct{} // closed when entry and how are there
	entry  *entry
	how    result
	cancel context.CancelFunc

	waiting int // clients; guarded by flights.mu

	mu  sync.Mutex // guards below
	ids []uint16   // under which it is with upstreams
}

func (f *flight) sent(id uint16) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ids = append(f.ids, id)
}

// came says whether a query with this id is the flight's own, come back.
func (f *flight) came(id uint16) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Contains(f.ids, id)
}

// flights are the questions that are with upstreams. Each is there once, however many ask it: that also keeps a query that comes
// back to us under another id from going round for ever. It waits for itself until the time is over.
type flights struct {
	mu   sync.Mutex // guards below
	open map[cacheKey]*flight
}

// join finds the flight of a question or begins it. Cancel ends a flight that begins.
func (fs *flights) join(key cacheKey, cancel context.CancelFunc) (f *flight, begins bool) {
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

// leave notes that one client waits no more. Without any, the flight is cancelled and nobody joins it.
func (fs *flights) leave(key cacheKey, f *flight) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if f.waiting--; f.waiting == 0 {
		f.cancel()
		fs.removeLocked(key, f)
	}
}

func (fs *flights) removeLocked(key cacheKey, f *flight) {
	if fs.open[key] == f {
		delete(fs.open, key)
	}
}

func (fs *flights) land(key cacheKey, f *flight) {
	fs.mu.Lock()
	fs.removeLocked(key, f)
	fs.mu.Unlock()
	close(f.done)
}

// fetch asks the upstreams, or joins those who ask them already. The result is forwarded, stale or failed; it is dropped, without
// an entry, if the client or the server is closed before.
func (s *Server) fetch(w *work) (*entry, result) {
	asking, cancel := context.WithTimeout(context.WithoutCancel(w.ctx), w.timeout)
	f, begins := s.flights.join(w.key, cancel)
	defer s.flights.leave(w.key, f)
	var late <-chan struct{}
	if begins {
		s.tasks.spawn(func() {
			defer cancel()
			s.fly(asking, w, f)
		})
	} else {
		defer cancel()
		if f.came(w.id) {
			if s.loops.first(w.view.id) {
				s.cfg.Log.Warn("a dns upstream leads back to this server", "host", w.host)
			}
			return failure(w, edeLoop, 0, s.clock()), resultFailed
		}
		late = asking.Done()
	}
	select {
	case <-f.done:
		return f.entry, f.how
	case <-w.ctx.Done():
		return nil, resultDropped
	case <-late: // the query that came back under another id ends here, and its flight soon after
		return failure(w, edeLoop, 0, s.clock()), resultFailed
	}
}

// fly asks for a flight and lands it.
func (s *Server) fly(ctx context.Context, w *work, f *flight) {
	if e := s.cache.get(w.key); e != nil && e != w.old && e.fresh(s.clock()) {
		f.entry, f.how = e, resultForwarded // a flight has landed since this query met an empty cache
	} else {
		f.entry, f.how = s.ask(ctx, w, f.sent)
		switch {
		case f.how == resultStale:
			w.old.retry.Store(s.clock().Add(serverRetry).UnixNano())
		case f.entry.ttl > 0 && !errors.Is(ctx.Err(), context.Canceled):
			s.cache.put(w.key, f.entry)
		}
	}
	s.flights.land(w.key, f)
}

// ask asks the upstreams and makes an entry of what they say.
func (s *Server) ask(ctx context.Context, w *work, sent func(uint16)) (*entry, result) {
	var e *entry
	msg, from, err := w.group.ask(ctx, w.query, sent)
	now := s.clock()
	if err == nil {
		e, err = clean(msg, w.host, w.view.how, now)
	}
	switch {
	case err == nil:
		e.upstream = from.name
		return e, resultForwarded
	case w.old != nil && w.old.usable(now):
		return w.old, resultStale
	}
	s.cfg.Log.LogAttrs(ctx, slog.LevelDebug, "dns query failed", slog.String("host", w.host), slog.Any("err", err))
	return failed(w, err, now), resultFailed
}

// failed turns an error into the entry that clients are answered with for a while.
func failed(w *work, err error, now time.Time) *entry {
	var rcode errRcode
	if errors.As(err, &rcode) || errors.Is(err, errLame) || errors.Is(err, errNone) {
		return failure(w, ede{code: dns.ExtendedErrorCodeNoReachableAuthority, prefix: "no upstream can answer"}, serverRetry, now)
	}
	return failure(w, ede{code: dns.ExtendedErrorCodeNetworkError, prefix: "no upstream can be reached"}, networkRetry, now)
}

// failure is an entry that answers SERVFAIL.
func failure(w *work, why ede, ttl time.Duration, now time.Time) *entry {
	msg := slices.Clone(w.query[:len(w.query)-11]) // header and question, without the OPT record
	msg[11] = 0
	return &entry{msg: msg, rcode: dns.RcodeServerFailure, host: w.host, stored: now, ttl: ttl, trouble: why}
}
