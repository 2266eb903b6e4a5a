package edition

import (
	"net/netip"
	"slices"
	"strings"

	"penstock/cmd/internal/config"
	"penstock/cmd/internal/egress"
	"penstock/policy"
)

// FollowsRoutes reports whether a rule leaves to the host's network what a transport's server does not route.
func (e *Edition) FollowsRoutes(transport string) bool {
	return slices.ContainsFunc(e.Config.Rules, func(r config.Rule) bool { return r.Do.Via == transport && r.Do.Unrouted == "direct" })
}

// Followed completes what transports say about DNS, where rules follow their routes. A server that is pushed without a route
// to it is asked directly. If a transport leaves the rest of IPv4 to the host's network, and nobody named a server for all
// names, those of the network are asked, as if there was no tunnel. network returns them. Names of the intranet are not asked
// there: servers that are only for some domains are for those too.
func (e *Edition) Followed(naming []egress.Naming, now *policy.Conditions, network func() []netip.Addr) []egress.Naming {
	var list []egress.Naming
	var intranet []string // DNS knows no wildcards: a zone has what is below it
	for _, domain := range e.Config.Intranet {
		intranet = append(intranet, strings.TrimPrefix(domain, "*."))
	}
	split, general := false, len(e.Config.DNS.Upstreams) > 0
	for _, n := range naming {
		follows := e.FollowsRoutes(n.Transport)
		split = split || follows && now.LeavesOut(n.Transport, netip.IPv4Unspecified())
		n.Servers = slices.Clone(n.Servers)
		for i := range n.Servers {
			s := &n.Servers[i]
			general = general || len(s.Domains) == 0
			if follows && len(s.Domains) > 0 {
				s.Domains = slices.Concat(s.Domains, intranet)
			}
			if follows && len(s.Bootstrap) > 0 {
				s.Direct = s.Direct || now.LeavesOut(n.Transport, s.Bootstrap[0])
			}
		}
		list = append(list, n)
	}
	if !split || general {
		return list
	}
	var rest egress.Naming
	for _, a := range network() {
		rest.Servers = append(rest.Servers, egress.Server{Address: a.String(), Direct: true})
	}
	return append(list, rest)
}
