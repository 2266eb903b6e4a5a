package dnsproxy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/miekg/dns"

	"penstock/dnsproxy/cache"
	"penstock/dnsproxy/wire"
	"penstock/policy"
)

// Answer is what [Server.Query] found out.
type Answer struct {
	Name     string // as asked
	Type     string
	Rcode    string         // "NOERROR", "NXDOMAIN", ...; empty if the client would get no answer
	Records  []string       // answer section in zone file format
	Reason   string         // text of an extended error
	Verdict  policy.Verdict // of the name that decided
	Decided  string         // that name: the question, or one behind it
	Withheld netip.Addr     // an address that the client is not told, because no flow of it may go there
	Hidden   bool           // the client is not told even that there is such a name, because no flow may go to any of its addresses
	Result   string         // as in penstock_dns_queries_total
	Source   string         // where a name of our own comes from: see records.Record.From
	Upstream string         // name of the upstream that answered, now or when the answer was cached
	Cache    string         // "hit", "miss", "stale", or "" if the cache was not asked
	Duration time.Duration
}

// Query says how a question of the client in f would be answered, for diagnosis. Qtype is a type such as "AAAA"; empty means A.
// The question is judged as of f.Time; zero means now. Query changes nothing: it reads the cache and may ask upstreams, but it
// stores neither answers nor names, counts and logs no query of a client, and takes nothing from the client's share. The error is
// about the parameters, or that of ctx; trouble with upstreams is in the answer.
func (s *Server) Query(ctx context.Context, f policy.Flow, name, qtype string) (Answer, error) {
	qtype = cmp.Or(strings.ToUpper(qtype), "A")
	code, ok := dns.StringToType[qtype]
	if !ok {
		return Answer{}, fmt.Errorf("dnsproxy: query type %q: not a record type", qtype)
	}
	query, err := packQuery(name, code)
	if err != nil {
		return Answer{}, err
	}
	found := make(probe, 1)
	ex := s.start(f.Src, &f, found)
	ex.stream, ex.dry = true, true
	begun := time.Now()
	s.serve(ctx, ex, query)
	select {
	case a := <-found:
		a.Name, a.Type, a.Duration = name, qtype, time.Since(begun)
		return a, nil
	case <-ctx.Done():
		return Answer{}, ctx.Err()
	}
}

// try answers ex for diagnosis: from the cache if it can, else from upstreams. Nothing is kept.
func (r *resolver) try(ctx context.Context, ex *exchange, st *state, v *view) {
	if !r.tasks.begin() {
		ex.settle(resultDropped, ex.out[:0])
		r.finish(ctx, ex)
		return
	}
	defer r.tasks.end()
	clientCtx, cancel := r.tasks.context(ctx, ex.flow.Client)
	defer cancel()
	e, how, from := r.tryOne(clientCtx, &ex.q, st, v, ex.begun)
	r.answer(ex, st, e, how, from, r.sight(ex, st).asking(clientCtx))
	r.finish(ctx, ex)
}

// tryOne finds the answer to a question for diagnosis, and says where.
func (r *resolver) tryOne(ctx context.Context, q *wire.Question, st *state, v *view, now time.Time) (e *cache.Entry, how result, from string) {
	e = r.cache.Peek(keyFor(q, v))
	switch {
	case e != nil && e.Fresh(now):
		return e, resultCached, "hit"
	case e != nil && e.Stale(now):
		return e, resultStale, "stale"
	}
	w := newWork(q, st, v, e)
	ctx, cancel := context.WithTimeout(ctx, w.timeout)
	defer cancel()
	if e, how = r.ask(ctx, w, func(uint16) {}); how == resultStale {
		return e, how, "stale"
	}
	return e, how, "miss"
}

// Confirm returns the addresses that the client in f gets for host, as if it had asked: its policy, the cache and the bounds of the
// client apply, and the names are remembered as after a real question. The addresses are of the family of f.Dst; none means that
// the host has none. The error wraps a *[BlockedError] if host is blocked for the client; any other says that nobody could be asked.
func (s *Server) Confirm(ctx context.Context, f policy.Flow, host string) ([]netip.Addr, error) {
	code := dns.TypeA
	if f.Dst.Addr().Unmap().Is6() {
		code = dns.TypeAAAA
	}
	query, err := packQuery(host, code)
	if err != nil {
		return nil, err
	}
	found := make(confirmation, 1)
	ex := s.start(f.Src, &f, found)
	ex.stream = true
	s.serve(ctx, ex, query)
	select {
	case c := <-found:
		if c.err != nil {
			return nil, fmt.Errorf("dnsproxy: confirm %s: %w", host, c.err)
		}
		return c.addrs, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("dnsproxy: confirm %s: %w", host, ctx.Err())
	}
}

func addIP(addrs []netip.Addr, ip net.IP) []netip.Addr {
	if addr, ok := netip.AddrFromSlice(ip); ok {
		addrs = append(addrs, addr.Unmap())
	}
	return addrs
}

func packQuery(name string, qtype uint16) ([]byte, error) {
	query, err := new(dns.Msg).SetQuestion(dns.Fqdn(name), qtype).SetEdns0(wire.MaxUDP, false).Pack()
	if err != nil {
		return nil, fmt.Errorf("dnsproxy: query name %q: %w", name, err)
	}
	return query, nil
}

// BlockedError says that the policy refuses a question of a client.
type BlockedError struct {
	Verdict  policy.Verdict
	Host     string     // that decided: the one in question, or one behind it
	Withheld netip.Addr // valid if only its addresses are refused: those of this family, or all
	Hidden   bool       // the client may not know that there is such a name: for it, there is none
}

// Error names the rule.
func (e *BlockedError) Error() string {
	return fmt.Sprintf("rule %s blocks %s", e.Verdict.Rule, e.Host)
}

// confirmation takes the addresses of an exchange. It has room for one.
type confirmation chan confirmed

type confirmed struct {
	addrs []netip.Addr
	err   error
}

func (c confirmation) answer(ex *exchange) error {
	addrs, err := ex.addresses()
	c <- confirmed{addrs, err}
	return nil
}

// addresses returns the addresses in the answer of ex. A name that does not exist has none.
func (ex *exchange) addresses() ([]netip.Addr, error) {
	if ex.result == resultBlocked || ex.verdict.Action != policy.Forward && ex.decided != "" {
		return nil, &BlockedError{ex.verdict, strings.Clone(ex.decided), ex.withheld, ex.absent}
	}
	if len(ex.out) == 0 {
		return nil, errors.New("the server gave no answer")
	}
	msg := new(dns.Msg)
	if err := msg.Unpack(ex.out); err != nil {
		return nil, err
	}
	if msg.Rcode != dns.RcodeSuccess && msg.Rcode != dns.RcodeNameError {
		return nil, errors.New(strings.TrimSpace(dns.RcodeToString[msg.Rcode] + " " + extendedError(msg)))
	}
	return addressesIn(msg), nil
}

// addressesIn returns the addresses in an answer.
func addressesIn(msg *dns.Msg) (addrs []netip.Addr) {
	for _, rr := range msg.Answer {
		switch rr := rr.(type) {
		case *dns.A:
			addrs = addIP(addrs, rr.A)
		case *dns.AAAA:
			addrs = addIP(addrs, rr.AAAA)
		}
	}
	return addrs
}

// probe takes the outcome of an exchange. It has room for one.
type probe chan Answer

func (p probe) answer(ex *exchange) error {
	a := Answer{
		Verdict: ex.verdict, Decided: strings.Clone(ex.decided), Withheld: ex.withheld, Hidden: ex.absent, Result: ex.result.String(),
		Source: ex.source, Upstream: ex.upstream, Cache: ex.cache,
	}
	defer func() { p <- a }()
	if len(ex.out) == 0 {
		return nil
	}
	msg := new(dns.Msg)
	if err := msg.Unpack(ex.out); err != nil {
		return err
	}
	a.Rcode = dns.RcodeToString[msg.Rcode]
	for _, rr := range msg.Answer {
		a.Records = append(a.Records, rr.String())
	}
	a.Reason = extendedError(msg)
	return nil
}

// extendedError returns the text of the extended error in an answer, if there is one.
func extendedError(msg *dns.Msg) string {
	if opt := msg.IsEdns0(); opt != nil {
		for _, option := range opt.Option {
			if e, is := option.(*dns.EDNS0_EDE); is {
				return e.ExtraText
			}
		}
	}
	return ""
}
