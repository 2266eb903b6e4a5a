package daemon

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"time"

	"penstock/cmd/internal/config"
	"penstock/cmd/internal/private"
	"penstock/router/transport"
	"penstock/router/transport/wireguard"
	"penstock/stack"
)

// wireguardMTU leaves room for WireGuard's header on a path of 1500 bytes, with IPv6 outside.
const wireguardMTU = 1420

// wireguardInner is the inside of a WireGuard transport.
type wireguardInner struct {
	name  string
	conf  *wireguard.Config
	host  *host
	stack *stack.Stack
	probe func(context.Context) error
	log   *slog.Logger
}

func newWireGuard(name string, t config.Transport, h *host, m metrics, log *slog.Logger) (*wireguardInner, error) {
	conf, err := wireguardConfig(t.WireGuard)
	if err != nil {
		return nil, err
	}
	for _, warning := range conf.Warnings {
		log.Warn(warning, "transport", name)
	}
	mtu := conf.MTU
	if mtu == 0 {
		mtu = wireguardMTU
	}
	w := &wireguardInner{name: name, conf: conf, host: h, log: log}
	w.stack, err = stack.New(stack.Config{Name: name, MTU: mtu, Addrs: conf.Addresses, Log: log, Metrics: m.stack})
	if err != nil {
		return nil, err
	}
	w.probe = newProbe(t.Probe, w.stack, w.resolvers)
	return w, nil
}

// wireguardConfig is what the configuration says of a WireGuard transport, whether in a file of its own or in place.
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
		peer := wireguard.Peer{AllowedIPs: p.AllowedIPs, PersistentKeepalive: p.PersistentKeepalive}
		if peer.PublicKey, err = wireguard.ParsePublicKey(p.PublicKey); err != nil {
			return nil, fmt.Errorf("peers[%d]: public_key: %w", i, err)
		}
		if peer.Endpoint, err = wireguard.ParseEndpoint(p.Endpoint); err != nil {
			return nil, fmt.Errorf("peers[%d]: %w", i, err)
		}
		shared, err := p.PresharedKey.Read()
		if err != nil {
			return nil, fmt.Errorf("peers[%d]: preshared_key: %w", i, err)
		}
		if shared != "" {
			if peer.PresharedKey, err = wireguard.ParsePresharedKey(shared); err != nil {
				return nil, fmt.Errorf("peers[%d]: preshared_key: %w", i, err)
			}
		}
		conf.Peers = append(conf.Peers, peer)
	}
	return conf, nil
}

func (w *wireguardInner) newDriver(lost func(error)) (transport.Driver, error) {
	return wireguard.NewClient(wireguard.ClientConfig{
		Name: w.name, Device: w.stack.Device(), Wireguard: w.conf, Mark: w.host.mark(), Resolve: w.host.resolve,
		Probe: w.probe, Log: w.log, Lost: lost,
	})
}

// DialContext refuses what no peer is allowed to carry: WireGuard would drop it without a word.
func (w *wireguardInner) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	dst, err := netip.ParseAddrPort(address)
	if err != nil {
		return nil, err
	}
	for _, p := range w.conf.Peers {
		for _, allowed := range p.AllowedIPs {
			if allowed.Contains(dst.Addr()) {
				return w.stack.DialContext(ctx, network, address)
			}
		}
	}
	return nil, fmt.Errorf("transport %s carries nothing to %s: %w", w.name, dst.Addr(), syscall.ENETUNREACH)
}

func (w *wireguardInner) resolvers() []netip.AddrPort {
	var list []netip.AddrPort
	for _, a := range w.conf.DNS {
		list = append(list, netip.AddrPortFrom(a, 53))
	}
	return list
}

func (w *wireguardInner) carriesIPv6() bool {
	for _, p := range w.conf.Addresses {
		if p.Addr().Is6() {
			return true
		}
	}
	return false
}

func (w *wireguardInner) close() error { return w.stack.Close() }

// newProbe makes a function that sends something through a transport that must be answered: what the configuration
// says, else a question to the transport's DNS server. Nil if there is neither.
func newProbe(c *config.Probe, d transport.Dialer, resolvers func() []netip.AddrPort) func(context.Context) error {
	switch {
	case c != nil && c.Ping.IsValid():
		return func(ctx context.Context) error {
			return send(ctx, d, "ping", netip.AddrPortFrom(c.Ping, 0), binary.BigEndian.AppendUint32(nil, rand.Uint32()))
		}
	case c != nil && c.DNS != "":
		return func(ctx context.Context) error { return ask(ctx, d, resolvers(), c.DNS) }
	case len(resolvers()) > 0:
		return func(ctx context.Context) error { return ask(ctx, d, resolvers(), ".") }
	}
	return nil
}

// ask sends a DNS question; whatever the answer is, it is a sign of life.
func ask(ctx context.Context, d transport.Dialer, servers []netip.AddrPort, name string) error {
	if len(servers) == 0 {
		return nil
	}
	q := binary.BigEndian.AppendUint16(nil, uint16(rand.Uint32()))
	q = append(q, 0x01, 0, 0, 1, 0, 0, 0, 0, 0, 0) // recursion desired, one question
	for label := range strings.SplitSeq(strings.Trim(name, "."), ".") {
		if label != "" {
			q = append(append(q, byte(len(label))), label...)
		}
	}
	q = append(q, 0, 0, 2, 0, 1) // NS IN
	return send(ctx, d, "udp", servers[0], q)
}

// probeLife is how long a probe's flow stays open for its answer.
const probeLife = 5 * time.Second

func send(ctx context.Context, d transport.Dialer, network string, to netip.AddrPort, b []byte) error {
	c, err := d.DialContext(ctx, network, to.String())
	if err != nil {
		return err
	}
	time.AfterFunc(probeLife, func() { c.Close() })
	_, err = c.Write(b)
	return err
}
