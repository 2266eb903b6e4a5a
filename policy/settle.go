package policy

import (
	"net/netip"
	"slices"

	"penstock/policy/iprange"
)

// settle turns a judgement into a verdict by adding the facts about the host and its network. It never lifts a block.
func (s judge) settle(j judgement) Verdict {
	v, r, m := j.verdict, &s.policy.rules[j.rule], &s.policy.matchers[j.rule]
	v.Edition, v.ByName = s.policy.edition, m.byName
	place := s.flow.place()
	if s.question && place != AtPeer {
		place = Elsewhere // where the flow will go is not known yet
	}
	if place == Inside { // even if blocked: nobody is there to receive a refusal
		v.Action, v.Egress, v.Later, v.Claim, v.Cause = Drop, "", LaterNothing, "", ByLoop
		return v
	}
	if place == AtPeer && v.Egress != EgressDNS && v.Egress != EgressPeers { // even if blocked, so that an attempt at a peer is told as one
		v.Egress, v.Later, v.Claim, v.Cause = "", LaterNothing, "", ByPeers
		if v.Action == Forward {
			v.Action = Refuse
		}
		return v
	}
	if v.Action != Forward {
		if r.Do.SignIn != "" && v.Cause == ByRule {
			v.Cause, v.SignIn = BySignIn, r.Do.SignIn
		}
		return v
	}
	if place.guarded() && v.Egress != EgressDNS && !m.gateway {
		v.Action, v.Egress, v.Later, v.Cause = Refuse, "", LaterNothing, ByGuard
		return v
	}
	now := s.flow.Now
	if now != nil && now.OverQuota[s.flow.Peer] && s.costs(v, place) {
		v.Action, v.Egress, v.Later, v.Claim, v.Cause = Refuse, "", LaterNothing, "", ByQuota
		return v
	}
	if isOwn(v.Egress) {
		return v
	}
	switch {
	case r.Do.FallbackDirect && s.flow.Down == v.Egress:
		v.Egress, v.Cause = EgressDirect, ByFallback
	case now == nil:
	case now.Trusted && r.Do.TrustedDirect:
		v.Egress, v.Cause = EgressDirect, ByTrusted
	case r.Do.UnroutedDirect && now.LeavesOut(v.Egress, s.flow.Dst.Addr()):
		v.Egress, v.Cause = EgressDirect, ByRoutes
	case r.Do.UnroutedDirect && now.names(v.Egress, s.flow.Dst.Addr()): // like a rule with that network: no portal opens it
	case now.Portal != nil && !m.inside && now.Portal.admits(&s.flow):
		v.Egress, v.Cause = EgressDirect, ByPortal
	}
	return v
}

// costs reports whether a flow that is forwarded needs a quota. Questions, and what is on the gateway itself, do not: they may tell
// somebody why nothing else works.
func (s judge) costs(v Verdict, place Place) bool {
	return !s.question && v.Egress != EgressDNS && place != Service && place != Host
}

// isOwn reports whether an egress is one that every configuration has.
func isOwn(egress string) bool {
	return egress == EgressDirect || egress == EgressDNS || egress == EgressPeers || egress == EgressSignIn
}

// Confirmed returns a copy of f in which the claimed name host counts, because our resolver returned addrs for it. If the
// destination that the client chose is not among addrs, the copy goes to addrs[0], and names that DNS gave for the old
// destination are removed. The caller must set Flow.Place. addrs must not be empty.
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

// place returns f.Place, or Reserved for a reserved address that the caller did not place.
func (f *Flow) place() Place {
	if f.Place == Elsewhere && f.Dst.IsValid() && iprange.IsReserved(f.Dst.Addr()) {
		return Reserved
	}
	return f.Place
}

// admits reports whether a flow goes to the portal: over TCP and to one of its ports. If a name identifies the portal, the
// flow must have no other. An internal address, such as one of 10.0.0.0/8 or 100.64.0.0/10, must be in the access network
// itself, or the network could pass off a host of the intranet as its portal.
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

// IsInside reports whether the rule that decides the question f blocks it or has a condition on where the flow goes. A
// captive portal must not use the name of such a question: see Conditions.Portal.
func (p *Policy) IsInside(f Flow) bool {
	v := p.DecideName(f)
	i, ok := p.byName[v.Rule]
	return !ok || v.Action != Forward || p.matchers[i].inside
}
