package dnsproxy

import (
	"cmp"
	"errors"
	"fmt"
	"hash/maphash"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"penstock/policy"
)

const blockTTL = 30 * time.Second

// state is a compiled Config. It does not change; SetConfig puts another in its place.
type state struct {
	cfg     Config
	main    *view
	zones   map[string]*view // by domain
	allowed map[string]bool  // domains of AllowPrivate
	private *view            // main for names in AllowPrivate
	groups  []*group
}

// view is how the server sees the names that are sent to one group: an answer cached in one view is not used in another.
type view struct {
	*group
	id     uint64
	how    cleaning
	looped sync.Once // a loop is logged once
}

// compile checks cfg and fills its defaults.
func (s *Server) compile(cfg Config) (*state, error) {
	if cfg.Decide == nil {
		cfg.Decide = func(policy.Flow) policy.Verdict { return policy.Verdict{Action: policy.Forward} }
	}
	if cfg.Describe == nil {
		cfg.Describe = func(netip.AddrPort) policy.Flow { return policy.Flow{} }
	}
	if cfg.NoIPv6 == nil {
		cfg.NoIPv6 = func(string) bool { return false }
	}
	if cfg.NamesHosts == nil {
		cfg.NamesHosts = func(string) bool { return false }
	}
	if cfg.Blocked == nil {
		cfg.Blocked = func(policy.Verdict) {}
	}
	cfg.Block.TTL = cmp.Or(cfg.Block.TTL, blockTTL)
	cfg.Timeout = min(cmp.Or(cfg.Timeout, maxTimeout), maxTimeout)
	categories := make(map[string]BlockAnswer, len(cfg.BlockCategories))
	for name, answer := range cfg.BlockCategories {
		answer.TTL = cmp.Or(answer.TTL, blockTTL)
		categories[name] = answer
	}
	cfg.BlockCategories = categories

	st := &state{cfg: cfg, zones: map[string]*view{}, allowed: map[string]bool{}}
	m := maker{cfg: &st.cfg, spawn: s.tasks.spawn, refuse: st.self}
	own := slices.Clone(cfg.Block.Addrs)
	for _, answer := range categories {
		own = append(own, answer.Addrs...)
	}
	how := cleaning{own: own, noECH: cfg.StripECH}
	var errs []error
	main, err := st.group(m, cfg.Upstreams)
	errs = append(errs, err)
	st.main = newView(s.seed, main, cfg.Upstreams, how)
	how.private = true
	st.private = newView(s.seed, main, cfg.Upstreams, how)
	for _, domain := range cfg.AllowPrivate {
		name, err := domainOf(domain)
		st.allowed[name] = true
		errs = append(errs, err)
	}
	for _, zone := range cfg.Zones {
		errs = append(errs, st.addZone(s.seed, m, zone, how))
	}
	return st, errors.Join(errs...)
}

func (st *state) group(m maker, upstreams []Upstream) (*group, error) {
	g := &group{selection: st.cfg.Select, spawn: m.spawn, metrics: st.cfg.Metrics}
	st.groups = append(st.groups, g)
	var errs []error
	for _, u := range upstreams {
		made, err := m.upstream(u)
		g.upstreams = append(g.upstreams, made)
		errs = append(errs, err)
	}
	return g, errors.Join(errs...)
}

func (st *state) addZone(seed maphash.Seed, m maker, zone Zone, how cleaning) error {
	if len(zone.Upstreams) == 0 {
		return fmt.Errorf("dnsproxy: zone %q: no upstream", zone.Domains)
	}
	g, err := st.group(m, zone.Upstreams)
	errs := []error{err}
	v := newView(seed, g, zone.Upstreams, how)
	for _, domain := range zone.Domains {
		name, err := domainOf(domain)
		if err == nil && st.zones[name] != nil {
			err = fmt.Errorf("dnsproxy: zone %q is there twice", domain)
		}
		errs = append(errs, err)
		st.zones[name] = v
	}
	return errors.Join(errs...)
}

// newView gives a group an id that is the same whenever the same upstreams are asked and their answers treated the same way.
func newView(seed maphash.Seed, g *group, upstreams []Upstream, how cleaning) *view {
	var h maphash.Hash
	h.SetSeed(seed)
	for _, u := range upstreams {
		fmt.Fprintf(&h, "%q %q %q;", u.Name, u.Address, u.Via)
	}
	fmt.Fprintf(&h, "%v", how)
	return &view{group: g, id: h.Sum64(), how: how}
}

// domainOf returns the canonical form of a configured domain; "." is the root.
func domainOf(s string) (string, error) {
	name := strings.ToLower(strings.TrimSuffix(strings.TrimPrefix(s, "*."), "."))
	if s == "." {
		return ".", nil
	}
	for i := range len(name) {
		if name[i] <= ' ' || name[i] >= 0x7f || name[i] == '*' {
			return "", fmt.Errorf("dnsproxy: domain %q: not a domain name in ASCII", s)
		}
	}
	if name == "" || strings.Contains(name, "..") || strings.HasPrefix(name, ".") || len(name) > maxName-2 {
		return "", fmt.Errorf("dnsproxy: domain %q: not a domain name", s)
	}
	return name, nil
}

// view finds where host is sent: the longest matching zone, or the upstreams of all other names.
func (st *state) view(host string) *view {
	if v := longest(st.zones, host); v != nil {
		return v
	}
	if longest(st.allowed, host) {
		return st.private
	}
	return st.main
}

// longest returns the value of the longest domain in m that host is at or below, or the zero value.
func longest[V any](m map[string]V, host string) V {
	if len(m) == 0 {
		var none V
		return none
	}
	for rest := host; ; {
		if v, ok := m[rest]; ok {
			return v
		}
		i := strings.IndexByte(rest, '.')
		if i < 0 || i+1 == len(rest) {
			return m["."]
		}
		rest = rest[i+1:]
	}
}

// self says whether addr leads to this server.
func (st *state) self(addr netip.AddrPort) bool {
	return slices.ContainsFunc(st.cfg.Self, func(own netip.AddrPort) bool {
		return own.Addr().Unmap() == addr.Addr() && (own.Port() == 0 || own.Port() == addr.Port())
	})
}

// block returns the answer for what a verdict blocks.
func (st *state) block(v policy.Verdict) BlockAnswer {
	if answer, ok := st.cfg.BlockCategories[v.Category]; ok {
		return answer
	}
	return st.cfg.Block
}

// decide judges a name for the client of ex: the question, or with an address a hint of an answer.
func (st *state) decide(ex *exchange, host string, dst netip.AddrPort) policy.Verdict {
	ex.names[0] = policy.Name{Host: host, From: policy.FromQuestion}
	flow := ex.flow
	flow.Network, flow.Src, flow.Dst, flow.Names, flow.Time = policy.NetworkUnknown, ex.client, dst, ex.names[:], ex.begun
	return st.cfg.Decide(flow)
}
