package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"

	"penstock/cmd/internal/config"
	"penstock/dnsproxy"
	"penstock/policy"
)

func (d *Daemon) buildDNS(cfg *config.Config) (err error) {
	c := dnsproxy.Config{
		Policy:  d.live,
		Clients: strangers{d.live},
		Dialer:  d.dnsWay,
		Resolve: d.laptop.Outside().Resolve,
		NoIPv6:  func(egress string) bool { return !d.egress.CarriesIPv6(egress) },
		Blocked: func(v policy.Verdict) { d.metrics.router.Blocked(v.Category, "dns") },

		CacheBytes: int(cfg.Limits.DNSCacheSize), CacheEntries: cfg.Limits.DNSCacheEntries,
		Log: d.log, Metrics: d.metrics.dns,
	}
	if cfg.DNS.QueryLog && d.flowLog != nil {
		c.QueryLog = slog.New(d.flowLog.Handler())
	}
	plan, settings, pushed := d.live.Now().CompileDNS(d.egress.Naming(), nil)
	if pushed != nil {
		return pushed // nothing was pushed yet
	}
	d.settings.Store(&settings)
	d.dns, err = dnsproxy.New(c, plan)
	return err
}

// dnsWay is the way to upstreams that ask via an egress. On a trusted network transports are down, and questions go out
// directly.
func (d *Daemon) dnsWay(via string) (dnsproxy.Dialer, bool) {
	if d.live.Conditions().Trusted {
		via = policy.EgressDirect
	}
	return d.egress.Dialer(via)
}

// setDNS brings the edition's DNS into force, with what transports and the network say now.
func (d *Daemon) setDNS() {
	d.naming.Lock()
	defer d.naming.Unlock()
	plan, settings, pushed := d.live.Now().CompileDNS(d.egress.Naming(), d.laptop.PortalZone())
	if pushed != nil {
		d.log.Error("the DNS servers that a transport pushed cannot be used; the configuration's alone are", "err", pushed)
	}
	d.settings.Store(&settings)
	d.dns.Use(plan)
}

// tellRenamed is called by transports when what they say of DNS has changed. It does not block.
func (d *Daemon) tellRenamed() {
	select {
	case d.renamed <- struct{}{}:
	default:
	}
}

// followRenamed follows what transports push.
func (d *Daemon) followRenamed(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-d.renamed:
			d.setDNS()
			s := d.settings.Load()
			d.log.Info("dns follows what transports say", "upstreams", len(s.Upstreams), "zones", len(s.Zones))
		}
	}
}

// serversVia are the plain DNS servers that the configuration asks through an egress.
func (d *Daemon) serversVia(via string) []netip.AddrPort {
	var servers []netip.AddrPort
	for _, u := range d.live.Config().DNS.Upstreams {
		if u.Via != via {
			continue
		}
		address := strings.TrimPrefix(strings.TrimPrefix(u.Address, "udp://"), "tcp://")
		if a, err := netip.ParseAddrPort(address); err == nil {
			servers = append(servers, a)
		} else if a, err := netip.ParseAddr(address); err == nil {
			servers = append(servers, netip.AddrPortFrom(a, 53))
		}
	}
	return servers
}

// serveDNS opens the host addresses that dns.listen names.
func (d *Daemon) serveDNS(ctx context.Context, cfg *config.Config, start func(string, func(context.Context) error)) error {
	lc := net.ListenConfig{Control: d.laptop.Outside().Direct.Control}
	for _, a := range cfg.DNS.Listen {
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
