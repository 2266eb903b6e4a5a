package dnsproxy

import (
	"context"
	"net/netip"
	"time"

	"github.com/miekg/dns"

	"penstock/policy"
)

// Extended errors that clients are told (RFC 8914 and the IANA registry).
var (
	edeStale   = ede{code: dns.ExtendedErrorCodeStaleAnswer, prefix: "upstreams failed"}
	edeLoop    = ede{code: dns.ExtendedErrorCodeOther, prefix: "query loops"}
	edeBusy    = ede{code: dns.ExtendedErrorCodeOther, prefix: "too many queries wait"}
	edeLimited = ede{code: dns.ExtendedErrorCodeProhibited, prefix: "too many queries from this client"}
)

// serve answers ex, on this goroutine if no upstream is needed. It gives ex up and keeps nothing of query.
func (s *Server) serve(ctx context.Context, ex *exchange, query []byte) {
	st := s.state.Load()
	ex.begun = s.clock()
	switch what, rcode := ex.q.read(query); what {
	case notQuery:
		s.finish(ctx, ex)
	case badQuery:
		ex.settle(resultMalformed, appendEmpty(ex.out, &ex.q, rcode, noEDE))
		s.finish(ctx, ex)
	default:
		if ex.local(st) || s.judged(ex, st) {
			s.finish(ctx, ex)
			return
		}
		v := st.view(ex.q.host())
		if ex.dry {
			s.try(ctx, ex, st, v)
			return
		}
		e := s.cache.get(keyFor(&ex.q, v))
		if hit := e != nil && s.cached(ctx, ex, st, v, e); hit {
			s.cfg.Metrics.cache(true)
			s.finish(ctx, ex)
			return
		}
		s.cfg.Metrics.cache(false)
		s.dispatch(ctx, ex, st, v, e)
	}
}

// settle notes how ex ends and with what answer.
func (ex *exchange) settle(r result, out []byte) { ex.result, ex.out = r, out }

// judged asks the policy about the question and says whether that settles it.
func (s *Server) judged(ex *exchange, st *state) bool {
	ex.decided = ex.q.host()
	ex.verdict = s.decideName(ex, ex.decided)
	if ex.verdict.Action != policy.Forward {
		s.refuse(ex, st)
		return true
	}
	return s.limited(ex)
}

// refuse writes the block answer of the verdict.
func (s *Server) refuse(ex *exchange, st *state) {
	if s.cfg.Blocked != nil && !ex.dry {
		s.cfg.Blocked(ex.verdict)
	}
	if ex.verdict.Action == policy.Drop {
		ex.settle(resultDropped, ex.out[:0])
		return
	}
	why := ede{code: dns.ExtendedErrorCodeBlocked, prefix: "blocked by rule ", detail: ex.verdict.Rule}
	if ex.verdict.Category != "" { // the reason is what the site is, as a subscriber chose
		why.code = dns.ExtendedErrorCodeFiltered
	}
	ex.settle(resultBlocked, st.block(ex.verdict).append(ex.out[:0], &ex.q, why))
}

// cached answers ex with e from the cache, if e is of use.
func (s *Server) cached(ctx context.Context, ex *exchange, st *state, v *view, e *entry) bool {
	switch {
	case e.fresh(ex.begun):
		s.renew(ctx, ex, st, v, e)
		s.answer(ex, st, e, resultCached, "hit")
	case e.usable(ex.begun) && ex.begun.UnixNano() < e.retry.Load():
		s.answer(ex, st, e, resultStale, "stale")
	default:
		return false
	}
	return true
}

func keyFor(q *question, v *view) cacheKey {
	bits := q.flags & bitCD
	if q.do {
		bits |= 1
	}
	return cacheKey{name: q.key(), view: v.id, kind: q.qtype, bits: bits}
}

// answer writes e as the answer to ex, if the policy lets the client have what is in it. The names are remembered first, so that
// a flow never arrives before them.
func (s *Server) answer(ex *exchange, st *state, e *entry, how result, cache string) {
	ex.cache, ex.upstream = cache, e.upstream
	if e.failure() {
		ex.settle(resultFailed, e.append(ex.out[:0], &ex.q, ex.begun, ex.limit(), e.trouble))
		return
	}
	if len(e.targets) > 0 && !ex.verdict.ByName && s.behind(ex, st, e) { // an allowed site may stand on a blocked delivery network
		return
	}
	if len(e.hints) > 0 {
		if e = s.filterHints(ex, e); e == nil {
			ex.settle(resultFailed, appendEmpty(ex.out[:0], &ex.q, dns.RcodeServerFailure, noEDE))
			return
		}
	}
	if len(e.addrs) > 0 && !ex.dry {
		s.names.add(ex.flow.Client, e.addrs, e.host, e.left(ex.begun), ex.begun)
	}
	note := e.note
	if how == resultStale {
		note = edeStale
	}
	ex.settle(how, e.append(ex.out[:0], &ex.q, ex.begun, ex.limit(), note))
}

// behind judges the names behind the question: CNAME, DNAME and service targets. It says whether one is refused.
func (s *Server) behind(ex *exchange, st *state, e *entry) bool {
	for _, target := range e.targets {
		if v := s.decideName(ex, target); v.Action != policy.Forward {
			ex.verdict, ex.decided = v, target
			s.refuse(ex, st)
			return true
		}
	}
	return false
}

// filterHints returns e without the hints that the client could not use, or nil if that cannot be written.
func (s *Server) filterHints(ex *exchange, e *entry) *entry {
	no6 := s.noIPv6(ex.verdict.Egress)
	host := ex.q.host()
	keep := func(addr netip.Addr) bool {
		return !(no6 && addr.Is6()) && s.decideHint(ex, host, addr).Action == policy.Forward
	}
	for _, hint := range e.hints {
		if !keep(hint) {
			filtered, err := e.withoutHints(keep)
			if err != nil {
				return nil
			}
			return filtered
		}
	}
	return e
}

// renew asks for the successor of a hot entry in the last tenth of its life, so that its users never wait.
func (s *Server) renew(ctx context.Context, ex *exchange, st *state, v *view, e *entry) {
	if e.hits.Add(1) < 3 || e.failure() || e.ttl < 10*time.Second || e.left(ex.begun) > e.ttl/10 || !e.renewing.CompareAndSwap(false, true) {
		return
	}
	w, ok := s.ticket(ctx, ex, st, v, e)
	if !ok {
		e.renewing.Store(false)
		return
	}
	go func() {
		defer w.release()
		s.fetch(w)
		e.renewing.Store(false)
	}()
}

// dispatch hands ex to a worker that asks the upstreams. Old is the expired entry, or nil.
func (s *Server) dispatch(ctx context.Context, ex *exchange, st *state, v *view, old *entry) {
	w, ok := s.ticket(ctx, ex, st, v, old)
	if !ok {
		s.finish(ctx, ex)
		return
	}
	go s.miss(ctx, ex, st, w)
}

// miss answers ex when the upstreams have answered.
func (s *Server) miss(ctx context.Context, ex *exchange, st *state, w *work) {
	defer w.release()
	e, how := s.fetch(w)
	switch {
	case ctx.Err() != nil || w.ctx.Err() != nil: // the client is gone
		ex.settle(resultDropped, ex.out[:0])
	case how == resultStale:
		s.answer(ex, st, e, how, "stale")
	default:
		s.answer(ex, st, e, how, "miss")
	}
	s.finish(ctx, ex)
}
