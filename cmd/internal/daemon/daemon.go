// Package daemon puts a penstock together from its configuration, runs it, reloads it and takes it down.
//
// It is the only package that knows all the others. What is a laptop and what is a gateway is decided here, by what is
// plugged into the stacks and which dialers stand in the egress map.
//
// It does not judge, resolve, carry or encrypt anything itself.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"penstock/cmd/internal/config"
	"penstock/cmd/internal/control"
	"penstock/cmd/internal/flowlog"
	"penstock/cmd/internal/lists"
	"penstock/dnsproxy"
	"penstock/policy"
	"penstock/router"
	"penstock/stack"
	"penstock/stack/link"
)

// Options are what the command line says beside the configuration.
type Options struct {
	Socket  string           // of the control API; empty: the configuration's
	Reload  <-chan os.Signal // each signal asks for a reload; may be nil
	Version string
	Log     *slog.Logger // nil discards

	// TUN takes the place of the device that listen.tun describes. The host is left alone then. May be nil.
	TUN link.Port
	// Notify tells the service manager how the daemon is. May be nil.
	Notify *Notifier
	// Direct takes the place of the host's own network. May be nil.
	Direct DirectDialer
}

// Daemon is a penstock that runs.
type Daemon struct {
	opts    Options
	log     *slog.Logger
	started time.Time

	registry *prometheus.Registry
	metrics  metrics
	rules    *rules
	router   *router.Router
	dns      *dnsproxy.Server
	naming   naming
	egress   *egress
	host     *host        // nil on a gateway without a TUN
	gateway  *gateway     // nil without listen.wireguard
	flowLog  *flowlog.Log // nil without flow_log
	recent   *recent
	onDemand *onDemand // nil without on_demand
	captive  *captive

	reloading sync.Mutex // held by the one reload that runs

	mu        sync.Mutex // guards below
	cfg       *config.Config
	reloadErr string
}

// Run runs a penstock until ctx ends, and undoes what it changed on the host. ready, if not nil, is called once when
// everything is in force.
func Run(ctx context.Context, cfg *config.Config, opts Options) (err error) {
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	d := &Daemon{opts: opts, log: opts.Log, started: time.Now(), cfg: cfg, recent: newRecent()}
	var closers closers
	defer func() {
		if d.host != nil {
			d.host.failed = err != nil && ctx.Err() == nil
		}
		if failed := closers.close(); failed != nil {
			err = errors.Join(err, failed) // alone it stays what it is: a fault of the configuration is told as one
		}
	}()

	if err := d.build(ctx, &closers); err != nil {
		return err
	}
	return d.run(ctx, &closers)
}

// closers are run last to first: what was opened last leans on what was opened before.
type closers []func() error

func (c *closers) add(f func() error) { *c = append(*c, f) }

func (c *closers) close() error {
	var errs []error
	for len(*c) > 0 {
		last := len(*c) - 1
		errs = append(errs, (*c)[last]())
		*c = (*c)[:last]
	}
	return errors.Join(errs...)
}

// build opens everything. Nothing touches the host before all of it is known to be good, and nothing is carried before
// the policy stands: the rules come first, the ways out second, the host's routes last.
func (d *Daemon) build(ctx context.Context, c *closers) (err error) {
	d.registry = prometheus.NewRegistry()
	d.metrics = newMetrics(d.registry, d)
	if d.rules, err = newRules(ctx, d.cfg, lists.Config{
		Dir: listDir(d.cfg, d.opts), Dial: d.dialList, Log: d.log, Metrics: d.metrics.lists,
	}); err != nil {
		return err
	}
	if d.cfg.FlowLog.File != "" {
		if d.flowLog, err = d.openFlowLog(); err != nil {
			return err
		}
		c.add(func() error { d.flowLog.Close(); return nil })
	}
	if d.host, err = newHost(d.cfg, d.opts); err != nil {
		return err
	}
	c.add(d.host.close)
	if err := d.host.block(ctx); err != nil {
		return err
	}
	if d.egress, err = newEgress(d.cfg, d.host, d.metrics, d.naming.tell, d.log); err != nil {
		return err
	}
	c.add(d.egress.close)
	d.captive = d.newCaptive()
	if d.gateway, err = newGateway(d.cfg, d.log); err != nil {
		return err
	}
	if err := d.buildDNS(); err != nil {
		return err
	}
	d.egress.dialers["dns"] = dnsEgress{d.dns}
	if err := d.buildRouter(); err != nil {
		return err
	}
	if d.gateway != nil {
		if err := d.gateway.open(d.handle, d.metrics, d.host.mark()); err != nil {
			return refused(d.cfg, "listen.wireguard.listen_port", "", err)
		}
		c.add(d.gateway.close)
	}
	if d.cfg.Listen.TUN != nil {
		if err := d.host.open(d.handle, d.metrics); err != nil {
			return refused(d.cfg, "listen.tun.name", "", err)
		}
	}
	return nil
}

// handle is what the stacks call for each flow.
func (d *Daemon) handle(ctx context.Context, r *stack.Request) {
	d.router.Handle(ctx, router.Request{Network: networkOf(r.Network), Src: r.Src, Dst: r.Dst, Answer: r})
}

func networkOf(s string) policy.Network {
	switch s {
	case "tcp":
		return policy.TCP
	case "udp":
		return policy.UDP
	case "icmp":
		return policy.ICMP
	}
	return policy.NetworkUnknown
}

func (d *Daemon) buildRouter() (err error) {
	d.router, err = router.New(router.Config{
		Decide:       d.rules.decide,
		Dialer:       d.egress.dialer,
		Describe:     d.describe,
		Program:      d.program,
		Names:        func(client, dst netip.Addr) []policy.Name { return d.dns.Names().Lookup(client, dst) },
		Pin:          func(client, dst netip.Addr) func() { return d.dns.Names().Pin(client, dst) },
		Own:          d.own,
		Reserved:     d.reserved,
		Fallback:     d.fallback,
		NotUp:        errNotUp,
		Dropped:      d.metrics.stack.Drop,
		Ended:        d.ended,
		Generation:   d.rules.generation,
		StormLimit:   d.cfg.Limits.RejectStorm,
		StormWindow:  d.cfg.Limits.RejectWindow,
		SniffTimeout: d.cfg.Limits.SniffTime,
		Log:          d.log,
		Metrics:      d.metrics.router,
	})
	return err
}

// describe tells who sends from an address: a peer of the gateway, or the laptop itself.
func (d *Daemon) describe(src netip.Addr) (peer string, groups []string, ok bool) {
	if d.gateway != nil {
		if p, ok := d.gateway.peer(src); ok {
			return p.Name, p.Groups, true
		}
	}
	return "", nil, d.cfg.Listen.TUN != nil
}

// own reports destinations that only lead back: the inside of our own networks, but for the addresses that we answer on.
func (d *Daemon) own(dst netip.Addr) bool {
	return d.host.inside(dst) || d.gateway != nil && d.gateway.inside(dst)
}

// reserved keeps flows from what an egress must not reach unless the deciding rule names the address.
func (d *Daemon) reserved(dst netip.Addr, egress, rule string) bool {
	if d.host.service(dst) || d.gateway != nil && d.gateway.service(dst) {
		return true
	}
	if egress != policy.EgressDirect || !d.host.dialer.Reserved(dst) {
		return false
	}
	r, ok := d.rules.current().Rule(rule)
	return !ok || len(r.Match.CIDR) == 0
}

// fallback lets flows go direct while their transport is not up, where their rule says so.
func (d *Daemon) fallback(v policy.Verdict) (string, bool) {
	r, ok := d.rules.current().Rule(v.Rule)
	return policy.EgressDirect, ok && r.Do.FallbackDirect
}

func (d *Daemon) ended(f router.Flow) {
	d.recent.add(f)
	if d.flowLog != nil {
		d.flowLog.Flow(d.flow(f))
	}
	if f.Verdict.Action != policy.Forward {
		d.log.Debug("flow refused", "flow", f.ID, "src", f.Facts.Src, "dst", f.Facts.Dst, "host", f.Name().Host, "rule", f.Verdict.Rule, "peer", f.Facts.Peer)
	}
}

// run starts what has a life of its own and waits for the end. The first of them that fails ends the others.
func (d *Daemon) run(ctx context.Context, c *closers) error {
	ctx, cancel := context.WithCancelCause(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel(nil) // before the wait: what was started ends, whatever the reason for going
	start := func(name string, run func(context.Context) error) {
		wg.Go(func() {
			if err := run(ctx); err != nil && ctx.Err() == nil {
				cancel(fmt.Errorf("%s: %w", name, err))
			}
		})
	}
	server, err := control.New(d.controlConfig())
	if err != nil {
		return err
	}
	c.add(server.Close)
	if d.cfg.Metrics.Listen != "" {
		monitor, err := control.NewMonitor(control.MonitorConfig{
			Listen: d.cfg.Metrics.Listen, Gatherer: d.registry, Ready: d.ready, Logger: d.log,
		})
		if err != nil {
			return refused(d.cfg, "metrics.listen", "stop the program that holds it or choose another port", err)
		}
		c.add(monitor.Close)
		start("metrics", monitor.Run)
	}
	// The policy stands and answers before the host's routes lead to it; the transports come last.
	start("dns", d.dns.Run)
	start("dns settings", d.watchDNS)
	if err := d.serveDNS(ctx, start); err != nil {
		return refused(d.cfg, "dns.listen", "stop the program that holds it or choose another address", err)
	}
	if err := d.host.apply(ctx); err != nil {
		return err
	}
	start("host", d.host.watch)
	d.follow(start)
	d.egress.run(start)
	start("control", server.Run)
	start("lists", d.rules.lists.Run)
	start("exceptions", d.endExceptions)
	start("reload", d.awaitReload)
	start("service manager", d.notify)
	d.log.Info("penstock is running", "config", d.cfg.Path, "listen", d.listening(), "socket", server.Socket())
	<-ctx.Done()
	// First the transports, so that nothing is carried while the rest goes; flows end with the stacks.
	err = context.Cause(ctx)
	if errors.Is(err, context.Canceled) {
		err = nil
	}
	d.log.Info("penstock is stopping")
	d.router.Kill(func(router.Flow) bool { return true })
	return err
}

func (d *Daemon) awaitReload(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-d.opts.Reload:
			if _, err := d.reload(ctx, control.ReloadQuery{}); err != nil {
				d.log.Error("reload refused; the policy before stays in force", "err", err)
			}
		}
	}
}

// config is the configuration in force.
func (d *Daemon) config() *config.Config {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.cfg
}

// listening says what packets come from.
func (d *Daemon) listening() []string {
	var list []string
	if d.cfg.Listen.TUN != nil {
		list = append(list, "tun "+d.host.name)
	}
	if d.gateway != nil {
		list = append(list, fmt.Sprintf("wireguard :%d", d.gateway.port()))
	}
	return list
}
