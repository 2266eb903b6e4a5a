package laptop

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync/atomic"
	"syscall"
	"time"

	"penstock/cmd/internal/edition"
	"penstock/cmd/internal/egress"
	"penstock/policy"
	"penstock/policy/iprange"
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

	mostPortals = 3 // hosts that one network may have opened, each once: one that names ever new ones would never end
)

// captive looks for captive portals while transports cannot connect. One goroutine owns it.
type captive struct {
	l       *Laptop
	core    Core
	egress  *egress.Egress
	window  time.Duration // how long a portal may be reached; 0: not at all
	look    func(context.Context) (p portal.Portal, ok, clear bool)
	kick    chan struct{} // of capacity 1: a transport's state or the network changed
	network atomic.Uint64 // counts networks
	found   atomic.Pointer[portal.Portal]
	zone    atomic.Pointer[edition.PortalZone] // the portal's name, while it may be reached; nil: none

	// Owned by run.
	seen   uint64    // the network that was looked at last
	proved bool      // a transport has been connected on it
	moved  time.Time // when it was first looked at
	woke   time.Time // when the process was found to have slept: what it has not seen fail does not count
	opened []string  // the hosts that were let out on it: once each is enough
	until  time.Time // when the way to the portal is closed again; zero: it is closed
}

func newCaptive(l *Laptop, core Core, e *egress.Egress) *captive {
	c := &captive{l: l, core: core, egress: e, window: l.cfg.CaptivePortal.Window, kick: make(chan struct{}, 1)}
	detector := portal.New(portal.Config{
		Probes: l.cfg.CaptivePortal.Probe, Dial: l.dialBy, Resolve: l.lookupHost, Log: l.log,
	})
	c.look = func(ctx context.Context) (portal.Portal, bool, bool) {
		uplinks, err := pathmon.Uplinks(l.Interface())
		if errors.Is(err, errors.ErrUnsupported) {
			uplinks, err = []string{""}, nil // whichever the system chooses
		}
		if err != nil {
			l.log.Debug("uplinks are not known", "err", err)
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
		c.seen, c.moved, c.opened, c.proved = n, now, nil, false
		c.forget()
	}
	if !c.until.IsZero() && !now.Before(c.until) {
		c.shut()
	}
	since, failing, connected := failingSince(c.egress.Health())
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
		if !c.until.IsZero() {
			return min(lookPortal, c.until.Sub(now))
		}
		return lookPortal
	case clear && c.found.Load() != nil:
		c.l.log.Info("the captive portal has let us out")
		c.forget()
		for _, t := range c.egress.Transports() {
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
		c.l.log.Warn("a captive portal keeps transports from connecting: sign in there", "url", p.URL, "interface", p.Uplink)
	}
	host := p.Host
	if c.window == 0 || host == "" || slices.Contains(c.opened, host) || len(c.opened) == mostPortals {
		return
	}
	c.opened = append(c.opened, host)
	opening, zone, err := c.opening(ctx, p)
	if err != nil {
		c.l.log.Warn("the way to the captive portal stays closed", "host", host, "err", err)
		return
	}
	c.until = now.Add(c.window)
	c.zone.Store(zone)
	c.core.Change(func(now *policy.Conditions) { now.Portal = opening })
	c.l.log.Warn("the captive portal may be reached outside the transports", "host", host, "until", c.until)
}

// forget notes that there is no portal, as far as is known.
func (c *captive) forget() {
	c.found.Store(nil)
	c.shut()
}

// shut closes the way to a portal. What goes there is ended.
func (c *captive) shut() {
	if c.until.IsZero() {
		return
	}
	c.until = time.Time{}
	c.zone.Store(nil)
	c.core.Change(func(now *policy.Conditions) { now.Portal = nil })
	c.l.log.Info("the way to the captive portal is closed again")
}

// errInside refuses a portal that takes the name or the address of something that belongs inside.
var errInside = errors.New("it has a name or an address that rules, zones or transports keep inside: a portal that claims it is not one")

// opening makes what lets out flows to a portal, and the zone by which its name is resolved; nil if it is an address. A
// portal can be any host that the access network names: what a rule, a split zone or a transport keeps inside is never
// opened, and an internal address only within the access network's own networks.
func (c *captive) opening(ctx context.Context, p portal.Portal) (*policy.Portal, *edition.PortalZone, error) {
	o := &policy.Portal{Port: p.Port, Local: c.local(p.Uplink)}
	if a := p.Addr(); a.IsValid() {
		o.Addr = a.Unmap()
		if iprange.IsInternal(o.Addr) && !within(o.Local, o.Addr) || within(c.core.Inside(), o.Addr) {
			return nil, nil, errInside
		}
		return o, nil, nil
	}
	var err error
	if o.Host, err = policy.CanonicalName(p.Host); err != nil {
		return nil, nil, err
	}
	if c.core.IsInside(o.Host) {
		return nil, nil, errInside
	}
	zone := &edition.PortalZone{Host: o.Host}
	if c.l.net != nil {
		zone.Servers, err = c.l.net.OriginalResolvers(ctx)
	}
	if err == nil && len(zone.Servers) == 0 {
		err = errors.New("the network's DNS servers are not known")
	}
	return o, zone, err
}

// local are the access network's own networks by an uplink, but for what a transport keeps inside.
func (c *captive) local(uplink string) []netip.Prefix {
	addrs, err := interfaceAddrs(uplink)
	if err != nil {
		c.l.log.Debug("the access network's own networks are not known", "interface", uplink, "err", err)
		return nil
	}
	inside := c.core.Inside()
	return slices.DeleteFunc(addrs, func(p netip.Prefix) bool {
		return slices.ContainsFunc(inside, p.Overlaps)
	})
}

func within(list []netip.Prefix, a netip.Addr) bool {
	return slices.ContainsFunc(list, func(p netip.Prefix) bool { return p.Contains(a) })
}

// interfaceAddrs are the networks that an interface is directly connected to.
func interfaceAddrs(name string) ([]netip.Prefix, error) {
	i, err := net.InterfaceByName(name)
	if err != nil {
		return nil, err
	}
	addrs, err := i.Addrs()
	if err != nil {
		return nil, err
	}
	var list []netip.Prefix
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil {
			list = append(list, p.Masked())
		}
	}
	return list, nil
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
func (l *Laptop) dialBy(ctx context.Context, uplink, network, address string) (net.Conn, error) {
	d := net.Dialer{Control: func(network, address string, c syscall.RawConn) error {
		if err := l.direct.Control(network, address, c); err != nil || uplink == "" {
			return err
		}
		return bindToDevice(c, uplink)
	}}
	return d.DialContext(ctx, network, address)
}
