package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"penstock/e2e/netlab"
)

// Addresses inside the tunnel, of the gateway and of the laptop.
const (
	gatewayInner = "10.99.0.1"
	laptopInner  = "10.99.0.2"
	wgPort       = "51820"
	monitor      = "127.0.0.1:9477" // where each penstock serves its metrics
	publicServer = "203.0.113.40"
)

// path is one way from the laptop to a server.
type path struct {
	name, title string
	baseline    string // name of the path to compare with; empty: none
	server      string // address
	tunnel      bool   // the server is the intranet, not the internet
	brief       bool   // measures of scope wide are of no interest
	open        func(ctx context.Context, w *world) error
}

// paths returns all paths that the programs of a directory allow.
func paths(binaries string) []path {
	return append([]path{
		{name: "bare", title: "the bare path: laptop, two routers, internet", server: publicServer,
			open: func(context.Context, *world) error { return nil }},
		{name: "direct", title: "penstock on the laptop, rule direct, the same server", baseline: "bare", server: publicServer,
			open: directWith("")},
		{name: "direct-sockets", title: "the same with direct: sockets on the laptop", baseline: "bare", brief: true, server: publicServer,
			open: directWith(", direct: sockets")},
		{name: "wireguard-go", title: "wireguard-go on laptop and gateway, the kernels route, intranet", tunnel: true,
			server: netlab.IntranetIPv4, open: openWireguardGo},
		{name: "tunnel", title: "penstock on laptop and gateway, intranet", baseline: "wireguard-go", tunnel: true,
			server: netlab.IntranetIPv4, open: tunnelWith("", "", "")},
		{name: "sockets", title: "the same with direct: sockets on the gateway", baseline: "wireguard-go", tunnel: true, brief: true,
			server: netlab.IntranetIPv4, open: tunnelWith("", "", ", direct: sockets")},
		{name: "judged", title: "the same with a rule that the name in a flow could match", baseline: "wireguard-go", tunnel: true, brief: true,
			server: netlab.IntranetIPv4, open: tunnelWith("", "{name: no-gambling, match: {category: gambling}, do: block}, ", "")},
		{name: "terminated", title: "the same with datapath: terminate", baseline: "wireguard-go", tunnel: true, brief: true,
			server: netlab.IntranetIPv4, open: tunnelWith("datapath: terminate\n", "", "")},
	}, slices.Concat(guardedWireguardGo(), singBoxes(binaries))...)
}

// world is a lab with the programs of one path.
type world struct {
	*netlab.Lab
	path            path
	binaries, dir   string
	laptop, gateway *process // penstock; nil if none runs
	processes       []*process
}

// host returns the host of the path's server.
func (w *world) host() *netlab.Host {
	if w.path.tunnel {
		return w.Intranet
	}
	return w.Internet
}

// measure opens the path in its own lab, runs the wanted measurements, and closes it.
func (p path) measure(ctx context.Context, o *options, dir string, round int, t *table) (err error) {
	lab, err := netlab.New(ctx, netlab.Options{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lab.Close()) }()
	w := &world{Lab: lab, path: p, binaries: o.binaries, dir: filepath.Join(dir, fmt.Sprint(p.name, round))}
	if err := os.Mkdir(w.dir, 0o700); err != nil {
		return err
	}
	defer func() {
		for i := len(w.processes) - 1; i >= 0; i-- {
			err = errors.Join(err, w.processes[i].stop())
		}
	}()
	// Allow clients that connect often to reuse their ports quickly: the measurement depends on it.
	for _, h := range lab.Hosts() {
		if err := h.Sysctl("net.ipv4.tcp_tw_reuse", "1"); err != nil {
			return err
		}
	}
	if err := p.open(ctx, w); err != nil {
		return err
	}
	for _, m := range measures() {
		if !o.want(p, m, round) {
			continue
		}
		fmt.Fprintln(os.Stderr, "  "+m.name)
		if err := m.take(ctx, o, w, t); err != nil {
			return fmt.Errorf("%s: %w", m.name, err)
		}
	}
	return nil
}

// directWith opens penstock on the laptop, which sends everything directly, with more of listen.tun.
func directWith(tun string) func(context.Context, *world) error {
	return func(ctx context.Context, w *world) error { return openDirect(ctx, w, tun) }
}

func openDirect(ctx context.Context, w *world, tun string) (err error) {
	w.laptop, err = w.penstock(ctx, w.Laptop, `listen:
  tun: {name: pen0, address: [10.77.0.1/24], state_file: DIR/host.json`+tun+`}
dns: {upstreams: [{address: 203.0.113.53}]}
limits: {tcp_flows: 20000}
rules: [{name: rest, do: direct}]
metrics: {listen: "MONITOR"}
`)
	if err != nil {
		return err
	}
	return w.taken(ctx, w.laptop, netip.MustParsePrefix("10.77.0.1/24"))
}

// tunnelWith opens penstock's tunnel with more settings and rules on the laptop, and more of listen.wireguard on the gateway.
func tunnelWith(settings, rules, listen string) func(context.Context, *world) error {
	return func(ctx context.Context, w *world) error { return openTunnel(ctx, w, settings, rules, listen) }
}

func openTunnel(ctx context.Context, w *world, settings, rules, listen string) (err error) {
	laptop, gateway, err := keys()
	if err != nil {
		return err
	}
	for name, text := range map[string]string{
		"gateway.key": gateway.private64() + "\n",
		"corp.conf": "[Interface]\nPrivateKey = " + laptop.private64() + "\nAddress = " + laptopInner + "/32\n" +
			"[Peer]\nPublicKey = " + gateway.public64() + "\nAllowedIPs = 0.0.0.0/0\nEndpoint = " + netlab.GatewayIPv4 + ":" + wgPort + "\n",
	} {
		if err := w.write(name, text); err != nil {
			return err
		}
	}
	w.gateway, err = w.penstock(ctx, w.Gateway, strings.NewReplacer("LAPTOP", laptop.public64(), "LISTEN", listen).Replace(`listen:
  wireguard: {listen_port: 51820, address: [10.99.0.1/24], private_key: {file: gateway.key}LISTEN}
state_dir: DIR
peers: [{name: laptop, public_key: "LAPTOP", allowed_ips: [10.99.0.2/32]}]
dns: {upstreams: [{address: 10.20.0.10}]}
limits: {tcp_flows: 20000}
rules: [{name: intranet, match: {cidr: [10.20.0.0/24]}, do: direct}, {name: rest, do: block}]
metrics: {listen: "MONITOR"}
`))
	if err != nil {
		return err
	}
	w.laptop, err = w.penstock(ctx, w.Laptop, settings+`listen:
  tun: {name: pen0, address: [10.77.0.1/24], state_file: DIR/host.json}
transports: {corp: {wireguard: {config: corp.conf}}}
dns: {upstreams: [{address: 10.99.0.1, via: corp}]}
limits: {tcp_flows: 20000}
rules: [`+rules+`{name: rest, do: {via: corp}}]
metrics: {listen: "MONITOR"}
`)
	if err != nil {
		return err
	}
	return w.taken(ctx, w.laptop, netip.MustParsePrefix("10.77.0.1/24"))
}

// taken waits until what the laptop sends to the path's server has an address of a program's own network: until then it goes by
// itself, or nowhere.
func (w *world) taken(ctx context.Context, p *process, inner netip.Prefix) error {
	server := net.JoinHostPort(w.path.server, strconv.Itoa(datagramPort))
	for limit := time.Now().Add(startTime); time.Now().Before(limit); time.Sleep(20 * time.Millisecond) {
		if p.ended() {
			return fmt.Errorf("%s ended:\n%s", p.name, p.said.String())
		}
		c, err := w.Laptop.DialContext(ctx, "udp", server) // sends nothing
		if err != nil {
			continue
		}
		from, err := netip.ParseAddrPort(c.LocalAddr().String())
		c.Close()
		if err == nil && inner.Contains(from.Addr()) {
			return nil
		}
	}
	return fmt.Errorf("%s does not take the way to %s:\n%s", p.name, server, p.said.String())
}

// write writes a file of the world with mode 0600.
func (w *world) write(name, text string) error {
	return os.WriteFile(filepath.Join(w.dir, name), []byte(text), 0o600)
}
