package egress

import (
	"cmp"
	"context"
	"log/slog"
	"net"
	"net/netip"
	"reflect"
	"slices"
	"sync"

	"penstock/cmd/internal/config"
	"penstock/policy"
	"penstock/policy/iprange"
	"penstock/router/transport"
	"penstock/router/transport/openvpn"
	"penstock/router/transport/openvpn/profile"
	"penstock/stack"
)

// openvpnMTU is the MTU of the inner stack until the server pushes one.
const openvpnMTU = 1400

// openvpnInner is the inner part of an OpenVPN transport. Its addresses, MTU and DNS servers come from the server.
type openvpnInner struct {
	name    string
	conf    *config.OpenVPN
	profile *profile.Profile
	outside Outside
	stack   *stack.Stack
	metrics *openvpn.Metrics
	renamed func() // called when the server pushes different DNS servers
	asking  asking
	log     *slog.Logger

	mu       sync.Mutex // guards below
	settings openvpn.Settings
	routes   *policy.Routes // of settings; nil until a server has said what it routes, unless the file has the last word
}

func newOpenVPN(p planned, c *Config) (*openvpnInner, error) {
	o := &openvpnInner{
		name: p.name, conf: p.config.OpenVPN, profile: p.openvpn, outside: c.Outside, metrics: c.Metrics.OpenVPN,
		renamed: c.Renamed, log: c.Log, asking: asking{name: p.name, waits: func(bool) {}, log: cmp.Or(c.Log, slog.New(slog.DiscardHandler))},
	}
	if own, final := openvpn.ProfileSettings(p.openvpn); final {
		routes := openvpnRoutes(own)
		o.settings, o.routes = own, &routes
	}
	var err error
	o.stack, err = stack.New(stack.Config{Name: p.name, MTU: openvpnMTU, Log: c.Log, Metrics: c.Metrics.Stack})
	return o, err
}

func (o *openvpnInner) newDriver(lost func(error)) (transport.Driver, error) {
	return openvpn.New(openvpn.Config{
		Name: o.name, Profile: o.profile, Device: o.stack.Device(), Configure: o.configure,
		RequireServerCert: o.conf.RequireServerCert,
		Dialer:            &net.Dialer{Control: o.outside.Direct.Control}, Resolve: o.outside.Resolve, Credentials: o.credentials, Lost: lost,
		Log: o.log, Metrics: o.metrics,
	})
}

// configure applies what the server pushed to the stack.
func (o *openvpnInner) configure(s openvpn.Settings) error {
	o.asking.settle()
	changed, err := o.take(s)
	if changed {
		o.renamed()
	}
	return err
}

// take gives the stack the addresses and the MTU of s, and keeps s. It reports whether names or routes have changed. A reset sees all of
// that or nothing: it gives the stack the addresses that were kept.
func (o *openvpnInner) take(s openvpn.Settings) (changed bool, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if err := o.stack.SetAddrs(s.Addrs); err != nil {
		return false, err
	}
	if s.MTU >= 576 {
		o.stack.SetMTU(s.MTU)
	}
	routes := openvpnRoutes(s)
	same := reflect.DeepEqual(o.settings.DNS, s.DNS) && slices.Equal(o.settings.SearchDomains, s.SearchDomains) && reflect.DeepEqual(o.routes, &routes)
	o.settings, o.routes = s, &routes
	return !same, nil
}

// credentials answers the server with the configuration's user name and password, and with what the user says.
func (o *openvpnInner) credentials(ctx context.Context, c openvpn.Challenge) (user, pass string, err error) {
	if c.Kind == openvpn.ChallengePassword && o.conf.Username != "" {
		pass, err = o.conf.Password.Read()
		return o.conf.Username, pass, err
	}
	got, err := o.asking.ask(ctx, c)
	return cmp.Or(got.User, c.User), got.Text, err
}

func (o *openvpnInner) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	return o.stack.DialContext(ctx, network, address)
}

func (o *openvpnInner) carrier(dst netip.Addr) *stack.Stack {
	if !o.stack.Speaks(dst) {
		return nil
	}
	return o.stack
}

func (o *openvpnInner) inside() *stack.Stack { return o.stack }

func (o *openvpnInner) facts() facts {
	o.mu.Lock()
	defer o.mu.Unlock()
	is6 := func(p netip.Prefix) bool { return p.Addr().Is6() }
	f := facts{
		naming: openvpnNaming(o.name, o.settings),
		routes: o.routes,
		ipv6:   slices.ContainsFunc(o.settings.Addrs, is6),
		named:  len(o.profile.Remotes) > 1,
	}
	for _, r := range o.profile.Remotes {
		f.named = f.named || isName(r.Host)
	}
	return f
}

// openvpnRoutes returns what a server wants reached through the tunnel. If it wants all of IPv4, or all but a few networks, and
// gives no IPv6, IPv6 goes to the tunnel as well, which refuses it: programs prefer IPv6, so most traffic would bypass the tunnel.
// It may want all of IPv4 by redirect-gateway, by a default route, or by the parts of one.
func openvpnRoutes(s openvpn.Settings) (r policy.Routes) {
	has6 := false
	for _, gateway := range []netip.Addr{s.Gateway4, s.Gateway6} {
		if gateway.IsValid() { // the other end of a tunnel without a network of its own
			r.Inside = append(r.Inside, netip.PrefixFrom(gateway, gateway.BitLen()))
		}
	}
	for _, p := range s.Addrs {
		r.Inside = append(r.Inside, p.Masked())
		has6 = has6 || p.Addr().Is6()
	}
	for _, route := range s.Routes {
		if route.Outside {
			r.Outside = append(r.Outside, route.Prefix)
			continue
		}
		r.Inside = append(r.Inside, route.Prefix)
		has6 = has6 || route.Prefix.Addr().Is6()
	}
	all, inside := netip.PrefixFrom(netip.IPv4Unspecified(), 0), iprange.Covered4(r.Inside)
	if !slices.Contains(r.Inside, all) && (s.Redirect4 || inside == iprange.Whole) {
		r.Inside = append(r.Inside, all)
	}
	if s.Redirect6 || s.BlockIPv6 || (s.Redirect4 || inside != iprange.Part) && !has6 {
		r.Inside = append(r.Inside, netip.PrefixFrom(netip.IPv6Unspecified(), 0))
	}
	return r
}

func (o *openvpnInner) reset() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	return resetFlows(o.stack, o.settings.Addrs)
}
