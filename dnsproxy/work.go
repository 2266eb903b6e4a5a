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
	maxTimeout   = 5 * time.Second
	networkRetry = time.Second     // how long a failure to reach upstreams is remembered (RFC 9520: 1 s at least)
	serverRetry  = 5 * time.Second // and a failure that they answered, which another query would only bring again
)

// work is a question to be asked of upstreams. It is independent of the exchange that caused it.
type work struct {
	key     cacheKey
	view    *view
	host    string
	query   []byte // for upstreams, with an id to be filled in
	id      uint16 // the client's
	old     *entry // expired, or about to be; nil if there is none
	timeout time.Duration
	release func()
}

// ticket admits the question of ex as work. If a limit forbids it, ex is settled.
func (s *Server) ticket(ex *exchange, st *state, v *view, old *entry) (*work, bool) {
	done, refusal := s.limits.admit(ex.client.Addr(), ex.begun, &st.cfg)
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
	s.metrics.flying(1)
	key := keyFor(&ex.q, v)
	key.name = strings.Clone(key.name)
	return &work{
		key: key, view: v, host: strings.Clone(ex.q.host()), query: upstreamQuery(&ex.q), id: ex.q.id, old: old, timeout: st.cfg.Timeout,
		release: func() {
			s.metrics.flying(-1)
			done()
			s.tasks.end()
		},
	}, true
}

// flight is one question on its way to upstreams, and all the clients that wait for it.
type flight struct {
	done   chan struct{} // closed when entry and how are there
	entry  *entry
	how    result
	cancel context.CancelFunc

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
	over bool // the server is closing: new flights are cancelled
}

func (fs *flights) join(key cacheKey, cancel context.CancelFunc) (f *flight, leads bool) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if f := fs.open[key]; f != nil {
		return f, false
	}
	if fs.over {
		cancel()
	}
	f = &flight{done: make(chan struct{}), cancel: cancel}
	fs.open[key] = f
	return f, true
}

func (fs *flights) land(key cacheKey, f *flight) {
	fs.mu.Lock()
	delete(fs.open, key)
	fs.mu.Unlock()
	close(f.done)
}

// end cancels all flights.
func (fs *flights) end() {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	fs.over = true
	for _, f := range fs.open {
		f.cancel()
	}
}

// fetch asks the upstreams, or joins those who ask them already. The result is forwarded, stale or failed. The flight does not end
// with the context of the client that happened to come first.
func (s *Server) fetch(ctx context.Context, w *work) (*entry, result) {
	asking, cancel := context.WithTimeout(context.WithoutCancel(ctx), w.timeout)
	defer cancel()
	f, leads := s.flights.join(w.key, cancel)
	if leads {
		if e := s.cache.get(w.key); e != nil && e != w.old && e.fresh(s.clock()) {
			f.entry, f.how = e, resultForwarded // a flight has landed since this query met an empty cache
		} else {
			f.entry, f.how = s.ask(asking, w, f.sent)
		}
		s.flights.land(w.key, f)
		return f.entry, f.how
	}
	if f.came(w.id) {
		w.view.looped.Do(func() { s.log.Warn("a dns upstream leads back to this server", "host", w.host) })
		return failure(w, edeLoop, 0, s.clock()), resultFailed
	}
	select {
	case <-f.done:
		return f.entry, f.how
	case <-asking.Done(): // the query that came back under another id ends here, and its flight soon after
		return failure(w, edeLoop, 0, s.clock()), resultFailed
	}
}

// ask asks the upstreams and stores what they say.
func (s *Server) ask(ctx context.Context, w *work, sent func(uint16)) (*entry, result) {
	var e *entry
	msg, from, err := w.view.ask(ctx, w.query, sent)
	now := s.clock()
	if err == nil {
		e, err = clean(msg, w.host, w.view.how, now)
	}
	switch {
	case err == nil:
		e.upstream = from.name
		if e.ttl > 0 {
			s.cache.put(w.key, e)
		}
		return e, resultForwarded
	case w.old != nil && w.old.usable(now):
		w.old.retry.Store(now.Add(serverRetry).UnixNano())
		return w.old, resultStale
	}
	s.log.LogAttrs(ctx, slog.LevelDebug, "dns query failed", slog.String("host", w.host), slog.Any("err", err))
	e = failed(w, err, now)
	s.cache.put(w.key, e)
	return e, resultFailed
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
