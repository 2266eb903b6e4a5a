package daemon

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"penstock/cmd/internal/control"
	"penstock/cmd/internal/lists"
	"penstock/policy"
)

// explain tells what would be done with a flow, or what was done with one and what would be done now.
func (d *Daemon) explain(ctx context.Context, q control.ExplainQuery) (control.Explanation, error) {
	if q.Flow != "" {
		past, err := d.findFlow(q.Flow)
		if err != nil {
			return control.Explanation{}, err
		}
		facts := past.Facts
		facts.Sniffed = true
		x := d.explainFlow(facts, past.Facts.Dst.String())
		was, via := action(past.Verdict)
		if via != "" {
			was += " " + via
		}
		x.Notes = append([]string{fmt.Sprintf("flow %s was judged by policy %d: %s, rule %s; what stands above is policy %d",
			q.Flow, past.Generation, was, past.Verdict.Rule, d.rules.generation())}, x.Notes...)
		return x, nil
	}
	facts, err := d.hypothetical(ctx, q)
	if err != nil {
		return control.Explanation{}, err
	}
	return d.explainFlow(facts, q.Target), nil
}

// hypothetical makes the facts of a flow that nobody has sent. A name's address is asked for as the client would.
func (d *Daemon) hypothetical(ctx context.Context, q control.ExplainQuery) (policy.Flow, error) {
	target := q.Target
	if q.Protocol != "" && !strings.Contains(target, "://") {
		target = q.Protocol + "://" + target
	}
	client, err := d.client(q.From)
	if err != nil {
		return policy.Flow{}, err
	}
	t := policy.Test{To: target, At: q.At}
	f, err := t.Flow(nil)
	if err != nil {
		return f, err
	}
	if f.Time.IsZero() {
		f.Time = time.Now()
	}
	f.Src = client
	f.Peer, f.Groups, _ = d.describe(client.Addr())
	if q.SNI != "" {
		host, err := policy.CanonicalName(q.SNI)
		if err != nil {
			return f, err
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
	if !f.Dst.Addr().IsValid() && len(f.Names) > 0 {
		if a, err := d.dns.Query(ctx, client, f.Names[0].Host, "A"); err == nil {
			for _, record := range a.Records {
				fields := strings.Fields(record)
				if addr, err := netip.ParseAddr(fields[len(fields)-1]); err == nil {
					f.Dst = netip.AddrPortFrom(addr, f.Dst.Port())
					break
				}
			}
		}
	}
	return f, nil
}

// explainFlow asks the live policy, by the live engine, and adds where its answer leads.
func (d *Daemon) explainFlow(f policy.Flow, target string) control.Explanation {
	p := d.rules.current()
	v := d.rules.onNetwork(p, p.Decide(f))
	e := p.Explain(f)
	x := control.Explanation{
		Target: target, Rule: v.Rule, Category: v.Category, Protocol: f.Network.String(), Peer: f.Peer,
		Groups: f.Groups, Position: e.Pos.String(), Transport: d.transportLine(v),
	}
	x.Verdict, x.Via = action(v)
	for _, n := range f.Names {
		x.Names = append(x.Names, control.Name{Host: n.Host, Source: n.From.String()})
	}
	if f.Dst.Addr().IsValid() {
		x.Addresses = []string{f.Dst.Addr().String()}
	}
	x.Hits = d.listHits(d.rules.now.Load().lists, f)
	x.Resolver = d.resolverLine(f)
	x.Datapath = "terminated: every flow ends in the stack and is dialled again"
	x.Notes = append(x.Notes, e.Because)
	if len(e.Shadowed) > 0 {
		x.Notes = append(x.Notes, "later rules that match as well: "+strings.Join(e.Shadowed, ", "))
	}
	x.Notes = append(x.Notes, e.WouldTurn...)
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
