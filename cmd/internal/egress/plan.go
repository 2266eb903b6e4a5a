package egress

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"penstock/cmd/internal/config"
	"penstock/cmd/internal/private"
	"penstock/router/transport/openvpn"
	"penstock/router/transport/openvpn/profile"
	"penstock/router/transport/wireguard"
)

// Plan is what a configuration says about its transports. It is immutable.
type Plan struct {
	transports []planned // sorted by name
	groups     map[string][]string
	files      []string                 // that profiles name
	input      func(path string) string // where to read one of them
}

// planned is a transport that is not open yet. Either wireguard or openvpn is set.
type planned struct {
	name      string
	config    config.Transport
	wireguard *wireguard.Config
	openvpn   *profile.Profile
	warnings  []string
}

// NewPlan reads the transports of a configuration and their files. It opens nothing else. The error joins one
// for each unusable transport, with its position.
func NewPlan(cfg *config.Config) (*Plan, error) {
	p := &Plan{groups: make(map[string][]string), input: cfg.Input}
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(cfg.Transports)) {
		t := cfg.Transports[name]
		if len(t.Failover) > 0 {
			p.groups[name] = t.Failover
			continue
		}
		one, err := p.plan(name, t)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: transport %s: %w", t.Pos, name, err))
		}
		p.transports = append(p.transports, one)
	}
	for name, members := range p.groups {
		for _, member := range members {
			if t, ok := cfg.Transports[member]; !ok || len(t.Failover) > 0 {
				errs = append(errs, fmt.Errorf("%s: transport %s: its failover member %s is not a WireGuard or OpenVPN transport",
					cfg.Transports[name].Pos, name, member))
			}
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return p, nil
}

func (p *Plan) plan(name string, t config.Transport) (one planned, err error) {
	one = planned{name: name, config: t}
	if t.OpenVPN != nil {
		one.openvpn, one.warnings, err = p.openvpnProfile(t.OpenVPN)
		return one, err
	}
	if one.wireguard, err = wireguardConfig(t.WireGuard); err == nil {
		one.warnings = one.wireguard.Warnings
	}
	return one, err
}

// MTU is the smallest of the transports' packets, in bytes; 0 without any. A server of OpenVPN may still push another.
func (p *Plan) MTU() int {
	smallest := 0
	for _, one := range p.transports {
		mtu := one.mtu()
		if smallest == 0 || mtu < smallest {
			smallest = mtu
		}
	}
	return smallest
}

// mtu is that of the transport's inner packets until a server pushes another, in bytes.
func (p *planned) mtu() int {
	switch {
	case p.openvpn != nil && p.openvpn.MTU != 0:
		return p.openvpn.MTU
	case p.openvpn != nil:
		return openvpnMTU
	case p.wireguard.MTU != 0:
		return p.wireguard.MTU
	}
	return wireguardMTU
}

// Files returns the files that the transports' profiles name.
func (p *Plan) Files() []string { return p.files }

// Warnings returns one sentence for each ignored or unsafe line of the transports' files.
func (p *Plan) Warnings() []string {
	var list []string
	for _, t := range p.transports {
		for _, w := range t.warnings {
			list = append(list, fmt.Sprintf("transport %s: %s", t.name, w))
		}
	}
	return list
}

// Naming returns what the transports' files say about DNS. It does not include what servers push later.
func (p *Plan) Naming() []Naming {
	var list []Naming
	for _, t := range p.transports {
		n := Naming{Transport: t.name}
		if t.wireguard != nil {
			n = wireguardNaming(t.name, t.wireguard)
		}
		list = append(list, n)
	}
	return list
}

// Prefixes returns the networks that the transports' files route into the tunnels, without default routes. Their addresses
// must be reached through a transport.
func (p *Plan) Prefixes() []netip.Prefix {
	var list []netip.Prefix
	for _, t := range p.transports {
		if t.wireguard == nil {
			continue
		}
		list = append(list, t.wireguard.Addresses...)
		for _, peer := range t.wireguard.Peers {
			for _, allowed := range peer.AllowedIPs {
				if allowed.Bits() > 1 { // 0.0.0.0/1 and 128.0.0.0/1 together are a default route
					list = append(list, allowed)
				}
			}
		}
	}
	return list
}

// wireguardConfig reads a WireGuard transport, from its file or from the configuration itself.
func wireguardConfig(c *config.WireGuard) (*wireguard.Config, error) {
	if c.Config != "" {
		data, err := private.Read(c.Config, config.MaxFile)
		if err != nil {
			return nil, err
		}
		return wireguard.ParseConfig(bytes.NewReader(data), c.Config)
	}
	key, err := c.PrivateKey.Read()
	if err != nil {
		return nil, err
	}
	conf := &wireguard.Config{Addresses: c.Address, MTU: c.MTU, ListenPort: uint16(c.ListenPort)}
	if conf.PrivateKey, err = wireguard.ParsePrivateKey(key); err != nil {
		return nil, fmt.Errorf("private_key: %w", err)
	}
	for _, s := range c.DNS {
		if addr, err := netip.ParseAddr(s); err == nil {
			conf.DNS = append(conf.DNS, addr)
		} else {
			conf.SearchDomains = append(conf.SearchDomains, s)
		}
	}
	for i, p := range c.Peers {
		peer, err := wireguardPeer(p)
		if err != nil {
			return nil, fmt.Errorf("peers[%d]: %w", i, err)
		}
		conf.Peers = append(conf.Peers, peer)
	}
	return conf, conf.Check() // ParseConfig checks a file itself
}

func wireguardPeer(p config.WireGuardPeer) (peer wireguard.Peer, err error) {
	peer = wireguard.Peer{AllowedIPs: p.AllowedIPs, PersistentKeepalive: p.PersistentKeepalive}
	if peer.PublicKey, err = wireguard.ParsePublicKey(p.PublicKey); err != nil {
		return peer, fmt.Errorf("public_key: %w", err)
	}
	if peer.Endpoints, err = wireguard.ParseEndpoints(p.Endpoint); err != nil {
		return peer, err
	}
	shared, err := p.PresharedKey.Read()
	if err == nil && shared != "" {
		peer.PresharedKey, err = wireguard.ParsePresharedKey(shared)
	}
	if err != nil {
		return peer, fmt.Errorf("preshared_key: %w", err)
	}
	return peer, nil
}

func (p *Plan) openvpnProfile(c *config.OpenVPN) (*profile.Profile, []string, error) {
	data, err := private.Read(c.Config, config.MaxFile)
	if err != nil {
		return nil, nil, err
	}
	files := profile.Files{
		Secret: func(path string) ([]byte, error) {
			path = p.input(path)
			p.files = append(p.files, path)
			return private.Read(path, profile.MaxFile)
		},
		Public: func(path string) ([]byte, error) {
			path = p.input(path)
			p.files = append(p.files, path)
			return profile.ReadPublic(path)
		},
		Passphrase: c.KeyPassphrase.Read,
	}
	parsed, found, err := profile.Parse(bytes.NewReader(data), c.Config, files)
	if err != nil {
		return nil, nil, err
	}
	if c.RequireServerCert && !parsed.Trust.TellsServers() {
		return nil, nil, fmt.Errorf("%s: %w", c.Config, openvpn.ErrServerUnverified)
	}
	var warnings []string
	for _, w := range found {
		warnings = append(warnings, w.String())
	}
	return parsed, warnings, nil
}
