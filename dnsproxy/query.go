package dnsproxy

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/miekg/dns"

	"penstock/policy"
)

// Answer is what [Server.Query] found out.
type Answer struct {
	Name     string // as asked
	Type     string
	Rcode    string         // "NOERROR", "NXDOMAIN", ...; empty if the client would meet silence
	Records  []string       // answer section in zone file format
	Reason   string         // text of an extended error
	Verdict  policy.Verdict // of the name that decided
	Decided  string         // that name: the question, or one behind it
	Result   string         // as in penstock_dns_queries_total
	Upstream string         // name of the upstream that answered, now or when the answer was cached
	Cache    string         // "hit", "miss", "stale", or "" if the cache was not asked
	Duration time.Duration
}

// Query resolves name as client would have it, for diagnosis. Qtype is a type such as "AAAA"; empty means A. The error is about
// the parameters, or that of ctx; trouble with upstreams is in the answer.
func (s *Server) Query(ctx context.Context, client netip.AddrPort, name, qtype string) (Answer, error) {
	qtype = cmp.Or(strings.ToUpper(qtype), "A")
	code, ok := dns.StringToType[qtype]
	if !ok {
		return Answer{}, fmt.Errorf("dnsproxy: query type %q: not a record type", qtype)
	}
	msg := new(dns.Msg).SetQuestion(dns.Fqdn(name), code).SetEdns0(maxUDP, false)
	query, err := msg.Pack()
	if err != nil {
		return Answer{}, fmt.Errorf("dnsproxy: query name %q: %w", name, err)
	}
	found := make(probe, 1)
	ex := s.start(client, found)
	ex.stream, ex.flow = true, s.state.Load().cfg.Describe(ex.client)
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

// probe takes the outcome of an exchange. It has room for one.
type probe chan Answer

func (p probe) answer(ex *exchange) error {
	a := Answer{
		Verdict: ex.verdict, Decided: strings.Clone(ex.decided), Result: ex.result.String(), Upstream: ex.upstream, Cache: ex.cache,
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
	if opt := msg.IsEdns0(); opt != nil {
		for _, option := range opt.Option {
			if e, is := option.(*dns.EDNS0_EDE); is {
				a.Reason = e.ExtraText
			}
		}
	}
	return nil
}
