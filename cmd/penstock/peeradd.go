package main

import (
	"fmt"
	"io"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/mdp/qrterminal/v3"
	"github.com/spf13/cobra"

	"penstock/cmd/internal/config"
	"penstock/router/transport/wireguard"
)

// newPeer is what peer add is asked for.
type newPeer struct {
	file       string // configuration of the gateway; empty: that of the running one
	endpoint   string // where the peer dials; empty: the configuration's
	allowedIPs []string
	groups     []string
	expires    string // see parseExpiry; empty: never
	out        string
	qr         bool
	dnsOnly    bool // it has no tunnel
}

func newPeerAddCommand(e *env) *cobra.Command {
	var p newPeer
	cmd := &cobra.Command{
		Use:   "add NAME",
		Short: "Make a peer and print its WireGuard configuration",
		Long: `Make a key pair for a new peer, choose the next free address, and print the configuration that
any WireGuard program reads, or a QR code of it for the phone apps. The private key is kept
nowhere else.

With --expires its access ends at a time: after a duration such as 8h or 30d, at the end of a day such
as 2026-12-31, or at a moment such as 2026-12-31T18:00:00Z.

With --dns-only it has no tunnel, and its phone only asks the encrypted DNS of dns.serve.

An address that belonged to another peer is free after listen.wireguard.reuse_after.

If the gateway's configuration includes a glob, for example

  include: peers.d/*.yaml

penstock writes the peer to a file there and tells the running gateway. Otherwise it prints
the lines to add to the configuration.`,
		Args: takes(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error { return addPeer(cmd, e, p, args[0]) },
	}
	f := cmd.Flags()
	gatewayFlag(cmd, &p.file)
	f.StringVar(&p.endpoint, "endpoint", "", "`HOST:PORT` that the peer dials (default listen.wireguard.endpoint)")
	f.StringSliceVar(&p.allowedIPs, "allowed-ips", nil, "`NETWORKS` that the peer sends through the tunnel (default all)")
	f.StringSliceVar(&p.groups, "group", nil, "`GROUPS` that the peer is in")
	f.StringVar(&p.expires, "expires", "", expiresUsage)
	f.StringVarP(&p.out, "out", "o", "", "write the peer's configuration to this `FILE`, which only you can read")
	f.BoolVar(&p.qr, "qr", false, "print a QR code instead of the configuration")
	f.BoolVar(&p.dnsOnly, "dns-only", false, "make a peer without a tunnel, whose phone only asks dns.serve, and print what peer dns prints")
	return cmd
}

func addPeer(cmd *cobra.Command, e *env, p newPeer, name string) error {
	if err := config.CheckName(name); err != nil {
		return usagef("%v: choose another", err)
	}
	expires, err := parseExpiry(p.expires, time.Now())
	if err != nil {
		return err
	}
	return changePeers(cmd, e, p.file, name, func(c *config.Config, folder *peerFolder) (changed bool, err error) {
		for _, other := range c.Peers {
			if other.Name == name {
				return false, fmt.Errorf("there is a peer %q already, at %s: choose another name, or remove it with: penstock peer rm %s", name, other.Pos, name)
			}
		}
		if p.dnsOnly {
			return p.addPhone(e, c, folder, config.Peer{Name: name, Groups: p.groups, Expires: expires})
		}
		former, err := folder.formerAddresses(c)
		if err != nil {
			return false, err
		}
		addresses, err := freeAddresses(c, append(former, inForce(cmd.Context(), e, c)...))
		if err != nil {
			return false, err
		}
		key := wireguard.GeneratePrivateKey()
		client, err := clientFile(c, p, key, addresses)
		if err != nil {
			return false, err
		}
		peer := config.Peer{Name: name, PublicKey: key.Public().String(), AllowedIPs: addresses, Groups: p.groups, Expires: expires}
		return addTo(e, c, folder, peer, func() error { return p.deliver(e, client) })
	})
}

// addPhone makes a peer that has no tunnel.
func (p newPeer) addPhone(e *env, c *config.Config, folder *peerFolder, peer config.Peer) (changed bool, err error) {
	if err := servesPhones(c); err != nil {
		return false, err
	}
	if p.endpoint != "" || len(p.allowedIPs) > 0 {
		return false, usagef("--endpoint and --allowed-ips are for a peer with a tunnel: leave out --dns-only, or them")
	}
	return addTo(e, c, folder, peer, func() error { return phone{out: p.out, qr: p.qr}.deliver(e, c, peer) })
}

// addTo writes a peer into the folder, if there is one, and gives the caller what the peer needs.
func addTo(e *env, c *config.Config, folder *peerFolder, peer config.Peer, deliver func() error) (changed bool, err error) {
	if folder == nil {
		if err := deliver(); err != nil {
			return false, err
		}
		fmt.Fprintf(e.stderr, "Nothing is written yet. Add this to %s and run penstock reload:\n\n%s", c.Path, peerYAML(peer))
		return false, nil
	}
	path, err := folder.add(c, peer)
	if err != nil {
		return false, err
	}
	// Only now: the client's file is useless if the gateway refuses its peer.
	if err := deliver(); err != nil {
		return false, folder.undo(err, path)
	}
	fmt.Fprintf(e.stderr, "peer %s is written to %s\n", peer.Name, path)
	return true, nil
}

// clientFile is the peer's own configuration in wg-quick's format.
func clientFile(c *config.Config, p newPeer, key wireguard.PrivateKey, addresses []netip.Prefix) (string, error) {
	wg := c.Listen.WireGuard
	endpoint := p.endpoint
	if endpoint == "" {
		endpoint = wg.Endpoint
	}
	if endpoint == "" {
		return "", c.Err("listen.wireguard", "nothing says where the peer can reach this gateway", "add endpoint: HOST:PORT, or use --endpoint HOST:PORT")
	}
	at, err := wireguard.ParseEndpoint(endpoint)
	if err != nil {
		return "", usagef("%v", err)
	}
	secret, err := wg.PrivateKey.Read()
	if err != nil {
		return "", fmt.Errorf("listen.wireguard.private_key: %w", err)
	}
	own, err := wireguard.ParsePrivateKey(secret)
	if err != nil {
		return "", fmt.Errorf("listen.wireguard.private_key: %w", err)
	}
	server := wireguard.ServerInfo{Endpoint: at, PublicKey: own.Public(), DNS: wg.DNS, MTU: wg.MTU}
	if server.DNS == nil {
		for _, a := range wg.Address {
			server.DNS = append(server.DNS, a.Addr())
		}
	}
	for _, text := range p.allowedIPs {
		prefix, err := netip.ParsePrefix(text)
		if err != nil {
			return "", usagef("--allowed-ips has %q: write networks such as 10.0.0.0/8", text)
		}
		server.AllowedIPs = append(server.AllowedIPs, prefix.Masked())
	}
	var b strings.Builder
	_, err = wireguard.ClientFile(server, key, wireguard.Peer{AllowedIPs: addresses}).WriteTo(&b)
	return b.String(), err
}

// deliver gives the peer's configuration to the caller. It leaves no file if it fails.
func (p newPeer) deliver(e *env, text string) error {
	if p.out != "" {
		if err := writeSecret(p.out, text); err != nil {
			return fmt.Errorf("write the peer's configuration: %w", err)
		}
	}
	out := &failing{w: e.stdout}
	switch {
	case p.qr:
		// Low redundancy: a screen is clean, and the file is long.
		qrterminal.GenerateHalfBlock(text, qrterminal.L, out)
	case p.out == "":
		_, _ = io.WriteString(out, text) // out keeps the error
	}
	if out.err != nil {
		if p.out != "" {
			os.Remove(p.out)
		}
		return fmt.Errorf("print the peer's configuration: %w", out.err)
	}
	return nil
}

// writeSecret makes a file that only its owner can read, whole or not at all. It does not replace one.
func writeSecret(path, text string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.WriteString(f, text)
	if err == nil {
		err = f.Sync()
	}
	if closed := f.Close(); err == nil {
		err = closed
	}
	if err != nil {
		os.Remove(path)
	}
	return err
}

// failing is a writer that remembers its first error, for callees that do not.
type failing struct {
	w   io.Writer
	err error
}

func (f *failing) Write(p []byte) (int, error) {
	if f.err != nil {
		return 0, f.err
	}
	var n int
	n, f.err = f.w.Write(p)
	return n, f.err
}
