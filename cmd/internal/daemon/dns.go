package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"

	"penstock/cmd/internal/config"
	"penstock/cmd/internal/edition"
	"penstock/cmd/internal/egress"
	"penstock/dnsproxy"
	"penstock/policy"
)

// dns keeps the settings of the DNS server up to date. They depend on the current edition, on what transports push, and on
// the name of a captive portal.
type dns struct {
	*dnsproxy.Server
	live   *edition.Live
	egress *egress.Egress
	own    func() []netip.Addr // the DNS servers of the network that the host is in
	access func() *edition.Access
	log    *slog.Logger

	mu       sync.Mutex // held while settings change
	settings atomic.Pointer[dnsproxy.Settings]
}

func (d *Daemon) buildDNS(ctx context.Context, cfg *config.Config) (err error) {
	n := &dns{live: d.live, egress: d.egress, own: func() []netip.Addr { return d.follow.Resolvers(ctx) }, access: func() *edition.Access { return d.follow.Access() }, log: d.log}
	c := dnsproxy.Config{
		Policy:  edition.Questions{Live: d.live, Own: d.laptop.Outside().Direct.Reserved},
		Clients: edition.Strangers{Live: d.live},
		Dialer:  n.way,
		Resolve: d.laptop.Outside().Resolve,
		NoIPv6:  n.noIPv6,
		Blocked: func(q dnsproxy.Refused) { d.metrics.router.Blocked(q.Verdict.Category, "dns"); d.flows.Refused(q) },

		CacheBytes: int(cfg.Limits.DNSCacheSize), CacheEntries: cfg.Limits.DNSCacheEntries,
		Log: d.log, Metrics: d.metrics.dns,
	}
	if cfg.DNS.QueryLog && d.flowLog != nil {
		c.QueryLog = slog.New(d.flowLog.Handler())
	}
	plan, settings, pushed := d.live.Now().CompileDNS(d.egress.Naming(), nil)
	if pushed != nil {
		return pushed // nothing has been pushed yet
	}
	n.settings.Store(&settings)
	if n.Server, err = dnsproxy.New(c, plan); err != nil {
		return err
	}
	d.dns = n
	return nil
}

// way returns the dialer for upstreams with this via. On a trusted network transports are down, so it is the direct one.
func (n *dns) way(via string) (dnsproxy.Dialer, bool) {
	if n.live.Conditions().Trusted {
		via = policy.EgressDirect
	}
	return n.egress.Dialer(via)
}

// follow applies the DNS settings of the edition, with what transports and the network say now.
func (n *dns) follow() {
	n.mu.Lock()
	defer n.mu.Unlock()
	plan, settings, pushed := n.live.Now().CompileDNS(n.naming(), n.access())
	if pushed != nil {
		n.log.Error("cannot use the DNS servers that a transport pushed; using only those of the configuration", "err", pushed)
	}
	n.settings.Store(&settings)
	n.Use(plan)
}

// naming returns what transports say about DNS, and what the network says where they leave the rest to it.
func (n *dns) naming() []egress.Naming {
	return n.live.Now().Followed(n.egress.Naming(), n.live.Conditions(), n.own)
}

// noIPv6 reports whether an egress carries no IPv6, and rules do not send it elsewhere.
func (n *dns) noIPv6(egress string) bool {
	if n.egress.CarriesIPv6(egress) {
		return false
	}
	outside := n.live.Now().FollowsRoutes(egress) && n.live.Conditions().LeavesOut(egress, netip.IPv6Unspecified())
	return !outside
}

// followTransports applies what transports push, until ctx ends.
func (d *Daemon) followTransports(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-d.renamed:
			core{d}.Change(func(now *policy.Conditions) { now.Routes = d.egress.Routes() })
			d.dns.follow()
			s := d.dns.settings.Load()
			d.log.Info("transports have other DNS servers or routes", "upstreams", len(s.Upstreams), "zones", len(s.Zones), "routes", len(d.live.Conditions().Routes))
			d.laptop.Search(ctx, d.egress.Search())
		}
	}
}

// listen opens the host addresses in dns.listen.
func (n *dns) listen(ctx context.Context, cfg *config.Config, start func(string, func(context.Context) error)) error {
	lc := net.ListenConfig{Control: n.egress.Outside.Direct.Control}
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
			return n.ServePacketConn(ctx, pc)
		})
		start("dns "+a.String(), func(ctx context.Context) error {
			defer ln.Close()
			return n.ServeListener(ctx, ln)
		})
	}
	return nil
}
