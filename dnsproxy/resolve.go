package dnsproxy

import (
	"context"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/miekg/dns"

	"penstock/dnsproxy/cache"
	"penstock/dnsproxy/names"
	"penstock/dnsproxy/wire"
	"penstock/policy"
)

// Extended errors in answers to clients (RFC 8914 and the IANA registry).
var (
	edeLoop    = wire.EDE{Code: dns.ExtendedErrorCodeOther, Prefix: "query loops"}
	edeBusy    = wire.EDE{Code: dns.ExtendedErrorCodeOther, Prefix: "too many queries wait"}
	edeLimited = wire.EDE{Code: dns.ExtendedErrorCodeProhibited, Prefix: "too many queries from this client"}
)

// resolver takes exchanges from question to answer: it judges, looks into the cache, and has the asker ask.
type resolver struct {
	*asker
	cfg   Config // Log is set
	state atomic.Pointer[state]
	names *names.Table
	pool  sync.Pool // of *exchange
}

// serve answers ex, on this goroutine if no upstream is needed. It takes ownership of ex and does not keep query.
func (r *resolver) serve(ctx context.Context, ex *exchange, query []byte) {
	st := r.state.Load()
	ex.begun = r.clock()
	if !ex.dry || ex.flow.Time.IsZero() {
		ex.flow.Time = ex.begun // a diagnosis may be about another time
	}
	switch what, rcode := ex.q.Read(query); what {
	case wire.NotQuery:
		r.finish(ctx, ex)
	case wire.BadQuery:
		ex.settle(resultMalformed, wire.AppendEmpty(ex.out, &ex.q, rcode, wire.EDE{}))
		r.finish(ctx, ex)
	default:
		ex.own = st.settings.Records.Find(ex.q.Host())
		switch {
		case ex.local(st):
			if ex.flow.Peer != "" && st.settings.Records.Beside(ex.q.Host()) { // like a name of ours that is hidden
				wire.Shorten(ex.out, st.settings.Block.TTL)
			}
			r.finish(ctx, ex)
			return
		case ex.hidden(st), r.judged(ex, st):
			r.finish(ctx, ex)
			return
		case ex.own != nil:
			ours{resolver: r, ex: ex, st: st}.reply(ctx)
			return
		}
		v := st.view(ex.q.Host())
		if ex.dry {
			r.try(ctx, ex, st, v)
			return
		}
		e := r.cache.Get(keyFor(&ex.q, v))
		if e != nil && (e.Fresh(ex.begun) || e.Stale(ex.begun)) {
			r.cfg.Metrics.cache(true)
			r.cached(ctx, ex, st, v, e)
			return
		}
		r.cfg.Metrics.cache(false)
		r.dispatch(ctx, ex, st, v, e)
	}
}

// settle records the result of ex and its answer.
func (ex *exchange) settle(r result, out []byte) { ex.result, ex.out = r, out }

// hidden refuses internal names to a stranger from outside, and aliases of them, reverse names and records that lead to nothing
// else. It reports whether it did.
func (ex *exchange) hidden(st *state) bool {
	if !ex.outside || !ex.isInternal(st) {
		return false
	}
	ex.settle(resultBlocked, wire.AppendEmpty(ex.out[:0], &ex.q, dns.RcodeRefused, wire.EDE{Code: dns.ExtendedErrorCodeProhibited}))
	return true
}

func (ex *exchange) isInternal(st *state) bool {
	if st.internal(ex.q.Host()) {
		return true
	}
	if ex.own == nil {
		return false
	}
	hosts := ex.own.End().Hosts()
	return len(hosts) > 0 && !slices.ContainsFunc(hosts, func(host string) bool { return !st.internal(host) })
}

// judged asks the policy about the question and reports whether ex is settled.
func (r *resolver) judged(ex *exchange, st *state) bool {
	ex.decided = ex.q.Host()
	if ex.inner && ex.verdict.ByName { // a rule that names the alias means what is behind it, too
		return r.limited(ex)
	}
	ex.verdict = r.decideName(ex, ex.decided)
	if ex.verdict.Action != policy.Forward {
		r.refuse(ex, st)
		return true
	}
	return r.limited(ex)
}

// refuse writes the block answer of the verdict.
func (r *resolver) refuse(ex *exchange, st *state) {
	r.tell(ex)
	if ex.verdict.Action == policy.Drop {
		ex.settle(resultDropped, ex.out[:0])
		return
	}
	why := wire.EDE{Code: dns.ExtendedErrorCodeBlocked, Prefix: "blocked by rule ", Detail: ex.verdict.Rule}
	if ex.verdict.Category != "" { // RFC 8914 4.18: the operator filters on behalf of the client
		why.Code = dns.ExtendedErrorCodeFiltered
	}
	ex.settle(resultBlocked, st.block(ex.verdict).append(ex.out[:0], &ex.q, why))
}

// tell passes on that a question was refused.
func (r *resolver) tell(ex *exchange) {
	if r.cfg.Blocked != nil && !ex.dry && !ex.quiet {
		r.cfg.Blocked(Refused{ex.client, ex.flow.Peer, ex.q.Host(), ex.decided, ex.withheld, ex.verdict, ex.begun, ex.flow.Sender})
	}
}

// cached answers ex from the cache entry e. It takes ownership of ex.
func (r *resolver) cached(ctx context.Context, ex *exchange, st *state, v *view, e *cache.Entry) {
	how, from := resultStale, "stale"
	if e.Fresh(ex.begun) {
		if how, from = resultCached, "hit"; e.Use(ex.begun) {
			r.renew(ctx, ex, st, v, e)
		}
	}
	switch {
	case r.answer(ex, st, e, how, from, r.sight(ex, st)):
	case !r.tasks.begin():
		ex.settle(resultDropped, ex.out[:0])
	default:
		go r.lookFurther(ctx, ex, st, e, how, from)
		return
	}
	r.finish(ctx, ex)
}

// lookFurther answers ex from a cache entry when upstreams have said whether the client may know of the name.
func (r *resolver) lookFurther(ctx context.Context, ex *exchange, st *state, e *cache.Entry, how result, from string) {
	defer r.tasks.end()
	clientCtx, cancel := r.tasks.context(context.WithoutCancel(ctx), ex.flow.Client)
	defer cancel()
	s := r.sight(ex, st).asking(clientCtx)
	s.ahead(&ex.q)
	if r.answer(ex, st, e, how, from, s); clientCtx.Err() != nil {
		ex.settle(resultDropped, ex.out[:0])
	}
	r.finish(ctx, ex)
}

func keyFor(q *wire.Question, v *view) cache.Key {
	bits := q.Flags & wire.FlagCD
	if q.DO {
		bits |= 1
	}
	return cache.Key{Name: q.Key(), View: v.id, Type: q.Type, Bits: bits}
}

// answer writes e as the answer to ex, if the policy allows the names and addresses in it. It records the names before the answer
// goes out, so that the flow that follows finds them. False means that it did nothing, because s would have to ask upstreams and
// may not.
func (r *resolver) answer(ex *exchange, st *state, e *cache.Entry, how result, from string, s *sighting) bool {
	ex.cache, ex.upstream = from, e.Upstream
	if len(e.Targets) > 0 && !ex.verdict.ByName && r.behind(ex, st, e) { // an allowed site may stand on a blocked delivery network
		return true
	}
	guarded := s.guarded()
	if guarded {
		switch what := s.see(e); {
		case what == unsure && s.ctx == nil:
			return false
		case what == unsure && e.Failure():
		case what != inSight:
			s.answer(what)
			return true
		}
	}
	if e.Failure() {
		ex.settle(resultFailed, e.Append(ex.out[:0], &ex.q, ex.begun, ex.limit()))
		return true
	}
	if len(e.Hints) > 0 {
		if e = r.filterHints(ex, e); e == nil {
			ex.settle(resultFailed, wire.AppendEmpty(ex.out[:0], &ex.q, dns.RcodeServerFailure, wire.EDE{}))
			return true
		}
	}
	if len(e.Addrs) > 0 && !ex.dry {
		r.names.Add(ex.flow.Client, e.Addrs, e.Host, e.Left(ex.begun), ex.begun)
	}
	ex.settle(how, e.Append(ex.out[:0], &ex.q, ex.begun, ex.limit()))
	if e.Missing() && (guarded || ex.flow.Peer != "" && st.settings.Records.Beside(ex.q.Host())) { // a name that is hidden lives no longer, either
		wire.Shorten(ex.out, st.settings.Block.TTL)
	}
	return true
}

// behind judges the names behind the question, which are CNAME, DNAME and service targets. It reports whether one is refused.
func (r *resolver) behind(ex *exchange, st *state, e *cache.Entry) bool {
	return slices.ContainsFunc(e.Targets, func(target string) bool { return r.targetRefused(ex, st, target) })
}

// targetRefused judges a name behind an alias. It reports whether the policy refused it.
func (r *resolver) targetRefused(ex *exchange, st *state, target string) bool {
	v := r.decideName(ex, target)
	if v.Action == policy.Forward {
		return false
	}
	ex.verdict, ex.decided = v, target
	r.refuse(ex, st)
	return true
}

// filterHints returns e without the hints that the client could not use, or nil if packing the rest fails.
func (r *resolver) filterHints(ex *exchange, e *cache.Entry) *cache.Entry {
	no6 := r.noIPv6(ex.verdict.Egress)
	host := ex.q.Host()
	keep := func(addr netip.Addr) bool {
		return !(no6 && addr.Is6()) && r.decideHint(ex, host, addr).Action == policy.Forward
	}
	for _, hint := range e.Hints {
		if !keep(hint) {
			filtered, err := e.WithoutHints(keep)
			if err != nil {
				return nil
			}
			return filtered
		}
	}
	return e
}

// renew asks for the successor of an entry in use before it expires, so that its users never wait.
func (r *resolver) renew(ctx context.Context, ex *exchange, st *state, v *view, e *cache.Entry) {
	w, ok := r.ticket(ctx, ex, st, v, e)
	if !ok {
		e.Renewed()
		return
	}
	go func() {
		defer w.release()
		r.fetch(w)
		e.Renewed()
	}()
}

// dispatch hands ex to a worker that asks the upstreams. Old is the expired entry, or nil.
func (r *resolver) dispatch(ctx context.Context, ex *exchange, st *state, v *view, old *cache.Entry) {
	w, ok := r.ticket(ctx, ex, st, v, old)
	if !ok {
		r.finish(ctx, ex)
		return
	}
	go r.miss(ctx, ex, st, w)
}

// miss answers ex when the upstreams have answered.
func (r *resolver) miss(ctx context.Context, ex *exchange, st *state, w *work) {
	defer w.release()
	s := r.sight(ex, st).asking(w.ctx)
	s.ahead(&ex.q)
	e, how := r.fetch(w)
	switch {
	case ctx.Err() != nil || w.ctx.Err() != nil: // the client is gone
		ex.settle(resultDropped, ex.out[:0])
	case how == resultStale:
		r.answer(ex, st, e, how, "stale", s)
	default:
		r.answer(ex, st, e, how, "miss", s)
	}
	r.finish(ctx, ex)
}
