package netlab

import (
	"context"
	"net/netip"
)

// Names and addresses of the public sites, one address of each family, on the internet host's loopback.
func sites() map[string][]string {
	return map[string][]string{
		PublicSite:         {"203.0.113.10", "2001:db8:113::10"},
		NewsSite:           {"203.0.113.11", "2001:db8:113::11"},
		GamblingSite:       {"203.0.113.20", "2001:db8:113::20"},
		AdultSite:          {"203.0.113.21", "2001:db8:113::21"},
		EchoSite:           {"203.0.113.40", "2001:db8:113::40"},
		"resolver.example": {ResolverIPv4, ResolverIPv6},
	}
}

// makeHosts makes the hosts, each with its resolvers.
func (l *Lab) makeHosts(ctx context.Context) error {
	for _, m := range []struct {
		host       **Host
		name       string
		nameserver string
		forwards   bool
	}{
		{&l.Laptop, "laptop", AccessIPv4, false},
		{&l.Access, "access", ResolverIPv4, true},
		{&l.Access2, "access2", ResolverIPv4, true},
		{&l.Internet, "internet", ResolverIPv4, true},
		{&l.Gateway, "gateway", IntranetIPv4, false},
		{&l.Intranet, "intranet", IntranetIPv4, false},
	} {
		h, err := newHost(ctx, m.name, []string{m.nameserver})
		if err != nil {
			return err
		}
		*m.host = h
		if err := h.WriteFile(CAFile, l.CA.PEM()); err != nil {
			return err
		}
		if !m.forwards {
			continue
		}
		for _, key := range []string{"net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"} {
			if err := h.Sysctl(key, "1"); err != nil {
				return err
			}
		}
	}
	return nil
}

// makeNetwork connects the hosts, and sets addresses and routes as drawn.
func (l *Lab) makeNetwork() error {
	for _, w := range []struct {
		a     *Host
		aLink string
		b     *Host
		bLink string
	}{
		{l.Laptop, "lan0", l.Access, "lan"},
		{l.Laptop, "lan1", l.Access2, "lan"},
		{l.Access, "wan", l.Internet, "access"},
		{l.Access2, "wan", l.Internet, "access2"},
		{l.Gateway, "wan", l.Internet, "gw"},
		{l.Gateway, "intra", l.Intranet, "intra"},
	} {
		if err := wire(w.a, w.aLink, w.b, w.bLink); err != nil {
			return err
		}
	}
	for _, a := range []struct {
		host  *Host
		link  string
		addrs []string
	}{
		{l.Access, "lan", []string{AccessIPv4 + "/24", AccessIPv6 + "/64"}},
		{l.Access, "wan", []string{"192.0.2.2/30", "2001:db8:50::2/64"}},
		{l.Access2, "lan", []string{Access2IPv4 + "/24", Access2IPv6 + "/64"}},
		{l.Access2, "wan", []string{"192.0.2.6/30", "2001:db8:60::2/64"}},
		{l.Internet, "access", []string{"192.0.2.1/30", "2001:db8:50::1/64"}},
		{l.Internet, "access2", []string{"192.0.2.5/30", "2001:db8:60::1/64"}},
		{l.Internet, "gw", []string{"198.51.100.1/24", "2001:db8:51::1/64"}},
		{l.Gateway, "wan", []string{GatewayIPv4 + "/24", GatewayIPv6 + "/64"}},
		{l.Gateway, "intra", []string{"10.20.0.1/24", "fd20::1/64"}},
		{l.Intranet, "intra", []string{IntranetIPv4 + "/24", IntranetIPv6 + "/64"}},
	} {
		for _, s := range a.addrs {
			if err := a.host.AddAddr(a.link, netip.MustParsePrefix(s)); err != nil {
				return err
			}
		}
	}
	for _, addrs := range sites() {
		for _, s := range addrs {
			addr := netip.MustParseAddr(s)
			if err := l.Internet.AddAddr("lo", netip.PrefixFrom(addr, addr.BitLen())); err != nil {
				return err
			}
		}
	}
	for _, r := range []struct {
		host     *Host
		dst, via string
	}{
		{l.Access, "0.0.0.0/0", "192.0.2.1"},
		{l.Access, "::/0", "2001:db8:50::1"},
		{l.Access2, "0.0.0.0/0", "192.0.2.5"},
		{l.Access2, "::/0", "2001:db8:60::1"},
		{l.Internet, "192.168.50.0/24", "192.0.2.2"},
		{l.Internet, "fd50::/64", "2001:db8:50::2"},
		{l.Internet, "192.168.60.0/24", "192.0.2.6"},
		{l.Internet, "fd60::/64", "2001:db8:60::2"},
		{l.Gateway, "0.0.0.0/0", "198.51.100.1"},
		{l.Gateway, "::/0", "2001:db8:51::1"},
		{l.Intranet, "0.0.0.0/0", "10.20.0.1"},
		{l.Intranet, "::/0", "fd20::1"},
	} {
		if err := r.host.AddRoute(Route{Dst: netip.MustParsePrefix(r.dst), Via: netip.MustParseAddr(r.via)}); err != nil {
			return err
		}
	}
	for _, dead := range []string{DeadIPv4 + "/32", DeadIPv6 + "/128"} {
		if err := l.Internet.AddRoute(Route{Dst: netip.MustParsePrefix(dead), Silent: true}); err != nil {
			return err
		}
	}
	if err := l.Laptop.SetLink(l.Uplinks[1].Link, false); err != nil {
		return err
	}
	return l.Connect(l.Uplinks[0], 0)
}

// makeNames adds the records to the resolvers.
func (l *Lab) makeNames() error {
	public := sites()
	public[DeadSite] = []string{DeadIPv4, DeadIPv6}
	public[GatewayName] = []string{GatewayIPv4, GatewayIPv6}
	for name, addrs := range public {
		if err := l.PublicDNS.addHost(name, addrs...); err != nil {
			return err
		}
	}
	for _, name := range []string{IntranetSite, WikiSite, "ns.corp.example"} {
		if err := l.IntranetDNS.addHost(name, IntranetIPv4, IntranetIPv6); err != nil {
			return err
		}
	}
	return nil
}

// makeServices starts the servers.
func (l *Lab) makeServices() error {
	echo := sites()[EchoSite]
	for _, start := range []func() error{
		func() error { return l.services.dns(l.Internet, l.PublicDNS) },
		func() error { return l.services.dns(l.Access, l.AccessDNS) },
		func() error { return l.services.dns(l.Access2, l.AccessDNS) },
		func() error { return l.services.dns(l.Intranet, l.IntranetDNS) },
		func() error { return l.services.web(l.Internet, l.CA, l.PublicSink) },
		func() error { return l.services.web(l.Intranet, l.CA, l.IntranetSink) },
		func() error { return l.services.echo(l.Internet, echo...) },
		func() error { return l.services.echo(l.Intranet, IntranetIPv4, IntranetIPv6) },
		func() error { return l.services.sink(l.Internet, l.PublicSink) },
		func() error { return l.services.sink(l.Intranet, l.IntranetSink) },
	} {
		if err := start(); err != nil {
			return err
		}
	}
	return nil
}
