package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"

	"penstock/cmd/internal/config"
	"penstock/cmd/internal/edition"
	"penstock/cmd/internal/egress"
	"penstock/cmd/internal/laptop"
	"penstock/dnsproxy"
	"penstock/policy"
)

// dns keeps the settings of the DNS server up to date. They depend on the current edition, on what transports push, and on
// the name of a captive portal.
type dns struct {
	*dnsproxy.Server
	live    *edition.Live
	egress  *egress.Egress
	laptop  *laptop.Laptop
	access  func() *edition.Access
	log     *slog.Logger
	renamed chan struct{} // capacity 1: the DNS servers of a transport have changed

	mu       sync.Mutex // held while settings change
	settings atomic.Pointer[dnsproxy.Settings]
}

func (d *Daemon) buildDNS(cfg *config.Config) (err error) {
	n := &dns{live: d.live, egress: d.egress, laptop: d.laptop, access: func() *edition.Access { return d.follow.Access() }, log: d.log, renamed: d.renamed}
	c := dnsproxy.Config{
		Policy:  d.live,
		Clients: strangers{d.live},
		Dialer:  n.way,
		Resolve: d.laptop.Outside().Resolve,
		NoIPv6:  func(egress string) bool { return !d.egress.CarriesIPv6(egress) },
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
	plan, settings, pushed := n.live.Now().CompileDNS(n.egress.Naming(), n.access())
	if pushed != nil {
		n.log.Error("cannot use the DNS servers that a transport pushed; using only those of the configuration", "err", pushed)
	}
	n.settings.Store(&settings)
	n.Use(plan)
}

// followTransports applies what transports push, until ctx ends.
func (n *dns) followTransports(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-n.renamed:
			n.follow()
			s := n.settings.Load()
			n.log.Info("dns servers of transports changed", "upstreams", len(s.Upstreams), "zones", len(s.Zones))
			n.laptop.Search(ctx, n.egress.Search())
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
