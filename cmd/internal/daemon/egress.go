package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"slices"
	"syscall"

	"penstock/cmd/internal/config"
	"penstock/dnsproxy"
	"penstock/policy"
	"penstock/router"
	"penstock/router/transport"
)

var errNotUp = transport.ErrNotUp

// egress is the egress map: by what names flows leave.
type egress struct {
	dialers map[string]router.Dialer
	tunnels map[string]*tunnel
	groups  map[string]*transport.Group
	log     *slog.Logger
}

// tunnel is one transport with its driver's supervisor and the stack inside it.
type tunnel struct {
	*transport.Tunnel
	kind    string // wireguard or openvpn
	inner   inner
	changed func(transport.Health) // set before Run; must not block
}

// inner is the inside of a transport.
type inner interface {
	router.Dialer
	// newDriver makes a driver that is not connected.
	newDriver(lost func(error)) (transport.Driver, error)
	// resolvers are the DNS servers that the transport names, in its file or by pushing them.
	resolvers() []netip.AddrPort
	// naming is all that the transport says of DNS.
	naming() named
	// carries reports whether the transport has addresses of a family.
	carriesIPv6() bool
	// named reports whether the server may have other addresses than the one in use.
	named() bool
	// reset ends the flows inside, but not the session.
	reset() error
	close() error
}

// newEgress makes the map. renamed is called when a transport is told other DNS servers than before.
func newEgress(cfg *config.Config, h *host, m metrics, renamed func(), log *slog.Logger) (*egress, error) {
	e := &egress{
		dialers: map[string]router.Dialer{policy.EgressDirect: h.dialer},
		tunnels: make(map[string]*tunnel),
		groups:  make(map[string]*transport.Group),
		log:     log,
	}
	for _, name := range slices.Sorted(maps.Keys(cfg.Transports)) {
		t := cfg.Transports[name]
		if len(t.Failover) > 0 {
			continue
		}
		tun, err := newTunnel(name, t, h, m, renamed, log)
		if err != nil {
			return nil, errors.Join(invalid(cfg, fmt.Errorf("%s: transport %s: %w", t.Pos, name, err)), e.close())
		}
		e.tunnels[name] = tun
		e.dialers[name] = transport.Gate{Tunnel: tun.Tunnel, Inner: tun.inner}
	}
	for name, t := range cfg.Transports {
		if len(t.Failover) == 0 {
			continue
		}
		var members []transport.Gate
		for _, member := range t.Failover {
			tun := e.tunnels[member]
			if tun == nil {
				return nil, errors.Join(invalid(cfg, fmt.Errorf("%s: transport %s: failover member %s is not a WireGuard or OpenVPN transport", t.Pos, name, member)), e.close())
			}
			members = append(members, transport.Gate{Tunnel: tun.Tunnel, Inner: tun.inner})
		}
		e.groups[name] = transport.NewGroup(name, members)
		e.dialers[name] = e.groups[name]
	}
	return e, nil
}

func newTunnel(name string, t config.Transport, h *host, m metrics, renamed func(), log *slog.Logger) (*tunnel, error) {
	tun := &tunnel{kind: "wireguard", changed: func(transport.Health) {}}
	var err error
	if t.OpenVPN != nil {
		tun.kind = "openvpn"
		tun.inner, err = newOpenVPN(name, t, h, m, renamed, log)
	} else {
		tun.inner, err = newWireGuard(name, t, h, m, log)
	}
	if err != nil {
		return nil, err
	}
	tun.Tunnel = transport.NewTunnel(transport.Config{
		Name:    name,
		New:     func() (transport.Driver, error) { return tun.inner.newDriver(func(err error) { tun.Lost(err) }) },
		Changed: func(h transport.Health) { tun.changed(h) },
		Log:     log,
		Metrics: m.transport,
	})
	return tun, nil
}

// checkTransports parses what the transports' files say, without opening anything.
func checkTransports(cfg *config.Config) error {
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(cfg.Transports)) {
		t := cfg.Transports[name]
		var err error
		switch {
		case t.WireGuard != nil:
			_, err = wireguardConfig(t.WireGuard)
		case t.OpenVPN != nil:
			_, err = openvpnProfile(t.OpenVPN, slog.New(slog.DiscardHandler))
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: transport %s: %w", t.Pos, name, err))
		}
	}
	return errors.Join(errs...)
}

func (e *egress) dialer(name string) (router.Dialer, bool) {
	d, ok := e.dialers[name]
	return d, ok
}

// run starts the supervisors.
func (e *egress) run(start func(string, func(context.Context) error)) {
	for name, t := range e.tunnels {
		start("transport "+name, t.Run)
	}
}

func (e *egress) close() error {
	var errs []error
	for _, t := range e.tunnels {
		errs = append(errs, t.inner.close())
	}
	return errors.Join(errs...)
}

// ipv6 reports whether an egress carries IPv6, as far as that is known.
func (e *egress) ipv6(name string) bool {
	if t := e.tunnels[name]; t != nil {
		return t.inner.carriesIPv6()
	}
	if g := e.groups[name]; g != nil {
		return e.ipv6(g.Current().Name)
	}
	return true
}

// steered are the tunnels that an order names: one, a group's members, or all.
func (e *egress) steered(name string) ([]*tunnel, error) {
	if name == "" {
		return slices.Collect(maps.Values(e.tunnels)), nil
	}
	if t := e.tunnels[name]; t != nil {
		return []*tunnel{t}, nil
	}
	return nil, fmt.Errorf("there is no transport %q: penstock status lists them", name)
}

// dnsEgress is the embedded DNS server as an egress: capturing port 53 is a rule.
type dnsEgress struct{ server *dnsproxy.Server }

// DialContext is never used: the router prefers DialFlow, which tells whose questions they are.
func (d dnsEgress) DialContext(context.Context, string, string) (net.Conn, error) {
	return nil, syscall.EAFNOSUPPORT
}

// DialFlow serves the questions of one flow.
func (d dnsEgress) DialFlow(ctx context.Context, f policy.Flow) (net.Conn, error) {
	if f.Network == policy.ICMP {
		return nil, syscall.ECONNREFUSED
	}
	return d.server.DialFlow(ctx, f)
}
