package report

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"penstock/cmd/internal/control"
	"penstock/cmd/internal/edition"
	"penstock/cmd/internal/egress"
	"penstock/cmd/internal/lists"
	"penstock/dnsproxy"
	"penstock/policy"
	"penstock/router"
	"penstock/router/clients"
	"penstock/router/hostnet/direct"
)

// Policy explains verdicts and lists rules.
type Policy struct {
	Live   *edition.Live
	Egress *egress.Egress
	DNS    *DNS
	Flows  *Flows
	// Place returns where dst is, seen from this host, for a flow of the client.
	Place func(client uint64, dst netip.Addr) policy.Place
	// Others are the networks of other VPNs on this machine. May be nil.
	Others *direct.Others
	Log    *slog.Logger
}

// Explain says what would happen to a flow. For a flow that has been judged, it says what happened then and what would
// happen now. It changes nothing: its DNS look-ups are neither cached nor remembered.
func (p *Policy) Explain(ctx context.Context, q control.ExplainQuery) (control.Explanation, error) {
	if q.Flow != "" {
		past, err := p.Flows.find(q.Flow)
		if err != nil {
			return control.Explanation{}, err
		}
		return p.explainPast(past), nil
	}
	facts, resolver, err := p.hypothetical(ctx, q)
	if err != nil {
		return control.Explanation{}, err
	}
	facts, note := p.believe(ctx, facts)
	x := p.explain(p.Live.Now(), facts, q.Target)
	x.Resolver = resolver
	if note != "" {
		x.Notes = append([]string{note}, x.Notes...)
	}
	return x, nil
}

// explainPast explains a flow that was judged: by the current edition and, in Then, by the edition that judged it.
func (p *Policy) explainPast(past router.Flow) control.Explanation {
	facts, target := past.Facts, past.Facts.Dst.String()
	facts.Sniffed = true // no further name will be read in it
	var then control.Explanation
	if e, ok := p.Live.Edition(past.Verdict.Edition); ok {
		then = p.explain(e, facts, target)
	} else {
		then = control.Explanation{
			Target: target, Generation: past.Verdict.Edition,
			Because: fmt.Sprintf("edition %d of the policy is no longer kept, so only the record of the flow is shown", past.Verdict.Edition),
		}
	}
	// Show the recorded verdict. The old policy may answer differently now, because conditions have changed.
	then.Verdict, then.Via = words(past.Verdict)
	then.Rule, then.Category = past.Verdict.Rule, past.Verdict.Category
	facts.Time = time.Now()
	p.Live.Describe(&facts)
	x := p.explain(p.Live.Now(), facts, target)
	x.Resolver = p.DNS.resolverOf(facts)
	x.Then = &then
	return x
}

// hypothetical returns the facts of a flow that nobody has sent, and who resolves its name. It resolves the name as the
// client would.
func (p *Policy) hypothetical(ctx context.Context, q control.ExplainQuery) (f policy.Flow, resolver string, err error) {
	target := q.Target
	if q.Protocol != "" && !strings.Contains(target, "://") {
		target = q.Protocol + "://" + target
	}
	t := policy.Test{To: target, At: q.At, Process: q.Process, Unit: q.Unit, Container: q.Container}
	if f, err = t.Flow(nil); err != nil {
		return f, "", err
	}
	if f.Time.IsZero() {
		f.Time = time.Now()
	}
	f.Time = f.Time.Local() // schedules are of this machine's clock, whatever zone was asked in
	if f.Client, f.Src, err = client(p.Live.Now(), q.From); err != nil {
		return f, "", err
	}
	p.Live.Describe(&f)
	if q.SNI != "" {
		host, err := policy.CanonicalName(q.SNI)
		if err != nil {
			return f, "", err
		}
		from := policy.FromSNI
		if f.Network == policy.UDP {
			from = policy.FromQUIC
		}
		f.Names = slices.DeleteFunc(f.Names, func(n policy.Name) bool { return n.From != policy.FromDNS })
		f.Names = append(f.Names, policy.Name{Host: host, From: from})
	}
	if !f.Dst.Addr().IsValid() && len(f.Names) > 0 {
		var addr netip.Addr
		addr, resolver = p.DNS.look(ctx, f)
		f.Dst = netip.AddrPortFrom(addr, f.Dst.Port())
	}
	f.Place = p.Place(f.Client, f.Dst.Addr())
	return f, resolver, nil
}

// believe looks up a name that a flow claims with our resolver, as the router does, and adds the answer to the facts.
func (p *Policy) believe(ctx context.Context, f policy.Flow) (policy.Flow, string) {
	v := p.Live.Decide(f)
	if v.Claim == "" || !f.Dst.Addr().IsValid() {
		return f, ""
	}
	addrs := p.DNS.addresses(ctx, f, v.Claim)
	if len(addrs) == 0 {
		return f, fmt.Sprintf("our resolver gives no address for %s", v.Claim)
	}
	g := f.Confirmed(v.Claim, addrs)
	g.Place = p.Place(g.Client, g.Dst.Addr())
	note := fmt.Sprintf("our resolver gives the address for %s", v.Claim)
	if g.Dst != f.Dst {
		note = fmt.Sprintf("our resolver gives %s for %s, so the flow is dialled there", g.Dst.Addr(), v.Claim)
	}
	if w := p.Live.Decide(g); w.Claim != "" {
		return f, ""
	}
	return g, note
}

// explain asks the policy of an edition under the current conditions. It adds the state of the transport, the list entries
// that match, and what would change the verdict.
func (p *Policy) explain(ed *edition.Edition, f policy.Flow, target string) control.Explanation {
	f.Now = p.Live.Conditions()
	e := ed.Policy.Explain(f)
	v := e.Decided
	x := control.Explanation{
		Target: target, Rule: v.Rule, Category: v.Category, Protocol: f.Network.String(), Peer: f.Peer, Groups: f.Groups,
		Position: e.Pos.String(), Because: e.Because, Transport: p.transportLine(v), Generation: ed.Number,
		Hits: p.listHits(ed.Lists, f), Shadowed: e.Shadowed,
	}
	x.Verdict, x.Via = words(v)
	x.Sender = senderOf(f)
	for _, n := range f.Names {
		x.Names = append(x.Names, control.Name{Host: n.Host, Source: n.From.String()})
	}
	if f.Dst.Addr().IsValid() {
		x.Addresses = []string{f.Dst.Addr().String()}
	}
	x.Datapath = p.datapath(ed, f, v)
	notes, changes := whatIf(ed, f, v)
	for _, rule := range e.Lifted {
		x.Notes = append(x.Notes, fmt.Sprintf("rule %s would block it, but a decision or a pause lifts the rule", rule))
	}
	x.Notes, x.Changes = slices.Concat(x.Notes, e.WouldTurn, notes), changes
	if other, ok := p.Others.Of(f.Dst.Addr().Unmap()); ok {
		if v.Action == policy.Forward && v.Egress == policy.EgressDirect {
			x.Datapath += ", by " + other.Interface + ", because another VPN leads " + other.Network.String() + " there (table " + strconv.Itoa(other.Table) + ")"
		} else {
			x.Notes = append(x.Notes, "another VPN leads "+other.String()+": a rule with do: direct lets flows go there")
		}
	}
	return x
}

// datapath returns how the flow would be carried, and why; "" if it would not be carried.
func (p *Policy) datapath(ed *edition.Edition, f policy.Flow, v policy.Verdict) string {
	if v.Action != policy.Forward {
		return ""
	}
	path, why := router.PathOf(atFirst(ed, f, v))
	switch {
	case ed.Config.Datapath == "terminate":
		path, why = router.Terminated, "the configuration says datapath: terminate"
	case v.Egress == policy.EgressDNS || v.Egress == policy.EgressPeers || v.Egress == policy.EgressDirect && p.Egress.Kernel() == nil:
		path, why = router.Terminated, "only transports carry packets"
	case path != router.Terminated:
		if wont := p.wontCross(f, v); wont != "" {
			path, why = router.Terminated, wont
		}
	}
	return path.String() + ": " + why
}

// atFirst returns what decides how a flow is carried: its facts as of its first packet, when it has not shown a name, and their verdict.
func atFirst(ed *edition.Edition, f policy.Flow, v policy.Verdict) (policy.Flow, policy.Verdict, func(policy.Flow) policy.Verdict) {
	first := f
	first.Sniffed = f.Network == policy.ICMP
	first.Names = slices.DeleteFunc(slices.Clone(f.Names), func(n policy.Name) bool { return n.From != policy.FromDNS })
	if w := ed.Policy.Decide(first); w.Action == policy.Forward {
		return first, w, ed.Policy.Decide
	}
	return f, v, ed.Policy.Decide
}

// wontCross says why the packets of a flow cannot cross to its egress; "" if they can.
func (p *Policy) wontCross(f policy.Flow, v policy.Verdict) string {
	dst := f.Dst.Addr()
	_, ok := p.Egress.Carrier(v.Egress, f.Network, dst)
	switch {
	case !ok && v.Egress == policy.EgressDirect && !dst.IsValid():
		return p.Egress.Kernel().Reason(f.Network, dst)
	case ok || !dst.IsValid():
		return ""
	case v.Egress == policy.EgressDirect:
		return cmp.Or(p.Egress.Kernel().Reason(f.Network, dst), "only a socket of penstock may go there")
	}
	return "the transport is not up, or has no address of this family"
}

// transportLine returns the state of the transport that a verdict uses, or "" if it uses none.
func (p *Policy) transportLine(v policy.Verdict) string {
	if t, ok := p.Egress.Serving(v.Egress); ok {
		return line(t.Health())
	}
	return ""
}

// listHits returns the lines of lists that match a flow's names or its address.
func (p *Policy) listHits(content *lists.Content, f policy.Flow) []control.ListHit {
	var hits []control.ListHit
	seen := make(map[string]bool)
	for _, n := range f.Names {
		if !seen[n.Host] {
			seen[n.Host] = true
			hits = append(hits, find(content, n.Host, p.Log)...)
		}
	}
	if f.Dst.Addr().IsValid() {
		hits = append(hits, find(content, f.Dst.Addr().String(), p.Log)...)
	}
	return hits
}

// client finds the sender that a query names: this machine, a peer, or the owner of an address.
func client(ed *edition.Edition, name string) (key uint64, src netip.AddrPort, err error) {
	if name == "" {
		src := netip.AddrPortFrom(netip.IPv4Unspecified(), 0)
		if t := ed.Config.Listen.TUN; t != nil && len(t.Address) > 0 {
			src = netip.AddrPortFrom(t.Address[0].Addr(), 0)
		}
		return clients.Machine, src, nil
	}
	if a, err := netip.ParseAddr(name); err == nil {
		return ed.Clients.Key(a), netip.AddrPortFrom(a, 0), nil
	}
	key, addr, ok := ed.Clients.Named(name)
	if !ok {
		return 0, netip.AddrPort{}, fmt.Errorf("there is no peer %q, or it may not connect: see penstock peer list", name)
	}
	if !addr.IsValid() { // it has no tunnel
		addr = netip.IPv4Unspecified()
	}
	return key, netip.AddrPortFrom(addr, 0), nil
}

// DNS explains how names are resolved.
type DNS struct {
	Server *dnsproxy.Server
	Live   *edition.Live
	// Settings returns the current settings.
	Settings func() dnsproxy.Settings
	Log      *slog.Logger
}

// DNSQuery says how a question would be answered. It does not store the answer.
func (d *DNS) DNSQuery(ctx context.Context, q control.DNSQuery) (control.DNSAnswer, error) {
	now := d.Live.Now()
	var f policy.Flow
	var err error
	if f.Client, f.Src, err = client(now, q.From); err != nil {
		return control.DNSAnswer{}, err
	}
	d.Live.Describe(&f)
	if strings.Contains(q.Name, "://") {
		return control.DNSAnswer{}, fmt.Errorf("%q is a URL: write the name of its host alone", q.Name)
	}
	a, err := d.Server.Query(ctx, f, spelled(q.Name), q.Type)
	if err != nil {
		return control.DNSAnswer{}, err
	}
	res := control.DNSAnswer{
		Name: a.Name, Type: a.Type, Rcode: a.Rcode, Answers: a.Records, Reason: a.Reason, Rule: a.Verdict.Rule, Category: a.Verdict.Category,
		Source: a.Source, Upstream: a.Upstream, Cache: a.Cache, Cached: a.Cache == "hit" || a.Cache == "stale", Took: a.Duration.Seconds(),
	}
	if host, err := policy.CanonicalName(q.Name); err == nil && a.Decided != "" && a.Decided != host {
		res.Decided = a.Decided
	}
	switch {
	case a.Hidden:
		res.Reason = whyHidden(a)
	case special(a):
		res.Reason = "a name for special use: penstock answers it by itself"
	}
	if a.Decided != "" {
		res.Hits = find(now.Lists, a.Decided, d.Log)
	}
	return res, nil
}

// spelled returns a name as programs ask for it, which have put it into ASCII.
func spelled(name string) string {
	if host, err := policy.CanonicalName(name); err == nil && strings.ContainsFunc(name, func(r rune) bool { return r > unicode.MaxASCII }) {
		return host
	}
	return name
}

// special reports whether a name is answered without an upstream because of what it is, before any rule is asked.
func special(a dnsproxy.Answer) bool {
	return a.Result == "local" && a.Verdict.Rule == "" && (a.Rcode == "NOERROR" || a.Rcode == "NXDOMAIN")
}

// whyHidden says why a client is not told of a name: for an address, or by the name of a host that it leads to.
func whyHidden(a dnsproxy.Answer) string {
	to := a.Decided
	if a.Withheld.IsValid() {
		to = a.Withheld.String()
	}
	return "hidden: no flow of the client may go to " + to
}

// DNSFlush empties the cache.
func (d *DNS) DNSFlush(context.Context) error {
	d.Server.Flush()
	return nil
}

// look resolves a flow's name as its client would, and says who answered. The address is invalid if there is none.
func (d *DNS) look(ctx context.Context, f policy.Flow) (netip.Addr, string) {
	line := d.resolverOf(f)
	var first netip.Addr // that is withheld: the flow is explained as one to it
	var from string
	for _, qtype := range []string{"A", "AAAA"} {
		a, err := d.Server.Query(ctx, f, f.Names[0].Host, qtype)
		switch {
		case err != nil:
			return netip.Addr{}, line + ": " + err.Error()
		case special(a):
			line = "penstock itself: the name is for special use"
		case a.Withheld.IsValid() && !first.IsValid():
			first, from = a.Withheld, fmt.Sprintf("its addresses are withheld by rule %s; else %s", a.Verdict.Rule, line)
			continue
		case a.Withheld.IsValid():
			continue
		case a.Verdict.Action != policy.Forward && a.Decided != "":
			return netip.Addr{}, fmt.Sprintf("%s for %s by rule %s; else %s", cmp.Or(a.Rcode, "no answer"), a.Decided, a.Verdict.Rule, line)
		}
		if addrs := addressesIn(a); len(addrs) > 0 {
			return addrs[0], line
		}
		if qtype == "AAAA" {
			line += ": " + a.Rcode + ", no address"
		}
	}
	if first.IsValid() {
		return first, from
	}
	return netip.Addr{}, line
}

// addresses returns a host's addresses, of the family of a flow's destination.
func (d *DNS) addresses(ctx context.Context, f policy.Flow, host string) []netip.Addr {
	qtype := "A"
	if f.Dst.Addr().Is6() {
		qtype = "AAAA"
	}
	a, err := d.Server.Query(ctx, f, host, qtype)
	if err != nil {
		return nil
	}
	return addressesIn(a)
}

// addressesIn returns the addresses among the records of an answer.
func addressesIn(a dnsproxy.Answer) []netip.Addr {
	var list []netip.Addr
	for _, record := range a.Records {
		fields := strings.Fields(record)
		if addr, err := netip.ParseAddr(fields[len(fields)-1]); err == nil {
			list = append(list, addr)
		}
	}
	return list
}

// resolverOf returns the upstream that answers for the name that a flow is judged by, or where a name of our own comes from.
func (d *DNS) resolverOf(f policy.Flow) string {
	if len(f.Names) == 0 {
		return ""
	}
	host, s := f.Names[0].Host, d.Settings()
	if own := s.Records.Find(host); own != nil {
		return own.From
	}
	best, line := -1, ""
	for _, z := range s.Zones {
		for _, domain := range z.Domains {
			domain = strings.TrimPrefix(domain, "*.")
			if (host == domain || strings.HasSuffix(host, "."+domain)) && len(domain) > best {
				best, line = len(domain), fmt.Sprintf("%s via %s, for %s", z.Upstreams[0].Address, z.Upstreams[0].Via, domain)
			}
		}
	}
	if best < 0 && len(s.Upstreams) > 0 {
		line = fmt.Sprintf("%s via %s", s.Upstreams[0].Address, s.Upstreams[0].Via)
	}
	return line
}
