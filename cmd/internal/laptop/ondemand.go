package laptop

import (
	"context"
	"encoding/hex"
	"net"
	"sync"
	"time"

	"penstock/cmd/internal/config"
	"penstock/cmd/internal/egress"
	"penstock/policy"
	"penstock/router/ondemand"
	"penstock/router/pathmon"
	"penstock/router/transport"
)

// onDemand applies the on_demand list to each network. One goroutine acts; others leave it notes.
type onDemand struct {
	l      *Laptop
	core   Core
	egress *egress.Egress
	kick   chan struct{} // capacity 1: the notes have changed
	ask    ondemand.Asker
	steps  []ondemand.Step // owned by run
	from   *config.Config  // the configuration of the steps; owned by run

	trust   sync.Mutex // held while a network is trusted, or left, together with the notes about it
	mu      sync.Mutex // guards below
	path    pathmon.Path
	hasPath bool
	unclear bool   // the path may be about to change
	network uint64 // counts networks
	settled uint64 // the last network that was decided on
	manual  bool   // an order of the user overrides the list
	until   time.Time
	action  ondemand.Action
	decided bool
}

// laterLooks says when to examine a new network again: DNS servers and search domains arrive later than routes.
var laterLooks = [...]time.Duration{2 * time.Second, 10 * time.Second}

func newOnDemand(l *Laptop, core Core, e *egress.Egress) *onDemand {
	return &onDemand{
		l: l, core: core, egress: e, kick: make(chan struct{}, 1),
		ask: ondemand.Prober{
			Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
				return l.direct.DialContext(ctx, network, address)
			},
			Resolve: l.lookupHost,
		},
	}
}

// note changes the notes and wakes run.
func (o *onDemand) note(change func()) {
	o.mu.Lock()
	change()
	o.mu.Unlock()
	select {
	case o.kick <- struct{}{}:
	default:
	}
}

// changing reports whether the path may be about to change. A change is reported once the path has settled.
func (o *onDemand) changing(is bool) {
	change := func() { o.unclear = is }
	if is {
		o.leave(change)
	} else {
		o.note(change)
	}
}

// leave changes the notes because the network may have changed. From then on it is not trusted: whoever is about to trust it finds
// the notes changed.
func (o *onDemand) leave(change func()) {
	o.trust.Lock()
	defer o.trust.Unlock()
	if o.core.Conditions().Trusted {
		o.l.log.Info("the network is not trusted until it is identified again")
		o.core.Change(func(now *policy.Conditions) { now.Trusted = false })
	}
	o.note(change)
}

// again has the network examined again, as after a sleep: another network may look the same.
func (o *onDemand) again() { o.leave(func() { o.network++ }) }

// changed switches to another network and drops the user's order for the last one.
func (o *onDemand) changed(p pathmon.Path, ok bool) {
	o.leave(func() {
		first := o.network == 0
		o.path, o.hasPath, o.unclear = p, ok, false
		o.network++
		if !first {
			o.manual = false
		}
	})
}

// override lets an order of the user override the list: for d or, if d is 0, until the network changes.
func (o *onDemand) override(d time.Duration) {
	o.leave(func() {
		o.manual, o.until = true, time.Time{}
		if d > 0 {
			o.until = time.Now().Add(d)
		}
	})
}

// run acts until ctx ends.
func (o *onDemand) run(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	looks := 0
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-o.kick:
		case <-timer.C:
		}
		n := o.standing()
		if n.network != n.settled {
			looks = 0
		}
		timer.Stop()
		switch {
		case n.manual && n.until.IsZero():
			continue
		case n.manual && time.Now().Before(n.until):
			timer.Reset(time.Until(n.until))
			continue
		case !n.hasPath || n.unclear:
			continue
		}
		o.decide(ctx, n)
		if looks < len(laterLooks) {
			timer.Reset(laterLooks[looks])
			looks++
		}
	}
}

// notes is the input of run.
type notes struct {
	path                     pathmon.Path
	hasPath, unclear, manual bool
	network, settled         uint64
	until                    time.Time
}

func (o *onDemand) standing() notes {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.manual && !o.until.IsZero() && !time.Now().Before(o.until) {
		o.manual = false
	}
	return notes{o.path, o.hasPath, o.unclear, o.manual, o.network, o.settled, o.until}
}

// decide evaluates the list for a network and applies the result, unless the network has changed in between.
func (o *onDemand) decide(ctx context.Context, n notes) {
	if cfg := o.core.Config(); cfg != o.from {
		o.from, o.steps = cfg, onDemandSteps(cfg)
	}
	action, step := ondemand.Decide(ctx, o.steps, o.l.network(ctx, n.path), o.ask)
	o.trust.Lock()
	defer o.trust.Unlock()
	o.mu.Lock()
	stale := o.network != n.network || o.unclear || o.manual
	same := o.decided && o.action == action && o.settled == n.network
	if !stale {
		o.action, o.decided, o.settled = action, true, n.network
	}
	o.mu.Unlock()
	if stale || ctx.Err() != nil {
		return
	}
	if !same {
		o.l.log.Info("on demand", "action", action.String(), "step", step, "interface", n.path.Interface, "gateway", n.path.Gateway)
	}
	o.act(action)
}

// act brings the transports into the state that an action wants. The caller holds trust.
func (o *onDemand) act(action ondemand.Action) {
	trusted := action == ondemand.FilterOnly
	for _, t := range o.egress.Transports() {
		down := t.Health().State == transport.Down
		switch {
		case action == ondemand.Connect && down:
			t.Up()
		case (trusted || action == ondemand.Disconnect) && !down:
			t.Down()
		}
	}
	if action != ondemand.Ignore {
		o.core.Change(func(now *policy.Conditions) { now.Trusted = trusted })
	}
}

// words returns the action of on_demand for the status line, or "" if there is none.
func (o *onDemand) words() string {
	if o == nil {
		return ""
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.manual || !o.decided || o.action == ondemand.Connect {
		return ""
	}
	return ", on demand: " + o.action.String()
}

// onDemandSteps returns the steps of a configuration, which has been checked.
func onDemandSteps(cfg *config.Config) []ondemand.Step {
	steps := make([]ondemand.Step, len(cfg.OnDemand))
	for i, s := range cfg.OnDemand {
		steps[i].Then, _ = ondemand.ParseAction(s.Then)
		if s.If == nil {
			continue
		}
		c := &ondemand.Condition{
			Interface: s.If.Interface, SSID: s.If.SSID, DNSSearch: s.If.DNSSearch, DNSServer: s.If.DNSServer,
			GatewayIP: s.If.GatewayIP, ProbeURL: s.If.ProbeURL,
		}
		if b := s.If.Beacon; b != nil {
			c.Beacon = &ondemand.Beacon{Addr: b.Addr}
			_, _ = hex.Decode(c.Beacon.SHA256[:], []byte(b.SHA256)) // an invalid digest matches no certificate
		}
		steps[i].If = c
	}
	return steps
}

// network returns what is known about the current network.
func (l *Laptop) network(ctx context.Context, p pathmon.Path) ondemand.Network {
	n := ondemand.Network{Interface: p.Interface, SSID: ondemand.SSID(p.Interface), Gateway: p.Gateway}
	if l.net == nil {
		return n
	}
	var err error
	if n.Servers, err = l.net.OriginalResolvers(ctx); err != nil {
		l.log.Debug("cannot read the DNS servers of the network", "err", err)
	}
	if n.Search, err = l.net.OriginalSearchDomains(ctx); err != nil {
		l.log.Debug("cannot read the search domains of the network", "err", err)
	}
	return n
}
