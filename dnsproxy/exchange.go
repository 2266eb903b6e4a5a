package dnsproxy

import (
	"context"
	"log/slog"
	"net/netip"
	"time"

	"github.com/miekg/dns"

	"penstock/dnsproxy/records"
	"penstock/dnsproxy/wire"
	"penstock/policy"
)

// exchange is one query of a client and its answer. Exchanges are pooled: whoever holds one owns it and returns it with
// Server.finish.
type exchange struct {
	client  netip.AddrPort
	raw     netip.AddrPort // the client as the socket reported it, perhaps as a mapped address
	info    packetInfo     // where the query came to
	to      answerer
	stream  bool        // over TCP: an answer may have 64 KiB
	private bool        // over TLS: a padded query gets a padded answer
	outside bool        // of a stranger who may be anywhere: split zones are not for him
	dry     bool        // for diagnosis: nothing is counted, logged or remembered
	inner   bool        // asks for the name behind an alias of our own: nothing is counted or logged
	quiet   bool        // asks for a host that the client did not ask for: a refusal of it is not told
	flow    policy.Flow // facts about the client; decideName, decideAddr and decideHint fill in the rest
	names   [1]policy.Name

	q     wire.Question
	own   *records.Entry // what we know about the name by ourselves; nil if others are asked
	out   []byte         // the answer; empty means silence
	begun time.Time

	result   result
	verdict  policy.Verdict // of the name that decided
	decided  string         // that name, as a view that ends with the exchange
	withheld netip.Addr     // an address that was not told, because no flow may go there
	absent   bool           // the client is told that there is no such name, because no flow may go to any of its addresses
	sighting sighting       // of the name, for peers
	source   string         // where a name of our own comes from
	upstream string
	cache    string // hit, miss, stale, or empty if the cache was not asked
}

// answerer sends the answer of an exchange to its client. It is called exactly once per exchange, even if there is nothing to
// send, and must not keep ex.
type answerer interface{ answer(ex *exchange) error }

// replyFunc is an answerer that calls a function.
type replyFunc func([]byte) error

func (f replyFunc) answer(ex *exchange) error {
	if len(ex.out) == 0 {
		return nil
	}
	return f(ex.out)
}

// start takes an exchange from the pool. Flow holds the facts about the client; if nil, start asks Config.Clients.
func (r *resolver) start(client netip.AddrPort, flow *policy.Flow, to answerer) *exchange {
	ex := r.pool.Get().(*exchange)
	ex.client = netip.AddrPortFrom(client.Addr().Unmap(), client.Port())
	switch {
	case flow != nil:
		ex.flow = *flow
	case r.cfg.Clients != nil:
		ex.flow = r.cfg.Clients.Describe(ex.client)
	}
	ex.flow.Src = ex.client
	if ex.flow.Client == 0 {
		ex.flow.Client = AddressKey(ex.client.Addr())
	}
	ex.to, ex.stream, ex.private, ex.outside, ex.dry, ex.inner, ex.quiet, ex.own, ex.out = to, false, false, false, false, false, false, nil, ex.out[:0]
	ex.result, ex.verdict, ex.decided, ex.withheld = resultDropped, policy.Verdict{}, "", netip.Addr{}
	ex.absent, ex.source, ex.upstream, ex.cache = false, "", "", ""
	return ex
}

// finish counts and logs the query, and then sends the answer: a client that has its answer finds it counted.
func (r *resolver) finish(ctx context.Context, ex *exchange) {
	if !ex.dry && !ex.inner {
		r.cfg.Metrics.query(ex.result)
		if r.cfg.Asked != nil && len(ex.q.Name()) > 0 {
			r.cfg.Asked.Answered(ex.query())
		}
	}
	if err := ex.to.answer(ex); err != nil && r.cfg.Log.Enabled(ctx, slog.LevelDebug) {
		r.cfg.Log.LogAttrs(ctx, slog.LevelDebug, "dns answer not sent", slog.Any("src", ex.client), slog.Any("err", err))
	}
	ex.to, ex.own, ex.flow, ex.sighting = nil, nil, policy.Flow{}, sighting{}
	if cap(ex.out) > maxPooled {
		ex.out = nil
	}
	r.pool.Put(ex)
}

// maxPooled is the largest answer buffer that is kept for the next exchange, in octets.
const maxPooled = 4096

// limit is the size of the largest answer that ex takes.
func (ex *exchange) limit() int {
	if ex.stream {
		return dns.MaxMsgSize
	}
	return ex.q.Limit()
}

// query is what is told of ex.
func (ex *exchange) query() Query {
	rcode := ""
	if len(ex.out) >= wire.HeaderLen {
		rcode = dns.RcodeToString[int(ex.out[3]&0xf)]
	}
	action := policy.Forward
	if ex.verdict.Action == policy.Drop || ex.verdict.Action == policy.Refuse && ex.result == resultBlocked {
		action = ex.verdict.Action
	}
	return Query{
		Src: ex.client, Peer: ex.flow.Peer, Host: string([]byte(ex.q.Host())), Type: dns.Type(ex.q.Type).String(),
		Action: action, Rule: ex.verdict.Rule, Category: ex.verdict.Category, Decided: string([]byte(ex.decided)),
		Result: ex.result.String(), Rcode: rcode, Upstream: ex.upstream, Cache: ex.cache, Start: ex.begun, Sender: ex.flow.Sender, answer: ex.out,
	}
}
