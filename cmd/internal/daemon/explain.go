package daemon

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"penstock/cmd/internal/control"
	"penstock/cmd/internal/lists"
	"penstock/policy"
	"penstock/router"
)

// explain tells what would be done with a flow, or what was done with one and what would be done now.
func (d *Daemon) explain(ctx context.Context, q control.ExplainQuery) (control.Explanation, error) {
	if q.Flow != "" {
		past, err := d.findFlow(q.Flow)
		if err != nil {
			return control.Explanation{}, err
		}
		return d.explainPast(past), nil
	}
	facts, resolver, err := d.hypothetical(ctx, q)
	if err != nil {
		return control.Explanation{}, err
	}
	x := d.explainFlow(d.rules.now.Load(), facts, q.Target)
	x.Resolver = resolver
	return x, nil
}

// explainPast explains a flow that was judged, by the policy of now and, in Then, by that of then.
func (d *Daemon) explainPast(past router.Flow) control.Explanation {
	facts, target := past.Facts, past.Facts.Dst.String()
	facts.Sniffed = true // what was not read by now will not be read
	var then control.Explanation
	if e, ok := d.rules.edition(past.Generation); ok {
		then = d.explainFlow(e, facts, target)
	} else {
		then = control.Explanation{
			Target: target, Rule: past.Verdict.Rule, Category: past.Verdict.Category, Generation: past.Generation,
			Because: fmt.Sprintf("that is what the flow's record says: policy %d is not remembered any more", past.Generation),
		}
	}
	// The record is what happened: a policy may be asked again, but not about what it did not know.
	then.Verdict, then.Via = action(past.Verdict)
	then.Rule, then.Category = past.Verdict.Rule, past.Verdict.Category
	facts.Time = time.Now()
	x := d.explainFlow(d.rules.now.Load(), facts, target)
	x.Resolver = d.resolverLine(facts)
	x.Then = &then
	return x
}

// hypothetical makes the facts of a flow that nobody has sent, and says how its name is resolved. Its address is asked
// for as the client would.
func (d *Daemon) hypothetical(ctx context.Context, q control.ExplainQuery) (f policy.Flow, resolver string, err error) {
	target := q.Target
	if q.Protocol != "" && !strings.Contains(target, "://") {
		target = q.Protocol + "://" + target
	}
	client, err := d.client(q.From)
	if err != nil {
		return f, "", err
	}
	t := policy.Test{To: target, At: q.At}
	if f, err = t.Flow(nil); err != nil {
		return f, "", err
	}
	if f.Time.IsZero() {
		f.Time = time.Now()
	}
	f.Src = client
	f.Peer, f.Groups, _ = d.describe(client.Addr())
	if q.SNI != "" {
		host, err := policy.CanonicalName(q.SNI)
		if err != nil {
			return f, "", err
		}
		from := policy.FromSNI
		if f.Network == policy.UDP {
			from = policy.FromQUIC
		}
		names := f.Names[:0]
		for _, n := range f.Names {
			if n.From == policy.FromDNS {
				names = append(names, n)
			}
		}
		f.Names = append(names, policy.Name{Host: host, From: from})
	}
	if f.Dst.Addr().IsValid() || len(f.Names) == 0 {
		return f, "", nil
	}
	addr, resolver := d.resolved(ctx, f)
	f.Dst = netip.AddrPortFrom(addr, f.Dst.Port())
	return f, resolver, nil
}

// resolved asks the DNS server for a flow's name as its client would, and says what comes of that.
func (d *Daemon) resolved(ctx context.Context, f policy.Flow) (netip.Addr, string) {
	line := d.resolverLine(f)
	for _, qtype := range []string{"A", "AAAA"} {
		a, err := d.dns.Query(ctx, f.Src, f.Names[0].Host, qtype)
		switch {
		case err != nil:
			return netip.Addr{}, line + ": " + err.Error()
		case a.Verdict.Action != policy.Forward && a.Decided != "":
			return netip.Addr{}, fmt.Sprintf("%s for %s by rule %s; else %s", cmp.Or(a.Rcode, "silence"), a.Decided, a.Verdict.Rule, line)
		}
		for _, record := range a.Records {
			fields := strings.Fields(record)
			if addr, err := netip.ParseAddr(fields[len(fields)-1]); err == nil {
				return addr, line
			}
		}
		if qtype == "AAAA" {
			line += ": " + a.Rcode + ", no address"
		}
	}
	return netip.Addr{}, line
}

// explainFlow asks a policy, by the live engine, and adds where its answer leads.
func (d *Daemon) explainFlow(ed *edition, f policy.Flow, target string) control.Explanation {
	v := d.rules.onNetwork(ed.policy, f, ed.policy.Decide(f))
	e := ed.policy.Explain(f)
	x := control.Explanation{
		Target: target, Rule: v.Rule, Category: v.Category, Protocol: f.Network.String(), Peer: f.Peer, Groups: f.Groups,
		Position: e.Pos.String(), Because: e.Because, Transport: d.transportLine(v), Generation: ed.number,
		Hits: d.listHits(ed.lists, f), Shadowed: e.Shadowed,
	}
	x.Verdict, x.Via = action(v)
	for _, n := range f.Names {
		x.Names = append(x.Names, control.Name{Host: n.Host, Source: n.From.String()})
	}
	if f.Dst.Addr().IsValid() {
		x.Addresses = []string{f.Dst.Addr().String()}
	}
	x.Datapath = "terminated: every flow ends in the stack and is dialled again"
	x.Notes = append(e.WouldTurn, d.whatIf(ed.policy, f, v)...)
	return x
}

// transportLine says how the way is that a verdict leads to.
func (d *Daemon) transportLine(v policy.Verdict) string {
	if t := d.egress.tunnels[v.Egress]; t != nil {
		return verdict(t.Health(), "")
	}
	if g := d.egress.groups[v.Egress]; g != nil {
		return verdict(g.Current().Health(), "")
	}
	return ""
}

// resolverLine says who answers for the name that a flow is judged by.
func (d *Daemon) resolverLine(f policy.Flow) string {
	if len(f.Names) == 0 {
		return ""
	}
	host, c := f.Names[0].Host, d.naming.inForce()
	best, line := -1, ""
	for _, z := range c.Zones {
		for _, domain := range z.Domains {
			domain = strings.TrimPrefix(domain, "*.")
			if (host == domain || strings.HasSuffix(host, "."+domain)) && len(domain) > best {
				best, line = len(domain), fmt.Sprintf("%s via %s, for %s", z.Upstreams[0].Address, z.Upstreams[0].Via, domain)
			}
		}
	}
	if best < 0 && len(c.Upstreams) > 0 {
		line = fmt.Sprintf("%s via %s", c.Upstreams[0].Address, c.Upstreams[0].Via)
	}
	return line
}

// listHits are the lines of lists that speak of a flow's names or its address.
func (d *Daemon) listHits(content *lists.Content, f policy.Flow) []control.ListHit {
	var hits []control.ListHit
	seen := make(map[string]bool)
	for _, n := range f.Names {
		if !seen[n.Host] {
			seen[n.Host] = true
			hits = append(hits, d.lookupIn(content, n.Host)...)
		}
	}
	if f.Dst.Addr().IsValid() {
		hits = append(hits, d.lookupIn(content, f.Dst.Addr().String())...)
	}
	return hits
}

// lookup finds a name or address in the lists of the categories in use.
func (d *Daemon) lookup(host string) []control.ListHit {
	return d.lookupIn(d.rules.now.Load().lists, host)
}

func (d *Daemon) lookupIn(content *lists.Content, host string) []control.ListHit {
	found, err := content.Find(host)
	if err != nil {
		d.log.Warn("a list could not be read again", "err", err)
	}
	hits := make([]control.ListHit, 0, len(found))
	for _, h := range found {
		hits = append(hits, control.ListHit{Category: h.Category, List: h.List, Line: h.Line, Entry: h.Text, Allow: h.Allow})
	}
	return hits
}
