package policy

import (
	"net/netip"
	"slices"

	"penstock/policy/iprange"
)

// settle completes the verdict of a judgement with what is true of the host and its network. What is blocked stays
// blocked.
func (s judge) settle(j judgement) Verdict {
	v, r, m := j.verdict, &s.policy.rules[j.rule], &s.policy.matchers[j.rule]
	v.Edition, v.ByName = s.policy.edition, m.byName
	place := s.flow.place()
	if s.question {
		place = Elsewhere // where the flow will go is not known yet
	}
	if place == Inside { // blocked or not: nobody is there to refuse
		v.Action, v.Egress, v.Later, v.Claim, v.Cause = Drop, "", LaterNothing, "", ByLoop
		return v
	}
	if v.Action != Forward {
		return v
	}
	if place.guarded() && v.Egress != EgressDNS && !m.gateway {
		v.Action, v.Egress, v.Later, v.Cause = Refuse, "", LaterNothing, ByGuard
		return v
	}
	if v.Egress == EgressDirect || v.Egress == EgressDNS {
		return v
	}
	now := s.flow.Now
	switch {
	case r.Do.FallbackDirect && s.flow.Down == v.Egress:
		v.Egress, v.Cause = EgressDirect, ByFallback
	case now == nil:
	case now.Trusted && r.Do.TrustedDirect:
		v.Egress, v.Cause = EgressDirect, ByTrusted
	case now.Portal != nil && !m.inside && now.Portal.admits(&s.flow):
		v.Egress, v.Cause = EgressDirect, ByPortal
	}
	return v
}

// Confirmed returns a flow that claims host as it is once our resolver has given addrs for that name: the name counts. If
// the resolver gives other addresses than the one that the client chose, the flow goes to the first of them, and what DNS
// gave for the old one does not apply. Flow.Place is left to the caller. addrs must not be empty.
func (f Flow) Confirmed(host string, addrs []netip.Addr) Flow {
	names := []Name{{Host: host, From: FromDNS}}
	same := slices.Contains(addrs, f.Dst.Addr())
	for _, n := range f.Names {
		if same || n.From.inFlow() {
			names = append(names, n)
		}
	}
	f.Names = names
	if !same {
		f.Dst = netip.AddrPortFrom(addrs[0], f.Dst.Port())
	}
	return f
}

// place is what the flow's destination is to this host. Reserved addresses are reserved wherever it stands.
func (f *Flow) place() Place {
	if f.Place == Elsewhere && f.Dst.IsValid() && iprange.IsReserved(f.Dst.Addr()) {
		return Reserved
	}
	return f.Place
}

// admits reports that a flow goes to the portal: over TCP, to one of its ports, and under no other name. An internal
// address, such as one of 10.0.0.0/8 or 100.64.0.0/10, is the portal's only within the access network itself: the network
// must not lend its name to a host of somebody's intranet.
func (p *Portal) admits(f *Flow) bool {
	if f.Network != TCP || !slices.Contains([]uint16{80, 443, p.Port}, f.Dst.Port()) {
		return false
	}
	dst := f.Dst.Addr().Unmap()
	if iprange.IsInternal(dst) && !containedBy(p.Local, dst) {
		return false
	}
	if p.Addr.IsValid() {
		return dst == p.Addr.Unmap()
	}
	given := false
	for _, n := range f.Names {
		if n.Host != p.Host {
			return false
		}
		given = given || n.From == FromDNS
	}
	return given
}

// IsInside reports whether a rule or the destination's range keeps a host to the transports, so that no captive portal
// may take its name: see Conditions.Portal. It is asked with the name of the portal.
func (p *Policy) IsInside(f Flow) bool {
	v := p.DecideName(f)
	i, ok := p.byName[v.Rule]
	return !ok || v.Action != Forward || p.matchers[i].inside
}
