// Package daemon builds a penstock from its configuration, runs it, reloads it and stops it.
//
// It composes packages that can each be read alone: edition (what a configuration means), egress (the ways out), laptop
// (this machine), gateway (the port for peers), the router, the DNS server, and report (answers for operators). Laptop and
// gateway differ only in which of these are in use.
//
// It does not judge, resolve, carry or encrypt anything itself.
package daemon

import (
	"cmp"
	"context"
	"crypto"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"penstock/cmd/internal/acme"
	"penstock/cmd/internal/clock"
	"penstock/cmd/internal/config"
	"penstock/cmd/internal/console"
	"penstock/cmd/internal/control"
	"penstock/cmd/internal/decisions"
	"penstock/cmd/internal/doctor"
	"penstock/cmd/internal/edition"
	"penstock/cmd/internal/egress"
	"penstock/cmd/internal/enrol"
	"penstock/cmd/internal/fleet/member"
	"penstock/cmd/internal/gateway"
	"penstock/cmd/internal/handover"
	"penstock/cmd/internal/health"
	"penstock/cmd/internal/ingress"
	"penstock/cmd/internal/kernel"
	"penstock/cmd/internal/laptop"
	"penstock/cmd/internal/lastgood"
	"penstock/cmd/internal/lists"
	"penstock/cmd/internal/memory"
	"penstock/cmd/internal/ports"
	"penstock/cmd/internal/privatedns"
	"penstock/cmd/internal/record"
	"penstock/cmd/internal/report"
	"penstock/cmd/internal/resolver"
	"penstock/cmd/internal/signin"
	"penstock/cmd/internal/systemd"
	"penstock/policy"
	"penstock/router"
	"penstock/stack"
	"penstock/stack/link"
)

// Options are the settings that come from the command line, not from the configuration.
type Options struct {
	Socket  string           // of the control API; empty: the one in the configuration
	Reload  <-chan os.Signal // each signal starts a reload; may be nil
	Version string
	Log     *slog.Logger // if nil, nothing is logged

	// Good is where a copy of the configuration is kept once it works. The zero value keeps none.
	Good lastgood.Copy
	// Fault is the fault of the present configuration if penstock runs the copy instead. May be nil.
	Fault error

	// TUN replaces the device that listen.tun describes. The host is then not changed. May be nil.
	TUN link.Port
	// Notify reports the state of the daemon to the service manager. May be nil.
	Notify *systemd.Notifier
	// Sockets are kept over a restart. May be nil.
	Sockets *handover.Sockets
	// Direct replaces the host's own network. May be nil.
	Direct egress.Direct
}

// Daemon is a running penstock.
type Daemon struct {
	opts    Options
	log     *slog.Logger
	started time.Time
	began   *config.Config // what it was started with

	registry *prometheus.Registry
	metrics  metrics
	live     *edition.Live
	router   *router.Router
	dns      *resolver.Resolver
	egress   *egress.Egress
	laptop   *laptop.Laptop
	follow   *laptop.Follower
	gateway  *gateway.Gateway   // nil without listen.wireguard
	acme     *acme.Certificates // nil without acme
	enrol    *enrol.Enrolment
	signIn   *signin.Service     // nil without listen.wireguard
	phones   *privatedns.Service // nil without dns.serve
	proxy    *ingress.Server     // nil without listen.proxy
	records  *record.Book
	flows    *report.Flows
	status   *report.Process
	feed     *report.Feed
	explain  *report.Policy
	health   *health.Targets
	process  atomic.Pointer[report.Process] // status, once it is complete
	clock    clock.Record
	decided  *decisions.Book
	fleet    *member.Fleet // does nothing without fleet in the configuration
	ports    *ports.Ports

	reloading sync.Mutex    // held during a reload
	renamed   chan struct{} // capacity 1: the DNS servers or the routes of a transport have changed
	changed   chan struct{} // capacity 1: the state of penstock may have changed
}

// Check compiles a configuration as Run would, reads its lists and key files, and runs its tests. It opens nothing and
// changes nothing. If tests fail, it returns a *edition.TestsError and the edition.
func Check(ctx context.Context, cfg *config.Config) (*edition.Edition, error) {
	return edition.Compile(ctx, cfg, edition.Sources{Lists: lists.New(lists.Config{Dir: edition.ListDir(cfg, true)})})
}

// Run runs a penstock until ctx ends, and then undoes its changes to the host.
func Run(ctx context.Context, cfg *config.Config, opts Options) (err error) {
	opts.Sockets.Begin()
	d, opened, err := build(ctx, cfg, opts)
	defer func() {
		if failed := opened.close(err != nil && ctx.Err() == nil); failed != nil {
			err = errors.Join(err, failed) // a single error keeps its type, so that callers recognise a faulty configuration
		}
	}()
	if err != nil {
		return err
	}
	return d.run(ctx, &opened)
}

// build returns a daemon that does not run yet. The caller must run the closers, even if there is an error.
func build(ctx context.Context, cfg *config.Config, opts Options) (*Daemon, closers, error) {
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	d := &Daemon{opts: opts, log: opts.Log, started: time.Now(), began: cfg, flows: new(report.Flows), renamed: make(chan struct{}, 1), changed: make(chan struct{}, 1)}
	var opened closers
	err := d.build(ctx, cfg, &opened)
	return d, opened, err
}

// closers run in reverse order, because later parts depend on earlier ones. failed reports whether penstock ends because of a
// failure and not because it was asked to.
type closers []func(failed bool) error

func (c *closers) add(f func() error) { *c = append(*c, func(bool) error { return f() }) }

func (c *closers) close(failed bool) error {
	var errs []error
	for len(*c) > 0 {
		last := len(*c) - 1
		errs = append(errs, (*c)[last](failed))
		*c = (*c)[:last]
	}
	return errors.Join(errs...)
}

// build opens everything, in this order: the edition, the ways out, the host's routes. So the host is not changed before
// everything else has worked, and no flow is carried before there is a policy.
func (d *Daemon) build(ctx context.Context, cfg *config.Config, opened *closers) (err error) {
	d.registry = prometheus.NewRegistry()
	d.metrics = newMetrics(d.registry, d)
	d.ports = ports.New(d.registry, d.log)
	d.live = edition.NewLive(lists.Config{
		Dir: edition.ListDir(cfg, d.opts.TUN == nil), Log: d.log, Metrics: d.metrics.lists,
		Dial: func(ctx context.Context, via, network, address string) (net.Conn, error) {
			return d.egress.DialHost(ctx, via, network, address)
		},
	})
	first, err := d.live.Compile(ctx, cfg)
	if err != nil {
		return edition.AsFaults(err)
	}
	d.warn(first)
	d.live.Use(first)
	d.clock = clock.Record{
		File: edition.HandshakeFile(cfg, d.opts.TUN == nil), Log: d.log,
		Files: func() []string { return d.live.Now().Files() }, Last: func() time.Time { return d.egress.LastHandshake() },
	}
	if d.records, err = record.Open(record.Config{Config: cfg, Registry: d.registry, Log: d.log}); err != nil {
		return err
	}
	opened.add(d.records.Close)
	d.laptop, err = laptop.New(laptop.Config{
		Config: cfg, TUN: d.opts.TUN, Direct: d.opts.Direct, Inside: first.Egress.Prefixes(), MTU: first.Egress.MTU(), Moved: d.moved, Log: d.log,
	})
	if err != nil {
		return err
	}
	*opened = append(*opened, d.laptop.Close)
	if err := d.laptop.Block(ctx); err != nil {
		return err
	}
	if err := d.buildWays(ctx, first, opened); err != nil {
		return err
	}
	if err := d.buildDNS(ctx, cfg); err != nil {
		return err
	}
	d.acme = acme.Open(acme.Config{
		Settings: cfg.ACME, Port80: config.ACMEHTTP(cfg) != "", Port443: config.ACMEAtPort443(cfg), Sites: func() []config.ACMESite { return config.ACMESites(d.live.Config()) }, Dial: d.egress.DialHost, Key: func(site string) (crypto.Signer, error) { return d.enrol.Key(site), nil }, Registry: d.registry, Log: d.log,
	})
	if first.Gateway != nil {
		release, err := gateway.HoldState(ctx, cfg, d.log)
		if err != nil {
			return err
		}
		opened.add(release)
		d.signIn, err = signin.New(signin.Config{
			Live: d.live, Dial: d.egress.DialHost, Changed: func() { d.endChanged(true) }, ACME: d.acme.Certificate, Log: d.log, Metrics: d.metrics.signIn,
		})
		if err != nil {
			return err
		}
		d.egress.Add(policy.EgressSignIn, d.signIn)
	}
	if err := d.buildRouter(cfg); err != nil {
		return err
	}
	d.decided = decisions.Open(decisions.Config{Live: d.live, Flows: d.router, Log: d.log, Registry: d.registry})
	d.phones, err = privatedns.Open(ctx, cfg, privatedns.Config{
		Server: d.dns.Server, Serve: func() *config.DNSServe { return d.live.Config().DNS.Serve }, Whose: d.live.Phone,
		Listen: net.ListenConfig{Control: d.egress.Outside.Direct.Control}, Sockets: d.opts.Sockets, ACME: d.acme, Metrics: d.metrics.dns, Log: d.log,
	})
	if err != nil {
		return err
	}
	opened.add(d.phones.Close)
	d.follow = d.laptop.Follow(core{d}, d.egress)
	if first.Gateway != nil {
		d.gateway, err = gateway.Open(gateway.Config{
			Plan: first.Gateway, Handle: d.handle, Peer: d.live.Peer, Mark: d.laptop.Outside().Mark, Sockets: d.opts.Sockets, Limits: egress.StackLimits(cfg.Limits),
			OverQuota: core{d}.OverQuota, Metrics: d.metrics.stack, Log: d.log,
		})
		if err != nil {
			return config.Refused(cfg, "listen.wireguard.listen_port", "", err)
		}
		opened.add(d.gateway.Close)
		d.egress.Add(policy.EgressPeers, d.gateway)
	}
	if d.proxy, err = ingress.Open(ctx, ingress.Config{
		Config: cfg, Control: d.laptop.Outside().Direct.Control, Users: edition.Logins{Live: d.live}, Clients: who{d}, Handle: d.router.Handle, Spend: core{d}.Spend,
		Sockets: d.opts.Sockets, Log: d.log, Registry: d.registry,
	}); err != nil {
		return err
	}
	opened.add(d.proxy.Close)
	if err := d.laptop.Open(d.handle, egress.StackLimits(cfg.Limits), d.metrics.stack); err != nil {
		return config.Refused(cfg, "listen.tun.name", "", err)
	}
	names := &report.DNS{Server: d.dns.Server, Live: d.live, Settings: d.dns.Settings, Log: d.log}
	d.explain = &report.Policy{Live: d.live, Egress: d.egress, DNS: names, Flows: d.flows, Place: d.ways().Place, Others: d.laptop.Others, Log: d.log}
	d.health = health.New(health.Config{
		Targets: func() []string { return d.live.Config().Health }, Dial: d.explain.Reach, Changed: func() { tell(d.changed) }, Log: d.log,
	})
	d.status = &report.Process{
		Live: d.live, Egress: d.egress, Laptop: d.laptop, Follow: d.follow, Gateway: d.gateway, SignIn: d.signIn, Flows: d.flows, Started: d.started, Version: d.opts.Version,
		Health: d.health, Phones: d.phones, ACME: d.acme, Decisions: d.decided, Records: d.records, Ports: d.ports,
	}
	if d.fleet, err = member.Open(ctx, member.Config{
		Live: d.live, Router: d.router, Gateway: d.gateway, Process: d.status, Changing: &d.reloading, Reload: d.rereadAll, Use: d.useBundle,
		Listen: net.ListenConfig{Control: d.egress.Outside.Direct.Control}, Version: d.opts.Version, Registry: d.registry, Log: d.log,
	}); err != nil {
		return err
	}
	opened.add(d.fleet.Close)
	joining := enrol.Config{Listen: cfg.Listen.Enrol, Gateway: folders{d}, Sockets: d.opts.Sockets, ACME: d.acme, Mark: d.laptop.Outside().Mark, Registry: d.registry, Log: d.log}
	if cfg.Fleet != nil {
		joining.Fleet = d.fleet
	}
	if d.enrol, err = enrol.Open(ctx, joining); err != nil {
		return err
	}
	opened.add(d.enrol.Close) // before the fleet, which those need who are joining
	d.status.Fleet = d.fleet.Status
	d.feed = &report.Feed{Watchers: d.records.Watchers(), Process: d.status}
	d.status.RunsCopy(d.opts.Fault)
	d.process.Store(d.status)
	return nil
}

func (d *Daemon) buildWays(ctx context.Context, first *edition.Edition, opened *closers) (err error) {
	outside := d.laptop.Outside()
	outside.Past = d.clock.Past
	byKernel := kernel.Config{Config: first.Config, Limits: egress.StackLimits(first.Config.Limits)}
	if d.opts.Direct != nil || d.opts.TUN != nil {
		byKernel = kernel.Config{}
	}
	d.egress, err = egress.Open(ctx, egress.Config{
		Plan: first.Egress, Outside: outside, Kernel: byKernel, Hold: first.Config.AlwaysOn.Hold,
		Renamed: func() { tell(d.renamed) },
		Changed: func() { d.follow.TransportChanged(); tell(d.changed) },
		Servers: func(via string) []netip.AddrPort { return d.live.Now().ServersVia(via) },
		Reset:   func(name string) int { return d.router.Kill(func(f router.Flow) bool { return f.Egress == name }) },
		Metrics: d.metrics.egress,
		Log:     d.log,
	})
	if err != nil {
		return err
	}
	opened.add(d.egress.Close)
	if d.live.SetConditions(func(now *policy.Conditions) { now.Routes = d.egress.Routes() }) {
		tell(d.renamed) // a file has the last word about its routes: DNS follows it before the server has pushed anything
	}
	return nil
}

// tell leaves a signal in a channel of capacity 1, unless there is one.
func tell(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

func (d *Daemon) buildRouter(cfg *config.Config) (err error) {
	d.egress.Add(policy.EgressDNS, d.dns)
	d.router, err = router.New(router.Config{
		Policy: d.live, Clients: who{d}, Ways: d.ways(),
		Dropped: d.metrics.stack.Drop, Ended: d.ended,
		StormLimit: cfg.Limits.RejectStorm, StormWindow: cfg.Limits.RejectWindow, SniffTimeout: cfg.Limits.SniffTime,
		Log: d.log, Metrics: d.metrics.router,
	})
	d.flows.Router, d.flows.Log = d.router, d.log
	return err
}

// ways returns the ways out for the router.
func (d *Daemon) ways() ways { return ways{d.egress, d.live, d.laptop.Outside().Direct} }

// handle carries one flow. The stacks call it. A search for the program that sends it may take a while.
func (d *Daemon) handle(life context.Context, r *stack.Request) (rest func(context.Context)) {
	req := router.Request{Network: policy.NetworkOf(r.Network), Client: r.Client, Src: r.Src, Dst: r.Dst, Answer: egress.Answer{Request: r}}
	if (who{d}).Searches(r.Client) {
		return func(ctx context.Context) { d.router.Handle(ctx, req) }
	}
	return d.router.Begin(life, req)
}

func (d *Daemon) ended(f router.Flow) {
	d.flows.Add(f)
	d.records.Flow(func() control.Flow { return report.Flow(f) })
	if f.Verdict.Action != policy.Forward {
		d.log.Debug("flow refused", "flow", f.ID, "src", f.Facts.Src, "dst", f.Facts.Dst, "host", f.Name().Host, "rule", f.Verdict.Rule, "peer", f.Facts.Peer,
			"reason", report.Flow(f).Reason)
	}
}

// run starts the parts that run on their own and waits for them. If one fails, run stops the others.
func (d *Daemon) run(ctx context.Context, opened *closers) error {
	cfg := d.live.Config()
	ctx, cancel := context.WithCancelCause(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel(nil) // before the wait, so that everything ends whatever the reason
	start := func(name string, run func(context.Context) error) {
		wg.Go(func() {
			if err := run(ctx); err != nil && ctx.Err() == nil {
				cancel(fmt.Errorf("%s: %w", name, err))
			}
		})
	}
	server, page, err := d.openPorts(ctx, opened, start)
	if err != nil {
		return err
	}
	// DNS answers before the host's routes lead to it. The transports need no routes, and connect meanwhile.
	start("dns", d.dns.Run)
	start("dns settings", d.followTransports)
	if err := d.dns.Listen(ctx, cfg, start); err != nil {
		return config.Refused(cfg, "dns.listen", "stop the program that uses it or choose another address", err)
	}
	start("dns.serve", d.phones.Run)
	d.egress.Run(start)
	d.laptop.SetSearch(d.egress.Search())
	if err := d.laptop.Apply(ctx); err != nil {
		return err
	}
	if d.opts.Fault == nil { // before anything can reload, which keeps a copy, too
		d.keep(d.live.Now())
	}
	start("host", d.laptop.Watch)
	d.follow.Run(start)
	start("control", server.Run)
	start("console", page.Run)
	start("feed", d.feed.Run)
	start("lists", d.live.Lists.Run)
	start("decisions", d.decided.Run)
	start("last handshake", d.clock.Run)
	start("health", d.health.Run)
	start("memory", func(ctx context.Context) error {
		return memory.GiveBack(ctx, d.router, func() (uint64, int) { return d.live.Now().Number, d.live.Config().Peers.Len() })
	})
	start("reload", d.awaitReload)
	start("proxy", d.proxy.Run)
	start("records", d.records.Run)
	start("programs", d.laptop.Programs.Run)
	if d.gateway != nil {
		start("sessions", gateway.Sessions{Gateway: d.gateway, File: filepath.Join(cfg.StateDir, "sessions.json"), Elsewhere: d.fleet.Elsewhere, Log: d.log}.Run)
		start("fleet", d.fleet.Run)
		start("limits of peers", d.gateway.Run)
		start("sign-in", d.signIn.Run)
	}
	if d.gateway != nil || d.proxy != nil {
		start("peers", gateway.Watch{Every: time.Second, Folders: folders{d}, Log: d.log}.Run)
	}
	start("enrolment", d.enrol.Run)
	start("acme", d.acme.Run)
	d.opts.Sockets.Ready()
	start("service manager", d.notify)
	d.log.Info("penstock is running", "config", cfg.Path, "listen", d.status.Listening(), "socket", server.Socket())
	<-ctx.Done()
	// End the flows first, while their stacks can still send the resets. The closers end the rest.
	err = context.Cause(ctx)
	if errors.Is(err, context.Canceled) {
		err = nil
	}
	d.log.Info("penstock is stopping")
	d.gateway.Quicken()
	d.router.Kill(func(router.Flow) bool { return true })
	return err
}

// openPorts opens the control socket and the ports for browsers, monitoring and the authority. It starts those that need no other part.
func (d *Daemon) openPorts(ctx context.Context, opened *closers, start func(string, func(context.Context) error)) (server *control.Server, page *console.Page, err error) {
	cfg := d.live.Config()
	open := func(network, address string) (net.Listener, error) {
		return d.opts.Sockets.Listen(ctx, net.ListenConfig{}, network, address)
	}
	page, offered := console.Attach(cfg, d.controlConfig(cfg), d.ports, open, d.opts.Version)
	opened.add(page.Close)
	server, err = control.New(offered)
	switch {
	case errors.Is(err, control.ErrNoGroup):
		return nil, nil, cfg.Err("control.group", err.Error(), "make it with groupadd --system "+cfg.Control.Group+", or name another group")
	case err != nil:
		return nil, nil, err
	}
	opened.add(server.Close)
	if cfg.Metrics.Listen != "" {
		port, err := d.ports.Open("metrics.listen", func() (net.Listener, error) { return open("tcp", cfg.Metrics.Listen) })
		if err != nil {
			return nil, nil, config.Refused(cfg, "metrics.listen", "choose an address of this host", err)
		}
		opened.add(port.Close)
		monitor := control.NewMonitor(control.MonitorConfig{Gatherer: d.registry, Ready: d.status.Ready, Logger: d.log})
		start("metrics", func(ctx context.Context) error { return port.Serve(ctx, monitor.Run) })
	}
	if at := config.ACMEHTTP(cfg); at != "" {
		port, err := d.ports.Open("acme.http", func() (net.Listener, error) {
			return (&net.ListenConfig{Control: d.egress.Outside.Direct.Control}).Listen(ctx, "tcp", at)
		})
		if err != nil {
			return nil, nil, config.Refused(cfg, "acme.http", "choose an address of this host", err)
		}
		start("acme.http", func(ctx context.Context) error { return port.Serve(ctx, d.acme.Serve) })
	}
	return server, page, nil
}

// keep keeps a copy of the configuration of an edition that works.
func (d *Daemon) keep(e *edition.Edition) {
	if err := d.opts.Good.Keep(e.Files(), e.Kept(d.opts.Good.Former)); err != nil {
		d.log.Warn("there is no fresh copy of this configuration to start with if the next one has a fault", "err", err)
	}
}

// controlConfig returns what the control socket serves.
func (d *Daemon) controlConfig(cfg *config.Config) control.Config {
	c := control.Config{
		Socket: cmp.Or(d.opts.Socket, cfg.Control.Socket), Group: cfg.Control.Group, Logger: d.log,
		Process: process{d.status, d}, Flows: d.flows, DNS: d.explain.DNS, Lists: &report.Lists{Live: d.live, Log: d.log},
		Policy: d.explain, Decisions: d.decided, History: d.records.History(), Feed: d.feed,
		Transports: &report.Transports{Egress: d.egress, Follow: d.follow},
	}
	if d.gateway != nil || d.proxy != nil {
		c.Peers = &report.Peers{Live: d.live, Gateway: d.gateway, SignIn: d.signIn, Files: folders{d}}
		if cfg.Listen.Enrol != nil {
			c.Invites = d.enrol
		}
	}
	c.Doctor = doctor.Inside(c, d.live.Config, func() []string { return d.live.Now().Warnings() })
	return c
}

// process answers the control socket for the daemon as a whole.
type process struct {
	*report.Process
	d *Daemon
}

func (p process) Reload(ctx context.Context, q control.ReloadQuery) (control.Reloaded, error) {
	return p.d.reload(ctx, q)
}
