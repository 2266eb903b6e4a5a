package daemon

import (
	"cmp"
	"context"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"

	"penstock/cmd/internal/config"
	"penstock/dnsproxy"
	"penstock/policy"
	"penstock/router/transport/openvpn"
)

// named is what a transport says of DNS, in its file or by pushing it.
type named struct {
	servers []namedServer
	search  []string // domains of the transport's network
}

// namedServer is a DNS server that a transport names.
type namedServer struct {
	address   string // as in dnsproxy.Upstream
	bootstrap []netip.Addr
	domains   []string // what it is for; empty: everything
}

// naming is the DNS configuration in force, which changes with the file and with what transports push.
type naming struct {
	mu    sync.Mutex // guards below, and is held while a change comes into force
	cfg   *config.Config
	dns   dnsproxy.Config
	news  chan struct{} // of one: a transport has pushed something else
	ready sync.Once
}

func (n *naming) changed() chan struct{} {
	n.ready.Do(func() { n.news = make(chan struct{}, 1) })
	return n.news
}

// tell is called by transports when what they say of DNS has changed. It does not block.
func (n *naming) tell() {
	select {
	case n.changed() <- struct{}{}:
	default:
	}
}

func (n *naming) put(cfg *config.Config, c dnsproxy.Config) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.cfg, n.dns = cfg, c
}

// inForce is the DNS configuration in force.
func (n *naming) inForce() dnsproxy.Config {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.dns
}

// setDNS brings a configuration's DNS into force; nil is the one in force, with what transports say now.
func (d *Daemon) setDNS(cfg *config.Config) error {
	d.naming.mu.Lock()
	defer d.naming.mu.Unlock()
	if cfg == nil {
		cfg = d.naming.cfg
	}
	c, err := d.dnsConfig(cfg)
	if err != nil {
		return err
	}
	if err := d.dns.SetConfig(c); err != nil {
		return invalid(cfg, err)
	}
	d.naming.cfg, d.naming.dns = cfg, c
	return nil
}

// watchDNS follows what transports push.
func (d *Daemon) watchDNS(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-d.naming.changed():
			if err := d.setDNS(nil); err != nil {
				d.log.Error("the DNS servers that a transport pushed cannot be used; those before stay", "err", err)
				continue
			}
			d.log.Info("dns follows what transports say", "upstreams", len(d.naming.inForce().Upstreams), "zones", len(d.naming.inForce().Zones))
		}
	}
}

// addNamed adds the servers that transports name: upstreams if the configuration has none, and split zones for the domains that
// it does not split itself. One that several transports name is asked through each in turn.
func (d *Daemon) addNamed(c *dnsproxy.Config, cfg *config.Config) {
	configured := make(map[string]bool)
	for _, s := range cfg.DNS.Split {
		for _, domain := range s.Domains {
			configured[strings.TrimPrefix(domain, "*.")] = true
		}
	}
	var main []dnsproxy.Upstream
	zones, domains := make(map[string][]dnsproxy.Upstream), []string{}
	split := func(domain string, upstreams ...dnsproxy.Upstream) {
		host, err := policy.CanonicalName(strings.TrimPrefix(domain, "~")) // systemd writes ~ before what is only routed
		if err != nil {
			d.log.Warn("a domain that a transport names is none", "domain", domain, "err", err)
			return
		}
		if configured[host] || len(upstreams) == 0 {
			return
		}
		if zones[host] == nil {
			domains = append(domains, host)
		}
		zones[host] = append(zones[host], upstreams...)
	}
	for _, name := range d.egress.byUse(cfg) {
		n := d.egress.tunnels[name].inner.naming()
		var general []dnsproxy.Upstream
		for _, s := range n.servers {
			u := dnsproxy.Upstream{Name: name, Address: s.address, Via: name, Dialer: d.egress.dialers[name], Bootstrap: s.bootstrap}
			if len(s.domains) == 0 {
				general = append(general, u)
			}
			for _, domain := range s.domains {
				split(domain, u)
			}
		}
		for _, domain := range n.search {
			split(domain, general...)
		}
		main = append(main, general...)
	}
	for _, domain := range domains {
		c.Zones = append(c.Zones, dnsproxy.Zone{Domains: []string{domain}, Upstreams: zones[domain]})
	}
	if len(cfg.DNS.Upstreams) > 0 {
		return
	}
	c.Upstreams = main
	if len(c.AllowPrivate) == 0 && len(main) > 0 {
		c.AllowPrivate = []string{"."} // intranet names have private addresses, and nobody else knows which names those are
	}
}

// byUse is the names of all transports: first those that the last rule sends flows to.
func (e *egress) byUse(cfg *config.Config) []string {
	last := ""
	if len(cfg.Rules) > 0 {
		last = cfg.Rules[len(cfg.Rules)-1].Do.Via
	}
	order := append([]string{last}, cfg.Transports[last].Failover...)
	rank := func(name string) int {
		if i := slices.Index(order, name); i >= 0 {
			return i
		}
		return len(order)
	}
	names := make([]string, 0, len(e.tunnels))
	for name := range e.tunnels {
		names = append(names, name)
	}
	slices.SortFunc(names, func(a, b string) int { return cmp.Or(cmp.Compare(rank(a), rank(b)), cmp.Compare(a, b)) })
	return names
}

func (w *wireguardInner) naming() named {
	n := named{search: w.conf.SearchDomains}
	for _, a := range w.conf.DNS {
		n.servers = append(n.servers, namedServer{address: a.String()})
	}
	return n
}

func (o *openvpnInner) naming() named {
	o.mu.Lock()
	defer o.mu.Unlock()
	n := named{search: o.settings.SearchDomains}
	for _, s := range o.settings.DNS {
		n.servers = append(n.servers, pushedServers(s)...)
	}
	return n
}

// pushedServers reads a server's setting; port 53 stands for the usual one.
func pushedServers(s openvpn.DNSServer) []namedServer {
	var list []namedServer
	domains := s.Domains
	if slices.Contains(domains, ".") {
		domains = nil
	}
	for _, a := range s.Addrs {
		one := namedServer{address: a.String(), bootstrap: []netip.Addr{a.Addr()}, domains: domains}
		host := cmp.Or(s.SNI, a.Addr().String())
		port := strconv.Itoa(int(a.Port()))
		switch {
		case s.Transport == "DoT" && a.Port() == 53:
			port = "853"
		case s.Transport == "DoH" && a.Port() == 53:
			port = "443"
		}
		switch s.Transport {
		case "DoT":
			one.address = "tls://" + net.JoinHostPort(host, port)
		case "DoH":
			one.address = "https://" + net.JoinHostPort(host, port)
		}
		list = append(list, one)
	}
	return list
}
