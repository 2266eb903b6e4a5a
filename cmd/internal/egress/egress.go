package egress

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"penstock/cmd/internal/kernel"
	"penstock/policy"
	"penstock/router"
	"penstock/router/transport"
	"penstock/router/transport/openvpn"
	"penstock/stack"
)

// Config is what Open needs. All fields except Metrics and Log must be set.
type Config struct {
	Plan    *Plan
	Outside Outside
	Kernel  kernel.Config // the zero value: direct flows leave by sockets
	Hold    time.Duration // how long flows survive without their transport before they are reset

	// Renamed is called when the DNS servers or the routes of a transport have changed. It must not block.
	Renamed func()
	// Changed is called when a transport's state has changed. It must not block.
	Changed func()
	// Servers are the plain DNS servers that the configuration asks through a transport.
	Servers func(via string) []netip.AddrPort
	// Reset ends the live flows of an egress and returns how many there were.
	Reset func(egress string) int

	Metrics Metrics
	Log     *slog.Logger // if nil, nothing is logged
}

// Metrics holds the metrics of the parts. Each may be nil; then nothing is counted.
type Metrics struct {
	Stack     *stack.Metrics
	Transport *transport.Metrics
	OpenVPN   *openvpn.Metrics
	Reset     *prometheus.CounterVec // by transport: see NewResetMetric
}

// NewResetMetric returns the counter of flows that were reset because their transport stayed down, and registers it with
// reg.
func NewResetMetric(reg prometheus.Registerer) *prometheus.CounterVec {
	c := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "penstock_transport_flows_reset_total",
		Help: "Flows reset because their transport stayed down for longer than always_on.hold.",
	}, []string{"transport"})
	reg.MustRegister(c)
	return c
}

// Egress holds the ways out by name. It is safe for concurrent use.
type Egress struct {
	Config
	dialers    atomic.Pointer[map[string]router.Dialer] // never changed, only replaced
	transports []*Transport                             // sorted by name
	groups     []*Group                                 // sorted by name
	holds      *holds
	kernel     *kernel.Way // nil: there is no choice
}

// Transport is one transport: the supervisor of its driver, and the stack inside it.
type Transport struct {
	*transport.Tunnel
	Kind     string   // wireguard or openvpn
	Warnings []string // about unsafe or ignored lines of its file
	inner    inner
}

// Named reports whether the server may have other addresses than the one in use.
func (t *Transport) Named() bool { return t.inner.facts().named }

// Resolvers returns the plain DNS servers inside the transport.
func (t *Transport) Resolvers() []netip.AddrPort { return t.inner.facts().resolvers() }

// Question returns what the transport's server wants from its user; ok is false if nothing.
func (t *Transport) Question() (q Question, ok bool) {
	o, is := t.inner.(*openvpnInner)
	h := t.Health()
	if !is || h.State == transport.Connected || h.State == transport.Down {
		return Question{}, false
	}
	if q, ok = o.asking.pending(); ok {
		return q, true
	}
	return Question{Again: true, Why: h.Err}, h.State == transport.Waiting && h.Err != "" // without an error a session waits
}

// Answer answers the question of the transport's server.
func (t *Transport) Answer(a Reply) error {
	o, is := t.inner.(*openvpnInner)
	if !is {
		return fmt.Errorf("%s is no OpenVPN transport: its server asks nothing", t.Name)
	}
	again, err := o.asking.answer(a)
	if again {
		t.Reconnect()
	}
	return err
}

// Group is a list of transports under one name, one of which carries new flows.
type Group struct {
	*transport.Group
	Name string
}

// inner is the part of a transport inside the tunnel.
type inner interface {
	router.Dialer
	// carrier returns the stack whose packets reach dst; nil if none do.
	carrier(dst netip.Addr) *stack.Stack
	// newDriver returns a driver that is not connected.
	newDriver(lost func(error)) (transport.Driver, error)
	// facts returns what is known about the transport now.
	facts() facts
	// inside returns the stack inside the tunnel.
	inside() *stack.Stack
	// reset ends the flows inside, but not the session.
	reset() error
}

// facts is what is known about a transport, from its file or from what its server pushed.
type facts struct {
	naming Naming
	routes *policy.Routes // nil: everything
	ipv6   bool           // it has an IPv6 address
	named  bool           // its server may have other addresses than the one in use
}

// resolvers returns the plain DNS servers of the transport.
func (f facts) resolvers() []netip.AddrPort {
	var list []netip.AddrPort
	for _, s := range f.naming.Servers {
		if s.Direct {
			continue
		}
		if a, err := netip.ParseAddrPort(s.Address); err == nil {
			list = append(list, a)
		} else if a, err := netip.ParseAddr(s.Address); err == nil {
			list = append(list, netip.AddrPortFrom(a, 53))
		}
	}
	return list
}

// Open builds the transports of a plan, and the way by the kernel. No transport connects before Run.
func Open(ctx context.Context, c Config) (*Egress, error) {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	e := &Egress{Config: c}
	dialers := map[string]router.Dialer{policy.EgressDirect: c.Outside.Direct}
	c.Kernel.Reserved, c.Kernel.Mark, c.Kernel.Metrics, c.Kernel.Log = c.Outside.Direct.Reserved, c.Outside.Mark, c.Metrics.Stack, c.Log
	if c.Kernel.Config != nil && c.Kernel.Config.Listen.TUN != nil {
		c.Kernel.Reserved = func(a netip.Addr) bool { return c.Outside.Direct.Reserved(a) || !c.Outside.Direct.Routed(a) }
	}
	e.kernel = kernel.Open(ctx, c.Kernel)
	e.holds = newHolds(c.Hold, e.Health, e.expire)
	for _, p := range c.Plan.transports {
		t, err := e.open(p)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("%s: transport %s: %w", p.config.Pos, p.name, err), e.Close())
		}
		e.transports = append(e.transports, t)
		dialers[p.name] = transport.Gate{Tunnel: t.Tunnel, Inner: t.inner}
		if c.Metrics.Reset != nil {
			c.Metrics.Reset.WithLabelValues(p.name)
		}
	}
	for name, members := range c.Plan.groups {
		gates := make([]transport.Gate, len(members))
		for i, member := range members {
			t, _ := e.Transport(member) // the plan has checked it
			gates[i] = transport.Gate{Tunnel: t.Tunnel, Inner: t.inner}
		}
		g := &Group{transport.NewGroup(name, gates), name}
		e.groups = append(e.groups, g)
		dialers[name] = g
	}
	e.dialers.Store(&dialers)
	slices.SortFunc(e.groups, func(a, b *Group) int { return cmp.Compare(a.Name, b.Name) })
	return e, nil
}

func (e *Egress) open(p planned) (t *Transport, err error) {
	t = &Transport{Kind: "wireguard", Warnings: p.warnings}
	if p.openvpn != nil {
		t.Kind = "openvpn"
		t.inner, err = newOpenVPN(p, &e.Config)
	} else {
		t.inner, err = newWireGuard(p, &e.Config)
	}
	if err != nil {
		return nil, err
	}
	t.Tunnel = transport.NewTunnel(transport.Config{
		Name: p.name,
		New:  func() (transport.Driver, error) { return t.inner.newDriver(func(err error) { t.Lost(err) }) },
		Changed: func(h transport.Health) {
			e.holds.changed()
			if h.State == transport.Connected {
				go t.inner.inside().Nudge() // it sends
			}
			e.Changed()
		},
		Log:     e.Log,
		Metrics: e.Metrics.Transport,
	})
	if o, is := t.inner.(*openvpnInner); is {
		o.asking.waits = t.AwaitSignIn
	}
	return t, nil
}

// Add adds a way that is not a transport, such as the embedded DNS server. Flows may be dialled meanwhile: a gateway has its port open
// before it can be added itself. Only one goroutine may add ways.
func (e *Egress) Add(name string, d router.Dialer) {
	next := maps.Clone(*e.dialers.Load())
	next[name] = d
	e.dialers.Store(&next)
}

// Dialer finds a way by name.
func (e *Egress) Dialer(name string) (router.Dialer, bool) {
	d, ok := (*e.dialers.Load())[name]
	return d, ok
}

// IsNotUp reports whether a dial failed because its transport is not up.
func (e *Egress) IsNotUp(err error) bool { return errors.Is(err, transport.ErrNotUp) }

// Run starts the supervisors, and the goroutine that resets the flows of transports that stay down.
func (e *Egress) Run(start func(name string, run func(context.Context) error)) {
	for _, t := range e.transports {
		start("transport "+t.Name, t.Run)
	}
	start("hold", e.holds.run)
	start("kernel", e.kernel.Run)
}

// Close closes the stacks inside the transports. The supervisors must have ended.
func (e *Egress) Close() error {
	errs := []error{e.kernel.Close()}
	for _, t := range e.transports {
		errs = append(errs, t.inner.inside().Close())
	}
	return errors.Join(errs...)
}

// Transports returns the transports, sorted by name. The caller must not change the list.
func (e *Egress) Transports() []*Transport { return e.transports }

// Groups returns the failover groups, sorted by name. The caller must not change the list.
func (e *Egress) Groups() []*Group { return e.groups }

// Transport finds a transport by name.
func (e *Egress) Transport(name string) (*Transport, bool) {
	i := slices.IndexFunc(e.transports, func(t *Transport) bool { return t.Name == name })
	if i < 0 {
		return nil, false
	}
	return e.transports[i], true
}

// Serving returns the transport that carries new flows of a transport or group; ok is false if name is neither.
func (e *Egress) Serving(name string) (t *Transport, ok bool) {
	for _, g := range e.groups {
		if g.Name == name {
			name = g.Current().Name
		}
	}
	return e.Transport(name)
}

// Steered returns the transports that an order is for: the one with that name, or all if name is empty.
func (e *Egress) Steered(name string) ([]*Transport, error) {
	if name == "" {
		return e.transports, nil
	}
	if t, ok := e.Transport(name); ok {
		return []*Transport{t}, nil
	}
	return nil, fmt.Errorf("there is no transport %q: \"penstock status\" lists them", name)
}

// Health returns the health of every transport, sorted by name.
func (e *Egress) Health() []transport.Health {
	list := make([]transport.Health, 0, len(e.transports))
	for _, t := range e.transports {
		list = append(list, t.Health())
	}
	return list
}

// LastHandshake returns the time of the last handshake with a WireGuard server, zero if there was none.
func (e *Egress) LastHandshake() time.Time {
	var last time.Time
	for _, t := range e.transports {
		if at := t.Health().Stats.LastHandshake; t.Kind == "wireguard" && at.After(last) {
			last = at
		}
	}
	return last
}

// CarriesIPv6 reports whether a way carries IPv6. An OpenVPN transport carries it only once its server has pushed an address.
func (e *Egress) CarriesIPv6(name string) bool {
	t, ok := e.Serving(name)
	return !ok || t.inner.facts().ipv6
}

// Naming returns what the transports currently say about DNS.
func (e *Egress) Naming() []Naming {
	var list []Naming
	for _, t := range e.transports {
		list = append(list, t.inner.facts().naming)
	}
	return list
}

// Routes returns what each transport's server wants reached through it, for those whose servers have said so.
func (e *Egress) Routes() map[string]policy.Routes {
	var routes map[string]policy.Routes
	for _, t := range e.transports {
		if r := t.inner.facts().routes; r != nil {
			if routes == nil {
				routes = make(map[string]policy.Routes)
			}
			routes[t.Name] = *r
		}
	}
	return routes
}

// expire resets the flows of a transport that stays down.
func (e *Egress) expire(name string) {
	n := e.Reset(name)
	if t, ok := e.Transport(name); ok {
		if err := t.inner.reset(); err != nil { // includes flows through a group, and our own DNS questions
			e.Log.Warn("could not reset the flows of a lost transport", "transport", name, "err", err)
		}
	}
	if e.Metrics.Reset != nil {
		e.Metrics.Reset.WithLabelValues(name).Add(float64(n))
	}
	if n > 0 {
		e.Log.Info("flows of a lost transport reset", "transport", name, "flows", n)
	}
}

// Kernel is the way out by the host's kernel; nil if there is none.
func (e *Egress) Kernel() *kernel.Way { return e.kernel }

// Touch opens and closes a socket in the stack of each transport, for a watchdog. If a stack hangs, it returns late or never.
func (e *Egress) Touch(ctx context.Context, dst netip.AddrPort) {
	for _, t := range e.transports {
		if c, err := t.inner.DialContext(ctx, "udp", dst.String()); err == nil {
			c.Close()
		}
	}
}
