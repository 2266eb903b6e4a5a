package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"penstock/cmd/internal/config"
	"penstock/dnsproxy"
	"penstock/policy"
)

func (d *Daemon) buildDNS() error {
	c, err := d.dnsConfig(d.cfg)
	if err != nil {
		return err
	}
	d.dns, err = dnsproxy.New(c)
	if err != nil {
		return invalid(d.cfg, err)
	}
	return nil
}

// dnsConfig is what the configuration says of the DNS server.
func (d *Daemon) dnsConfig(cfg *config.Config) (dnsproxy.Config, error) {
	c := dnsproxy.Config{
		Decide:       d.decideQuestion,
		NamesHosts:   d.namesHosts,
		Describe:     d.describeClient,
		Resolve:      d.host.resolve,
		StripECH:     true,
		NoIPv6:       func(egress string) bool { return !d.egress.ipv6(egress) },
		Timeout:      cfg.DNS.Timeout,
		CacheBytes:   int(cfg.Limits.DNSCacheSize),
		CacheEntries: cfg.Limits.DNSCacheEntries,
		MaxInFlight:  cfg.Limits.DNSQueries,
		Log:          d.log,
		Metrics:      d.metrics.dns,
	}
	c.Block = dnsproxy.BlockAnswer{TTL: cfg.DNS.Block.TTL}
	switch cfg.DNS.Block.Answer {
	case "null":
		c.Block.Mode = dnsproxy.BlockNull
	case "refused":
		c.Block.Mode = dnsproxy.BlockRefused
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
			out = append(out, dnsproxy.Upstream{Name: u.Name, Address: u.Address, Dialer: dialer})
		}
		return out
	}
	c.Upstreams = upstreams(cfg.DNS.Upstreams)
	for _, s := range cfg.DNS.Split {
		c.Zones = append(c.Zones, dnsproxy.Zone{Domains: s.Domains, Upstreams: upstreams(s.Upstream)})
	}
	if t := cfg.Listen.TUN; t != nil {
		for _, p := range append(serviceAddrs(t.Address), t.Address...) {
			c.Self = append(c.Self, netip.AddrPortFrom(p.Addr(), 0))
		}
	}
	for _, a := range cfg.DNS.Listen {
		c.Self = append(c.Self, a)
	}
	if len(errs) > 0 {
		return c, invalid(cfg, errs...)
	}
	return c, nil
}

// decideQuestion judges a question and counts what a category made it refuse.
func (d *Daemon) decideQuestion(f policy.Flow) policy.Verdict {
	v := d.rules.decideName(f)
	if v.Action != policy.Forward {
		d.metrics.router.Blocked(v.Category, "dns")
	}
	return v
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
func (d *Daemon) serveDNS(start func(string, func(context.Context) error)) error {
	lc := net.ListenConfig{Control: d.host.dialer.Control}
	for _, a := range d.cfg.DNS.Listen {
		pc, err := lc.ListenPacket(context.Background(), "udp", a.String())
		if err != nil {
			return fmt.Errorf("dns.listen: %w", err)
		}
		ln, err := lc.Listen(context.Background(), "tcp", a.String())
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
