package dnsproxy

import (
	"fmt"
	"net/netip"
	"sync"

	"penstock/dnsproxy/upstream"
	"penstock/policy"
)

// state is a plan with its live upstreams.
type state struct {
	*Plan
	groups    []*upstream.Group // of the plan's pools
	upstreams map[upstreamKey]*upstream.Upstream
}

// upstreamKey identifies an upstream across plans: one with the same key keeps its connections.
type upstreamKey struct{ name, address, via, bootstrap string }

// bind finds or makes the upstreams of a plan.
func (s *Server) bind(p *Plan, old *state) *state {
	cfg := upstream.Config{
		Dialer: s.cfg.Dialer, Resolve: s.cfg.Resolve, Refuse: s.leadsBack, Go: s.tasks.spawn,
		RootCAs: s.cfg.RootCAs, Log: s.cfg.Log, Metrics: s.cfg.Metrics.upstreams(),
	}
	st := &state{Plan: p, upstreams: map[upstreamKey]*upstream.Upstream{}}
	for _, pool := range p.pools {
		var members []*upstream.Upstream
		for _, t := range pool {
			key := upstreamKey{t.Name, t.Address, t.Via, fmt.Sprint(t.Bootstrap)}
			u := st.upstreams[key]
			if u == nil && old != nil {
				u = old.upstreams[key]
			}
			if u == nil {
				u = upstream.New(cfg, t)
			}
			st.upstreams[key] = u
			members = append(members, u)
		}
		st.groups = append(st.groups, upstream.NewGroup(members, p.settings.Select, s.tasks.spawn))
	}
	return st
}

// group returns the upstreams that answer for a view.
func (st *state) group(v *view) *upstream.Group { return st.groups[v.pool] }

// leadsBack reports whether addr leads to this server.
func (s *Server) leadsBack(addr netip.AddrPort) bool { return s.state.Load().self(addr) }

// decideName judges a name for the client of ex.
func (r *resolver) decideName(ex *exchange, host string) policy.Verdict {
	if r.cfg.Policy == nil {
		return policy.Verdict{Action: policy.Forward}
	}
	ex.names[0] = policy.Name{Host: host, From: policy.FromQuestion}
	f := &ex.flow
	f.Network, f.Dst, f.Sniffed, f.Names = policy.NetworkUnknown, netip.AddrPort{}, false, ex.names[:]
	return r.cfg.Policy.DecideName(*f)
}

// decideAddr judges an address in an answer for host: it is blocked if every flow of the client to it would be.
func (r *resolver) decideAddr(ex *exchange, host string, addr netip.Addr) policy.Verdict {
	ex.names[0] = policy.Name{Host: host, From: policy.FromQuestion}
	f := &ex.flow
	f.Network, f.Dst, f.Sniffed, f.Names = policy.NetworkUnknown, netip.AddrPortFrom(addr, 0), false, ex.names[:]
	return r.cfg.Policy.DecideName(*f)
}

// decideHint judges an address hint in an answer for host, as the flow that a browser would open to it.
func (r *resolver) decideHint(ex *exchange, host string, addr netip.Addr) policy.Verdict {
	if r.cfg.Policy == nil {
		return policy.Verdict{Action: policy.Forward}
	}
	ex.names[0] = policy.Name{Host: host, From: policy.FromDNS}
	f := &ex.flow
	f.Network, f.Dst, f.Sniffed, f.Names = policy.TCP, netip.AddrPortFrom(addr, 443), true, ex.names[:]
	return r.cfg.Policy.Decide(*f)
}

func (r *resolver) noIPv6(egress string) bool { return r.cfg.NoIPv6 != nil && r.cfg.NoIPv6(egress) }

// describe returns the facts about a client on a host socket.
func (s *Server) describe(client netip.AddrPort) policy.Flow {
	var f policy.Flow
	if s.cfg.Clients != nil {
		f = s.cfg.Clients.Describe(client)
	}
	f.Src = client
	return f
}

// loops remembers which upstreams lead back here, so that each is logged once.
type loops struct {
	mu   sync.Mutex      // guards below
	seen map[uint64]bool // by view
}

// first reports whether this is the first loop of a view.
func (l *loops) first(view uint64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.seen[view] {
		return false
	}
	if l.seen == nil {
		l.seen = map[uint64]bool{}
	}
	l.seen[view] = true
	return true
}
