package daemon

import (
	"context"
	"net/netip"

	"penstock/cmd/internal/config"
	"penstock/cmd/internal/edition"
	"penstock/cmd/internal/resolver"
	"penstock/dnsproxy"
	"penstock/policy"
)

func (d *Daemon) buildDNS(ctx context.Context, cfg *config.Config) (err error) {
	server := dnsproxy.Config{
		Blocked:    func(q dnsproxy.Refused) { d.metrics.router.Blocked(q.Verdict.Category, "dns"); d.flows.Refused(q) },
		CacheBytes: int(cfg.Limits.DNSCacheSize), CacheEntries: cfg.Limits.DNSCacheEntries,
		Log: d.log, Metrics: d.metrics.dns, Asked: core{d},
	}
	d.dns, err = resolver.New(resolver.Config{
		Live: d.live, Egress: d.egress, Server: server, Sockets: d.opts.Sockets, Log: d.log,
		Own: func() []netip.Addr { return d.follow.Resolvers(ctx) }, Access: func() *edition.Access { return d.follow.Access() },
	})
	return err
}

// followTransports applies what transports push, until ctx ends.
func (d *Daemon) followTransports(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-d.renamed:
			core{d}.Change(func(now *policy.Conditions) { now.Routes = d.egress.Routes() })
			d.dns.Follow()
			s := d.dns.Settings()
			d.log.Info("transports have other DNS servers or routes", "upstreams", len(s.Upstreams), "zones", len(s.Zones), "routes", len(d.live.Conditions().Routes))
			d.laptop.Search(ctx, d.egress.Search())
		}
	}
}
