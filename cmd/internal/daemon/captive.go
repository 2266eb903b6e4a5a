package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"

	"penstock/cmd/internal/config"
	"penstock/dnsproxy"
	"penstock/policy"
	"penstock/router/pathmon"
	"penstock/router/portal"
	"penstock/router/transport"
)

const (
	failsFor   = 2 * time.Second  // connecting in vain for so long may be a portal's doing
	failsLater = time.Minute      // the same on a network that has let us connect: it is rather the server
	lookAgain  = 30 * time.Second // while connecting goes on in vain
	lookPortal = 5 * time.Second  // while there is a portal: somebody is signing in
	overslept  = 3 * time.Second  // later than due by so much means that the process did not run
)

// captive looks for captive portals while transports cannot connect. One goroutine owns it.
type captive struct {
	d       *Daemon
	window  time.Duration // how long a portal may be reached; 0: not at all
	look    func(context.Context) (p portal.Portal, ok, clear bool)
	kick    chan struct{} // of capacity 1: a transport's state or the network changed
	network atomic.Uint64 // counts networks
	found   atomic.Pointer[portal.Portal]

	// Owned by run.
	seen   uint64    // the network that was looked at last
	proved bool      // a transport has been connected on it
	moved  time.Time // when it was first looked at
	woke   time.Time // when the process was found to have slept: what it has not seen fail does not count
	opened string    // the host that was let out on it: once is enough
}

// opening is a portal that may be reached for a while.
type opening struct {
	host    string
	addr    netip.Addr // of a host that is an address
	port    uint16
	servers []netip.Addr // that resolve the host
	until   time.Time
}

func (d *Daemon) newCaptive() *captive {
	c := &captive{d: d, window: d.cfg.CaptivePortal.Window, kick: make(chan struct{}, 1)}
	detector := portal.New(portal.Config{
		Probes: d.cfg.CaptivePortal.Probe, Dial: d.host.dialBy, Resolve: d.host.lookupHost, Log: d.log,
	})
	c.look = func(ctx context.Context) (portal.Portal, bool, bool) {
		uplinks, err := pathmon.Uplinks(d.host.name)
		if errors.Is(err, errors.ErrUnsupported) {
			uplinks, err = []string{""}, nil // whichever the system chooses
		}
		if err != nil {
			d.log.Debug("uplinks are not known", "err", err)
		}
		return detector.Look(ctx, uplinks)
	}
	return c
}

// changed tells that a transport's state changed. It never blocks.
func (c *captive) changed() {
	select {
	case c.kick <- struct{}{}:
	default:
	}
}

// moves tells that the network is another one. It never blocks.
func (c *captive) moves() {
	c.network.Add(1)
	c.changed()
}

// run looks for portals until ctx ends.
func (c *captive) run(ctx context.Context) error {
	timer := time.NewTimer(failsFor)
	defer timer.Stop()
	for {
		var due time.Time
		if next := c.step(ctx, time.Now()); next > 0 {
			due = time.Now().Add(next)
			timer.Reset(next)
		} else {
			timer.Stop()
		}
		select {
		case <-ctx.Done():
			return nil
		case <-c.kick:
		case <-timer.C:
		}
		if now := time.Now(); !due.IsZero() && now.Sub(due) > overslept {
			c.woke = now
		}
	}
}

// step does what is due and returns the time until the next; 0 if nothing is waited for.
func (c *captive) step(ctx context.Context, now time.Time) (next time.Duration) {
	if n := c.network.Load(); n != c.seen {
		c.seen, c.moved, c.opened, c.proved = n, now, "", false
		c.forget()
	}
	if o := c.d.rules.opening.Load(); o != nil && !now.Before(o.until) {
		c.shut()
	}
	since, failing, connected := failingSince(c.d.egress.health())
	c.proved = c.proved || connected
	if !failing {
		c.forget()
		return 0
	}
	for _, later := range []time.Time{c.moved, c.woke} {
		if later.After(since) {
			since = later
		}
	}
	patience := failsFor
	if c.proved {
		patience = failsLater
	}
	if left := patience - now.Sub(since); left > 0 {
		return left
	}
	p, ok, clear := c.look(ctx)
	switch {
	case ctx.Err() != nil:
		return 0
	case ok:
		c.take(ctx, p, now)
		if o := c.d.rules.opening.Load(); o != nil {
			return min(lookPortal, o.until.Sub(now))
		}
		return lookPortal
	case clear && c.found.Load() != nil:
		c.d.log.Info("the captive portal has let us out")
		c.forget()
		for _, t := range c.d.egress.tunnels {
			t.Reconnect()
		}
	}
	return lookAgain
}

// failingSince says since when transports try to connect, if some do and none is connected: one that is proves that nobody
// holds us captive.
func failingSince(all []transport.Health) (since time.Time, failing, connected bool) {
	for _, h := range all {
		switch h.State {
		case transport.Connected:
			return time.Time{}, false, true
		case transport.Connecting, transport.Reconnecting:
			if !failing || h.Since.Before(since) {
				since = h.Since
			}
			failing = true
		}
	}
	return since, failing, false
}

// take notes a portal, and opens the way to it if that is wanted.
func (c *captive) take(ctx context.Context, p portal.Portal, now time.Time) {
	if before := c.found.Swap(&p); before == nil || *before != p {
		c.d.log.Warn("a captive portal keeps transports from connecting: sign in there", "url", p.URL, "interface", p.Uplink)
	}
	host := p.Host()
	if c.window == 0 || host == "" || c.opened == host {
		return
	}
	o, err := c.d.newOpening(ctx, p, now.Add(c.window))
	if err != nil {
		c.d.log.Warn("the way to the captive portal stays closed", "host", host, "err", err)
		return
	}
	c.opened = host
	c.d.rules.opening.Store(o)
	if err := c.d.setDNS(nil); err != nil {
		c.shut()
		c.d.log.Warn("the way to the captive portal stays closed", "host", host, "err", err)
		return
	}
	c.d.log.Warn("the captive portal may be reached outside the transports", "host", host, "until", o.until)
}

// forget notes that there is no portal, as far as is known.
func (c *captive) forget() {
	c.found.Store(nil)
	c.shut()
}

// shut closes the way to a portal. What goes there is ended.
func (c *captive) shut() {
	if c.d.rules.opening.Swap(nil) == nil {
		return
	}
	c.d.endRerouted()
	if err := c.d.setDNS(nil); err != nil {
		c.d.log.Warn("the captive portal's name is still resolved by the network", "err", err)
	}
	c.d.log.Info("the way to the captive portal is closed again")
}

// newOpening makes the opening for a portal.
func (d *Daemon) newOpening(ctx context.Context, p portal.Portal, until time.Time) (*opening, error) {
	u, err := url.Parse(p.URL)
	if err != nil {
		return nil, err
	}
	o := &opening{port: 80, until: until}
	if u.Scheme == "https" {
		o.port = 443
	}
	if s := u.Port(); s != "" {
		port, err := strconv.ParseUint(s, 10, 16)
		if err != nil {
			return nil, fmt.Errorf("port %q", s)
		}
		o.port = uint16(port)
	}
	if a, err := netip.ParseAddr(u.Hostname()); err == nil {
		o.addr = a.Unmap()
		return o, nil
	}
	if o.host, err = policy.CanonicalName(u.Hostname()); err != nil {
		return nil, err
	}
	if d.host.net != nil {
		o.servers, err = d.host.net.OriginalResolvers(ctx)
	}
	if err == nil && len(o.servers) == 0 {
		err = errors.New("the network's DNS servers are not known")
	}
	return o, err
}

// admits reports that a flow goes to the portal. Every name that is known of it must be the portal's.
func (o *opening) admits(f policy.Flow) bool {
	if o == nil || f.Network != policy.TCP || !slices.Contains([]uint16{80, 443, o.port}, f.Dst.Port()) {
		return false
	}
	if o.addr.IsValid() {
		return f.Dst.Addr() == o.addr
	}
	another := func(n policy.Name) bool { return n.Host != o.host }
	return len(f.Names) > 0 && !slices.ContainsFunc(f.Names, another)
}

// zone has the portal's name resolved by the network's own servers; ok is false if nothing is open, or if the
// configuration has a way of its own to resolve it.
func (c *captive) zone(cfg *config.Config, direct dnsproxy.Dialer) (z dnsproxy.Zone, ok bool) {
	if c == nil {
		return z, false
	}
	o := c.d.rules.opening.Load()
	if o == nil || o.host == "" || slices.ContainsFunc(cfg.DNS.Split, func(s config.Split) bool { return slices.Contains(s.Domains, o.host) }) {
		return z, false
	}
	z.Domains = []string{o.host}
	for _, s := range o.servers {
		z.Upstreams = append(z.Upstreams, dnsproxy.Upstream{Name: "captive-portal", Address: s.String(), Via: policy.EgressDirect, Dialer: direct})
	}
	return z, true
}

// explains gives a state that a captive portal is behind its reason.
func (c *captive) explains(h transport.Health) transport.Health {
	if c == nil || h.State != transport.Connecting && h.State != transport.Reconnecting {
		return h
	}
	if p := c.found.Load(); p != nil {
		h.Reason, h.Err = transport.ReasonCaptivePortal, "sign in at "+p.URL
	}
	return h
}

// dialBy dials outside the TUN by an uplink; empty is the one that the system chooses.
func (h *host) dialBy(ctx context.Context, uplink, network, address string) (net.Conn, error) {
	d := net.Dialer{Control: func(network, address string, c syscall.RawConn) error {
		if err := h.dialer.Control(network, address, c); err != nil || uplink == "" {
			return err
		}
		return bindToDevice(c, uplink)
	}}
	return d.DialContext(ctx, network, address)
}
