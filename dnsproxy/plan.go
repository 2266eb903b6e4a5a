package dnsproxy

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"penstock/dnsproxy/cache"
	"penstock/dnsproxy/upstream"
	"penstock/policy"
)

const (
	blockTTL   = 30 * time.Second
	maxTimeout = 5 * time.Second
)

// Plan is compiled [Settings]. It does not change, belongs to no server, and any number of servers may use it.
type Plan struct {
	settings Settings // with defaults filled in
	pools    []pool   // each is asked by one group of a server
	main     *view
	private  *view            // main for names in AllowPrivate
	zones    map[string]*view // by domain
	allowed  map[string]bool  // domains of AllowPrivate
}

// pool is the upstreams that a view asks.
type pool []upstream.Target

// view is a pool and what is taken out of its answers. An answer cached in one view is not used in another.
type view struct {
	id   uint64
	pool int // index into pools
	how  cache.Cleaning
}

// Compile checks settings and makes a plan of them. It opens nothing and starts nothing. It finds everything that can be wrong, so
// that using a plan cannot fail. The error joins one sentence per fault, which names the value and the mend.
func Compile(s Settings) (*Plan, error) {
	s.Block.TTL = cmp.Or(s.Block.TTL, blockTTL)
	s.Timeout = min(cmp.Or(s.Timeout, maxTimeout), maxTimeout)
	s.MaxInFlight = cmp.Or(s.MaxInFlight, maxInFlight)
	s.ClientRate = cmp.Or(s.ClientRate, clientRate)
	s.MaxConns = cmp.Or(s.MaxConns, maxConns)
	s.Clients, s.Self, s.AllowPrivate = slices.Clone(s.Clients), slices.Clone(s.Self), slices.Clone(s.AllowPrivate)
	own := slices.Clone(s.Block.Addrs)
	categories := make(map[string]BlockAnswer, len(s.BlockCategories))
	for name, answer := range s.BlockCategories {
		answer.TTL = cmp.Or(answer.TTL, blockTTL)
		categories[name] = answer
		own = append(own, answer.Addrs...)
	}
	s.BlockCategories = categories
	slices.SortFunc(own, netip.Addr.Compare) // the map's order must not show in a view's id

	p := &Plan{settings: s, zones: map[string]*view{}, allowed: map[string]bool{}}
	how := cache.Cleaning{Own: slices.Compact(own), StripECH: s.StripECH}
	var errs []error
	for _, answer := range append(slices.Collect(maps.Values(categories)), s.Block) {
		if answer.Mode == BlockAddress && len(answer.Addrs) == 0 {
			errs = append(errs, errors.New("dnsproxy: a block answer of addresses has none: name one, or choose another answer"))
		}
	}
	main, err := p.addPool(s.Upstreams)
	errs = append(errs, err)
	p.main = p.newView(main, how)
	how.Private = true
	p.private = p.newView(main, how)
	for _, domain := range s.AllowPrivate {
		name, err := domainOf(domain)
		p.allowed[name] = true
		errs = append(errs, err)
	}
	zoneOf := map[string][]string{}
	for _, zone := range s.Zones {
		errs = append(errs, p.addZone(zone, how, zoneOf))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return p, nil
}

func (p *Plan) addPool(upstreams []Upstream) (index int, err error) {
	var made pool
	var errs []error
	for _, u := range upstreams {
		t, err := upstream.Parse(u)
		if err != nil {
			errs = append(errs, fmt.Errorf("dnsproxy: %w", err))
			continue
		}
		if err := checkHost(t.Host()); err != nil {
			errs = append(errs, fmt.Errorf("dnsproxy: upstream address %q: %w", u.Address, err))
			continue
		}
		if i := slices.IndexFunc(t.Addrs(), p.self); i >= 0 {
			errs = append(errs, fmt.Errorf("dnsproxy: upstream address %q leads back to this server at %s: name another resolver", u.Address, t.Addrs()[i]))
			continue
		}
		made = append(made, t)
	}
	p.pools = append(p.pools, made)
	return len(p.pools) - 1, errors.Join(errs...)
}

// checkHost checks the host of an upstream, which is used as it stands for look-ups and to verify certificates.
func checkHost(host string) error {
	if _, err := netip.ParseAddr(host); err == nil {
		return nil
	}
	name, err := policy.CanonicalName(host)
	if err != nil {
		return fmt.Errorf("%q is not a host name", host)
	}
	if name != strings.ToLower(strings.TrimSuffix(host, ".")) {
		return fmt.Errorf("write the host as %s", name)
	}
	return nil
}

// addZone adds a zone. ZoneOf maps each domain so far to the domains of its zone.
func (p *Plan) addZone(zone Zone, how cache.Cleaning, zoneOf map[string][]string) error {
	if len(zone.Domains) == 0 {
		return errors.New("dnsproxy: a zone has no domain: name the domains that its upstreams are for")
	}
	if len(zone.Upstreams) == 0 {
		return fmt.Errorf("dnsproxy: zone %q has no upstream: name the resolver for it", zone.Domains)
	}
	index, err := p.addPool(zone.Upstreams)
	errs := []error{err}
	how.Within, how.Only = slices.Clone(zone.Within), zone.Only
	v := p.newView(index, how)
	for _, domain := range zone.Domains {
		name, err := domainOf(domain)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if old := p.zones[name]; old != nil && old != v {
			errs = append(errs, fmt.Errorf("dnsproxy: domain %q is in two zones, %q and %q: leave it in one", domain, zoneOf[name], zone.Domains))
			continue
		}
		p.zones[name], zoneOf[name] = v, zone.Domains
	}
	return errors.Join(errs...)
}

// newView returns a view whose id is the same in every plan that asks the same upstreams and cleans their answers the same way.
func (p *Plan) newView(index int, how cache.Cleaning) *view {
	h := sha256.New()
	for _, t := range p.pools[index] {
		fmt.Fprintf(h, "%q %q %q;", t.Name, t.Address, t.Via)
	}
	fmt.Fprintf(h, "%v", how)
	return &view{id: binary.BigEndian.Uint64(h.Sum(nil)), pool: index, how: how}
}

// domainOf returns the canonical form of a configured domain: lower case, A-labels, no wildcard and no trailing dot. "." is the
// root.
func domainOf(s string) (string, error) {
	if s == "." {
		return ".", nil
	}
	name := strings.TrimPrefix(s, "*.")
	if strings.Contains(name, ":") {
		return "", fmt.Errorf("dnsproxy: domain %q has a port or is an address: write a domain such as corp.example", s)
	}
	name, err := policy.CanonicalName(name)
	if err != nil {
		return "", fmt.Errorf("dnsproxy: domain %q is not a domain name: write one such as corp.example or *.corp.example", s)
	}
	return name, nil
}

// view returns the view for host: that of the longest matching zone, or that of all other names.
func (p *Plan) view(host string) *view {
	if v := longest(p.zones, host); v != nil {
		return v
	}
	if longest(p.allowed, host) {
		return p.private
	}
	return p.main
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

// self reports whether addr leads to this server.
func (p *Plan) self(addr netip.AddrPort) bool {
	return slices.ContainsFunc(p.settings.Self, func(own netip.AddrPort) bool {
		return own.Addr().Unmap() == addr.Addr() && (own.Port() == 0 || own.Port() == addr.Port())
	})
}

// serves reports whether clients with this address are answered on host sockets.
func (p *Plan) serves(client netip.Addr) bool {
	client = client.Unmap().WithZone("")
	return len(p.settings.Clients) == 0 || slices.ContainsFunc(p.settings.Clients, func(n netip.Prefix) bool { return n.Contains(client) })
}

// block returns the answer for what a verdict blocks.
func (p *Plan) block(v policy.Verdict) BlockAnswer {
	if answer, ok := p.settings.BlockCategories[v.Category]; ok {
		return answer
	}
	return p.settings.Block
}
