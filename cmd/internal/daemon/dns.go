package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"

	"penstock/cmd/internal/config"
	"penstock/dnsproxy"
	"penstock/policy"
)

func (d *Daemon) buildDNS() error {
	c, err := d.dnsConfig(d.cfg)
	if err != nil {
		return err
	}
	c.Log, c.Metrics = d.log, d.metrics.dns
	c.CacheBytes, c.CacheEntries = int(d.cfg.Limits.DNSCacheSize), d.cfg.Limits.DNSCacheEntries
	if d.cfg.DNS.QueryLog && d.flowLog != nil {
		c.QueryLog = slog.New(d.flowLog.Handler())
	}
	if d.dns, err = dnsproxy.New(c); err != nil {
		return invalid(d.cfg, err)
	}
	d.naming.put(d.cfg, c)
	return nil
}

// dnsConfig is what a configuration, and the transports as they are now, say of the DNS server.
func (d *Daemon) dnsConfig(cfg *config.Config) (dnsproxy.Config, error) {
	c := dnsproxy.Config{
		Decide:       d.decideQuestion,
		Blocked:      func(v policy.Verdict) { d.metrics.router.Blocked(v.Category, "dns") },
		NamesHosts:   d.namesHosts,
		Describe:     d.describeClient,
		Clients:      cfg.DNS.Clients,
		Select:       selections[cfg.DNS.Select],
		Resolve:      d.host.resolve,
		Self:         ownResolvers(cfg),
		Block:        blockAnswer(cfg.DNS.Block),
		StripECH:     judgesNames(cfg),
		NoIPv6:       func(egress string) bool { return !d.egress.ipv6(egress) },
		AllowPrivate: cfg.DNS.AllowPrivate,
		Timeout:      cfg.DNS.Timeout,
		MaxInFlight:  cfg.Limits.DNSQueries,
	}
	if len(c.Clients) == 0 {
		c.Clients = privateClients()
	}
	c.BlockCategories = make(map[string]dnsproxy.BlockAnswer)
	for name, b := range cfg.DNS.BlockCategory {
		c.BlockCategories[name] = blockAnswer(b)
	}
	var errs []error
	upstreams := func(list []config.Upstream) []dnsproxy.Upstream {
		var out []dnsproxy.Upstream
		for _, u := range list {
			dialer, ok := d.egress.dialer(u.Via)
			if !ok {
				errs = append(errs, fmt.Errorf("%s: dns upstream %s: there is no transport %q", u.Pos, u.Address, u.Via))
				continue
			}
			out = append(out, dnsproxy.Upstream{Name: u.Name, Address: u.Address, Via: u.Via, Dialer: dialer, Bootstrap: u.Bootstrap})
		}
		return out
	}
	c.Upstreams = upstreams(cfg.DNS.Upstreams)
	for _, s := range cfg.DNS.Split {
		c.Zones = append(c.Zones, dnsproxy.Zone{Domains: s.Domains, Upstreams: upstreams(s.Upstream)})
	}
	d.addNamed(&c, cfg)
	d.outside(&c, cfg)
	if len(errs) > 0 {
		return c, invalid(cfg, errs...)
	}
	return c, nil
}

var selections = map[string]dnsproxy.Selection{
	"ordered": dnsproxy.Ordered, "fastest": dnsproxy.Fastest, "parallel": dnsproxy.Parallel,
}

func blockAnswer(b config.BlockAnswer) dnsproxy.BlockAnswer {
	answer := dnsproxy.BlockAnswer{TTL: b.TTL, Addrs: b.Addresses}
	switch b.Answer {
	case "null":
		answer.Mode = dnsproxy.BlockNull
	case "refused":
		answer.Mode = dnsproxy.BlockRefused
	case "address":
		answer.Mode = dnsproxy.BlockAddress
	}
	return answer
}

// ownResolvers are the addresses that lead to our DNS server: its own, and the host's stub resolver where that asks us.
func ownResolvers(cfg *config.Config) []netip.AddrPort {
	var own []netip.AddrPort
	all := func(list []netip.Prefix) {
		for _, p := range list {
			own = append(own, netip.AddrPortFrom(p.Addr(), 0))
		}
	}
	if t := cfg.Listen.TUN; t != nil {
		all(serviceAddrs(t.Address))
		all(t.Address)
		if t.DNS == "auto" { // man systemd-resolved.service(8) has both
			own = append(own, netip.MustParseAddrPort("127.0.0.53:53"), netip.MustParseAddrPort("127.0.0.54:53"))
		}
	}
	if w := cfg.Listen.WireGuard; w != nil {
		all(w.Address)
	}
	return append(own, cfg.DNS.Listen...)
}

// privateClients are those who may use an address of the host if nothing is said: an open resolver is a weapon for others.
func privateClients() []netip.Prefix {
	return []netip.Prefix{
		netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128"),
		netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("172.16.0.0/12"), netip.MustParsePrefix("192.168.0.0/16"),
		netip.MustParsePrefix("100.64.0.0/10"), netip.MustParsePrefix("169.254.0.0/16"),
		netip.MustParsePrefix("fc00::/7"), netip.MustParsePrefix("fe80::/10"),
	}
}

// judgesNames says that some rule looks at names: then a ClientHello has to show the site's.
func judgesNames(cfg *config.Config) bool {
	var looks func(m *config.Match) bool
	looks = func(m *config.Match) bool {
		return m != nil && (len(m.Domain) > 0 || len(m.Category) > 0 || len(m.SeenIn) > 0 || m.Mismatch != nil || looks(m.Not))
	}
	return slices.ContainsFunc(cfg.Rules, func(r config.Rule) bool { return looks(r.Match) })
}

// decideQuestion judges a question, or an address that an answer hints at: what flow would go there is known.
func (d *Daemon) decideQuestion(f policy.Flow) policy.Verdict {
	if !f.Dst.IsValid() {
		return d.rules.decideName(f)
	}
	f.Network, f.Sniffed = policy.TCP, true
	f.Names = []policy.Name{{Host: f.Names[0].Host, From: policy.FromDNS}}
	return d.rules.decide(f)
}

// namesHosts says that a rule is about names: what it forwards is forwarded for its name's sake.
func (d *Daemon) namesHosts(rule string) bool {
	r, ok := d.rules.current().Rule(rule)
	return ok && (len(r.Match.Domain) > 0 || len(r.Match.Category) > 0)
}

func (d *Daemon) describeClient(client netip.AddrPort) policy.Flow {
	f := policy.Flow{Src: client}
	f.Peer, f.Groups, _ = d.describe(client.Addr())
	return f
}

// serveDNS opens the host addresses that dns.listen names.
func (d *Daemon) serveDNS(ctx context.Context, start func(string, func(context.Context) error)) error {
	lc := net.ListenConfig{Control: d.host.dialer.Control}
	for _, a := range d.cfg.DNS.Listen {
		pc, err := lc.ListenPacket(ctx, "udp", a.String())
		if err != nil {
			return fmt.Errorf("dns.listen: %w", err)
		}
		ln, err := lc.Listen(ctx, "tcp", a.String())
		if err != nil {
			return errors.Join(fmt.Errorf("dns.listen: %w", err), pc.Close())
		}
		start("dns "+a.String(), func(ctx context.Context) error {
			defer pc.Close()
			return d.dns.ServePacketConn(ctx, pc)
		})
		start("dns "+a.String(), func(ctx context.Context) error {
			defer ln.Close()
			return d.dns.ServeListener(ctx, ln)
		})
	}
	return nil
}
