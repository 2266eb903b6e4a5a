package egress

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"syscall"

	"penstock/router/transport"
	"penstock/router/transport/wireguard"
	"penstock/stack"
)

// wireguardMTU leaves room for WireGuard's header on a path of 1500 bytes, with IPv6 outside.
const wireguardMTU = 1420

// wireguardInner is the inner part of a WireGuard transport.
type wireguardInner struct {
	name    string
	conf    *wireguard.Config
	outside Outside
	stack   *stack.Stack
	probe   func(context.Context) error
	metrics *stack.Metrics
	log     *slog.Logger
}

func newWireGuard(p planned, c *Config) (*wireguardInner, error) {
	w := &wireguardInner{name: p.name, conf: p.wireguard, outside: c.Outside, metrics: c.Metrics.Stack, log: c.Log}
	var err error
	w.stack, err = stack.New(stack.Config{Name: p.name, MTU: p.mtu(), Addrs: p.wireguard.Addresses, Log: c.Log, Metrics: c.Metrics.Stack})
	if err != nil {
		return nil, err
	}
	w.probe = newProbe(p.config.Probe, w.stack, w.facts().resolvers())
	return w, nil
}

func (w *wireguardInner) newDriver(lost func(error)) (transport.Driver, error) {
	return wireguard.NewClient(wireguard.ClientConfig{
		Name: w.name, Device: w.stack.Device(), Wireguard: w.conf, Mark: w.outside.Mark, Resolve: w.outside.Resolve,
		Probe: w.probe, Past: w.outside.Past, Drops: w.metrics, Log: w.log, Lost: lost,
	})
}

// DialContext refuses addresses that are not in any peer's AllowedIPs. WireGuard would silently drop their packets.
func (w *wireguardInner) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	dst, err := netip.ParseAddrPort(address)
	if err != nil {
		return nil, err
	}
	if w.reaches(dst.Addr()) {
		return w.stack.DialContext(ctx, network, address)
	}
	return nil, fmt.Errorf("transport %s: %s is not in AllowedIPs: %w", w.name, dst.Addr(), syscall.ENETUNREACH)
}

// reaches reports whether an address is in some peer's AllowedIPs.
func (w *wireguardInner) reaches(dst netip.Addr) bool {
	for _, p := range w.conf.Peers {
		for _, allowed := range p.AllowedIPs {
			if allowed.Contains(dst) {
				return true
			}
		}
	}
	return false
}

func (w *wireguardInner) carrier(dst netip.Addr) *stack.Stack {
	if !w.reaches(dst) || !w.stack.Speaks(dst) {
		return nil
	}
	return w.stack
}

func (w *wireguardInner) inside() *stack.Stack { return w.stack }

func (w *wireguardInner) facts() facts {
	is6 := func(p netip.Prefix) bool { return p.Addr().Is6() }
	f := facts{naming: wireguardNaming(w.name, w.conf), ipv6: slices.ContainsFunc(w.conf.Addresses, is6)}
	for _, p := range w.conf.Peers {
		f.named = f.named || slices.ContainsFunc(p.Endpoints, func(e wireguard.Endpoint) bool { return isName(e.Host) })
	}
	return f
}

func (w *wireguardInner) reset() error { return resetFlows(w.stack, w.conf.Addresses) }

// isName reports whether an endpoint's host is a name, which may have several addresses.
func isName(host string) bool {
	_, err := netip.ParseAddr(host)
	return err != nil
}
