package daemon

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"reflect"
	"slices"
	"sync"

	"penstock/cmd/internal/config"
	"penstock/cmd/internal/private"
	"penstock/router/transport"
	"penstock/router/transport/openvpn"
	"penstock/stack"
)

// openvpnMTU is what the inner stack starts with; the server's settings replace it.
const openvpnMTU = 1400

// openvpnInner is the inside of an OpenVPN transport. Its addresses, MTU and DNS servers come from the server.
type openvpnInner struct {
	name    string
	conf    *config.OpenVPN
	profile *openvpn.Profile
	host    *host
	stack   *stack.Stack
	metrics *openvpn.Metrics
	renamed func() // the server pushed other DNS servers than before
	log     *slog.Logger

	mu       sync.Mutex // guards below
	settings openvpn.Settings
}

func newOpenVPN(name string, t config.Transport, h *host, m metrics, renamed func(), log *slog.Logger) (*openvpnInner, error) {
	profile, err := openvpnProfile(t.OpenVPN, log)
	if err != nil {
		return nil, err
	}
	o := &openvpnInner{name: name, conf: t.OpenVPN, profile: profile, host: h, metrics: m.openvpn, renamed: renamed, log: log}
	o.stack, err = stack.New(stack.Config{Name: name, MTU: openvpnMTU, Log: log, Metrics: m.stack})
	return o, err
}

// openvpnProfile parses the transport's file; what was left out of it is logged.
func openvpnProfile(c *config.OpenVPN, log *slog.Logger) (*openvpn.Profile, error) {
	data, err := private.Read(c.Config, config.MaxFile)
	if err != nil {
		return nil, err
	}
	profile, warnings, err := openvpn.ParseProfile(bytes.NewReader(data), c.Config)
	if err != nil {
		return nil, err
	}
	for _, w := range warnings {
		log.Warn(w.String())
	}
	return profile, nil
}

func (o *openvpnInner) newDriver(lost func(error)) (transport.Driver, error) {
	return openvpn.New(openvpn.Config{
		Name: o.name, Profile: o.profile, Device: o.stack.Device(), Configure: o.configure,
		Control: o.host.dialer.Control, Resolve: o.host.resolve, Credentials: o.credentials, Lost: lost,
		Log: o.log, Metrics: o.metrics,
	})
}

// configure takes what the server pushed.
func (o *openvpnInner) configure(s openvpn.Settings) error {
	if err := o.stack.SetAddrs(s.Addrs); err != nil {
		return err
	}
	if s.MTU >= 576 {
		o.stack.SetMTU(s.MTU)
	}
	o.mu.Lock()
	same := reflect.DeepEqual(o.settings.DNS, s.DNS) && slices.Equal(o.settings.SearchDomains, s.SearchDomains)
	o.settings = s
	o.mu.Unlock()
	if !same {
		o.renamed()
	}
	return nil
}

var errNoCredentials = errors.New("the server asks for a user name and password: set username and password of the transport")

// credentials answers what the server asks, as far as the configuration can.
func (o *openvpnInner) credentials(_ context.Context, c openvpn.Challenge) (user, pass string, err error) {
	if c.Kind != openvpn.ChallengePassword {
		return "", "", fmt.Errorf("the server asks %q: only user name and password can be configured", c.Text)
	}
	pass, err = o.conf.Password.Read()
	if err == nil && (o.conf.Username == "" || pass == "") {
		err = errNoCredentials
	}
	return o.conf.Username, pass, err
}

func (o *openvpnInner) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	return o.stack.DialContext(ctx, network, address)
}

func (o *openvpnInner) resolvers() []netip.AddrPort {
	o.mu.Lock()
	defer o.mu.Unlock()
	var list []netip.AddrPort
	for _, s := range o.settings.DNS {
		list = append(list, s.Addrs...)
	}
	return list
}

func (o *openvpnInner) carriesIPv6() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, p := range o.settings.Addrs {
		if p.Addr().Is6() {
			return true
		}
	}
	return false
}

func (o *openvpnInner) close() error { return o.stack.Close() }
