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
	failsFor   = 2 * time.Second // after failing to connect for this long, look for a portal
	failsLater = time.Minute     // the same on a network where a transport has connected: more likely the server is down
	lookPortal = 5 * time.Second // while there is a portal, because the user is signing in; doubles
	lookSeldom = time.Minute     // the longest pause while there is a portal
	overslept  = 3 * time.Second // if a step is this late, the process was not running

	mostPortals = 3 // hosts opened on one network, once each: a network that keeps naming new ones must not stay open for ever
)

// lookPauses are the pauses after each look at a network without a portal, while connecting keeps failing. After the last look
// the server must be at fault. Each look is a question and a request in clear.
var lookPauses = [...]time.Duration{10 * time.Second, 30 * time.Second, 2 * time.Minute}

// captive looks for captive portals while transports cannot connect. One goroutine owns it.
type captive struct {
	l       *Laptop
	core    Core
	egress  *egress.Egress
	window  time.Duration // how long a portal stays open; 0: never opened
	look    func(context.Context) (p portal.Portal, ok, clear bool)
	kick    chan struct{} // capacity 1: a transport's state or the network has changed
	network atomic.Uint64 // counts networks
	found   atomic.Pointer[portal.Portal]
	zone    atomic.Pointer[edition.PortalZone] // the portal's name while it is open; nil: none

	// Owned by run.
	seen   uint64    // the last network that was examined
	proved bool      // a transport has been connected on it, or its server has answered
	looks  int       // how often it was examined since the last portal
	shown  int       // how often a portal was seen in a row
	next   time.Time // when it may be examined again; zero: at once
	moved  time.Time // when it was first examined
	woke   time.Time // when the process last woke; failures before that do not count
	opened []string  // the hosts that were opened on this network; each is opened only once
	until  time.Time // when the portal is closed again; zero: it is closed
}

func newCaptive(l *Laptop, core Core, e *egress.Egress) *captive {
	c := &captive{l: l, core: core, egress: e, window: l.cfg.CaptivePortal.Window, kick: make(chan struct{}, 1)}
	detector := portal.New(portal.Config{
		Probes: l.cfg.CaptivePortal.Probe, Dial: l.dialBy, Resolve: l.lookupHost, Log: l.log,
	})
	c.look = func(ctx context.Context) (portal.Portal, bool, bool) {
		uplinks, err := pathmon.Uplinks(l.Interface())
		if errors.Is(err, errors.ErrUnsupported) {
			uplinks, err = []string{""}, nil // the one that the system chooses
		}
		if err != nil {
			l.log.Debug("cannot list uplinks", "err", err)
		}
		return detector.Look(ctx, uplinks)
	}
	return c
}

// changed reports that a transport's state has changed. It never blocks.
func (c *captive) changed() {
	select {
	case c.kick <- struct{}{}:
	default:
	}
}

// moves reports that the network has changed. It never blocks.
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

// step does what is due. It returns the time until the next step, or 0 if there is none.
func (c *captive) step(ctx context.Context, now time.Time) (next time.Duration) {
	if n := c.network.Load(); n != c.seen {
		c.seen, c.moved, c.opened, c.proved = n, now, nil, false
		c.looks, c.shown, c.next = 0, 0, time.Time{}
		c.forget()
	}
	if !c.until.IsZero() && !now.Before(c.until) {
		c.shut()
	}
	next = c.examine(ctx, now)
	if left := c.until.Sub(now); !c.until.IsZero() && (next == 0 || left < next) {
		return left // an open portal is closed in time, however long the next look is away
	}
	return next
}

// examine looks for a portal if that is due. It returns the time until the next look, or 0 if there is none.
func (c *captive) examine(ctx context.Context, now time.Time) (next time.Duration) {
	since, failing, proved := failingSince(c.egress.Health(), c.moved)
	c.proved = c.proved || proved
	if !failing {
		c.forget()
		return 0
	}
	for _, later := range []time.Time{c.moved, c.woke} {
		if later.After(since) {
			since = later
		}
	}
	due := since.Add(failsFor)
	if c.proved {
		due = since.Add(failsLater)
	}
	if c.next.After(due) {
		due = c.next
	}
	if left := due.Sub(now); left > 0 {
		return left
	}
	if c.looks > len(lookPauses) {
		return 0
	}
	p, ok, clear := c.look(ctx)
	if ctx.Err() != nil {
		return 0
	}
	pause := c.pause(ok)
	c.next = now.Add(pause)
	switch {
	case ok:
		c.take(ctx, p, now)
	case clear && c.found.Load() != nil:
		c.l.log.Info("captive portal passed: the network is open")
		c.forget()
		for _, t := range c.egress.Transports() {
			t.Reconnect()
		}
	}
	return pause
}

// pause counts a look and returns the time until the next one, or 0 if that was the last.
func (c *captive) pause(portal bool) time.Duration {
	if portal {
		c.looks = 0
		c.shown++
		return min(lookPortal<<min(c.shown-1, 8), lookSeldom)
	}
	c.looks++
	c.shown = 0
	if c.looks > len(lookPauses) {
		return 0
	}
	return lookPauses[c.looks-1]
}

// failingSince returns since when transports have been failing to connect. failing is false if a server has answered, because
// then there is no captive portal: the transport is connected, or its credentials or certificates are wrong. proved reports such
// an answer since moved, when the network was joined.
func failingSince(all []transport.Health, moved time.Time) (since time.Time, failing, proved bool) {
	for _, h := range all {
		switch h.State {
		case transport.Connected:
			return time.Time{}, false, true
		case transport.Connecting, transport.Reconnecting:
			if h.Stats.LastRx.After(h.Since) && h.Stats.LastRx.After(moved) {
				return time.Time{}, false, true
			}
			if !failing || h.Since.Before(since) {
				since = h.Since
			}
			failing = true
		}
	}
	return since, failing, false
}

// take records a portal, and opens it if the configuration allows that.
func (c *captive) take(ctx context.Context, p portal.Portal, now time.Time) {
	if before := c.found.Swap(&p); before == nil || *before != p {
		c.l.log.Warn("captive portal found: sign in there so that transports can connect", "url", p.URL, "interface", p.Uplink)
	}
	host := p.Host
	if c.window == 0 || host == "" || slices.Contains(c.opened, host) || len(c.opened) == mostPortals {
		return
	}
	c.opened = append(c.opened, host)
	opening, zone, err := c.opening(ctx, p)
	if err != nil {
		c.l.log.Warn("captive portal not opened", "host", host, "err", err)
		return
	}
	c.until = now.Add(c.window)
	c.zone.Store(zone)
	c.core.Change(func(now *policy.Conditions) { now.Portal = opening })
	c.l.log.Warn("captive portal opened: it can be reached outside the transports", "host", host, "until", c.until)
}

// forget records that no portal is known.
func (c *captive) forget() {
	c.found.Store(nil)
	c.shut()
}

// shut closes the portal and ends the flows to it.
func (c *captive) shut() {
	if c.until.IsZero() {
		return
	}
	c.until = time.Time{}
	c.zone.Store(nil)
	c.core.Change(func(now *policy.Conditions) { now.Portal = nil })
	c.l.log.Info("captive portal closed")
}

// errInside refuses a portal that uses an internal name or address.
var errInside = errors.New("its name or address belongs to a rule, a split zone or a transport, so it cannot be a captive portal")

// opening returns the condition that lets flows reach a portal, and the zone that resolves its name, which is nil if the portal
// is an address. The access network can name any host as its portal. So opening refuses hosts that a rule, a split zone or a
// transport keeps inside, and internal addresses outside the access network's own networks.
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
		err = errors.New("the DNS servers of the network are unknown")
	}
	return o, zone, err
}

// local returns the networks that an uplink is connected to, without those that a transport keeps inside.
func (c *captive) local(uplink string) []netip.Prefix {
	addrs, err := interfaceAddrs(uplink)
	if err != nil {
		c.l.log.Debug("cannot list the networks of an uplink", "interface", uplink, "err", err)
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

// interfaceAddrs returns the networks that an interface is directly connected to.
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

// explains adds the captive portal as the reason to a state that it causes.
func (c *captive) explains(h transport.Health) transport.Health {
	if c == nil || h.State != transport.Connecting && h.State != transport.Reconnecting {
		return h
	}
	if p := c.found.Load(); p != nil {
		h.Reason, h.Err = transport.ReasonCaptivePortal, "sign in at "+p.URL
	}
	return h
}

// dialBy dials outside the TUN through an uplink. If it is empty, the system chooses one.
func (l *Laptop) dialBy(ctx context.Context, uplink, network, address string) (net.Conn, error) {
	d := net.Dialer{Control: func(network, address string, c syscall.RawConn) error {
		if err := l.direct.Control(network, address, c); err != nil || uplink == "" {
			return err
		}
		return bindToDevice(c, uplink)
	}}
	return d.DialContext(ctx, network, address)
}
