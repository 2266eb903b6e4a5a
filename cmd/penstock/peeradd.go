package main

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/mdp/qrterminal/v3"
	"github.com/spf13/cobra"

	"penstock/cmd/internal/config"
	"penstock/cmd/internal/peerbook"
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
	gatewayFlag(cmd, &p.file)
	p.termsFlags(cmd)
	f := cmd.Flags()
	f.StringVarP(&p.out, "out", "o", "", "write the peer's configuration to this `FILE`, which only you can read")
	f.BoolVar(&p.qr, "qr", false, "print a QR code instead of the configuration")
	f.BoolVar(&p.dnsOnly, "dns-only", false, "make a peer without a tunnel, whose phone only asks dns.serve, and print what peer dns prints")
	return cmd
}

// termsFlags adds the flags that decide about a new peer.
func (p *newPeer) termsFlags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&p.endpoint, "endpoint", "", "`HOST:PORT` that the peer dials, several separated by commas (default listen.wireguard.endpoint)")
	f.StringSliceVar(&p.allowedIPs, "allowed-ips", nil, "`NETWORKS` that the peer sends through the tunnel (default all)")
	f.StringSliceVar(&p.groups, "group", nil, "`GROUPS` that the peer is in")
	f.StringVar(&p.expires, "expires", "", expiresUsage)
}

func addPeer(cmd *cobra.Command, e *env, p newPeer, name string) error {
	terms, err := p.terms(name)
	if err != nil {
		return err
	}
	return changePeers(cmd, e, p.file, name, func(c *config.Config, folder *peerbook.Folder) (changed bool, err error) {
		if p.dnsOnly {
			return p.addPhone(e, c, folder, terms)
		}
		peer, file, err := folder.Plan(c, terms, inForce(cmd.Context(), e, c))
		if err != nil {
			return false, err
		}
		file.PrivateKey = wireguard.GeneratePrivateKey()
		peer.PublicKey = file.PrivateKey.Public().String()
		var client strings.Builder
		if _, err := file.Portable().WriteTo(&client); err != nil {
			return false, err
		}
		return addTo(e, c, folder, peer, func() error { return p.deliver(e, client.String()) })
	})
}

// addPhone makes a peer that has no tunnel.
func (p newPeer) addPhone(e *env, c *config.Config, folder *peerbook.Folder, t peerbook.Terms) (changed bool, err error) {
	if err := servesPhones(c); err != nil {
		return false, err
	}
	if p.endpoint != "" || len(p.allowedIPs) > 0 {
		return false, usagef("--endpoint and --allowed-ips are for a peer with a tunnel: leave out --dns-only, or them")
	}
	if err := t.IsNew(c); err != nil {
		return false, err
	}
	peer := config.Peer{Name: t.Name, Groups: t.Groups, Expires: t.Expires}
	peer.DNSRenewals = 1 + rand.IntN(1<<30) // its tokens are made from its name, and a removed peer may have had the same
	return addTo(e, c, folder, peer, func() error { return phone{out: p.out, qr: p.qr}.deliver(e, c, peer) })
}

// addTo writes a peer into the folder, if there is one, and gives the caller what the peer needs.
func addTo(e *env, c *config.Config, folder *peerbook.Folder, peer config.Peer, deliver func() error) (changed bool, err error) {
	if folder == nil {
		if err := deliver(); err != nil {
			return false, err
		}
		fmt.Fprintf(e.stderr, "Nothing is written yet. Add this to %s and run penstock reload:\n\n%s", c.Path, peerbook.YAML(peer))
		return false, nil
	}
	path, err := folder.Add(c, peer)
	if err != nil {
		return false, err
	}
	// Only now: the client's file is useless if the gateway refuses its peer.
	if err := deliver(); err != nil {
		return false, folder.Undo(err, path)
	}
	fmt.Fprintf(e.stderr, "peer %s is written to %s\n", peer.Name, path)
	return true, nil
}

// terms reads what the command line says about the peer.
func (p newPeer) terms(name string) (peerbook.Terms, error) {
	t := peerbook.Terms{Name: name, Groups: p.groups, Endpoint: p.endpoint}
	if err := config.CheckNewPeer(name); err != nil {
		return t, usagef("%v: choose another", err)
	}
	var err error
	if t.Expires, err = parseExpiry(p.expires, time.Now()); err != nil {
		return t, err
	}
	if p.endpoint != "" {
		if _, err := wireguard.ParseEndpoints(p.endpoint); err != nil {
			return t, usagef("%v", err)
		}
	}
	for _, text := range p.allowedIPs {
		prefix, err := netip.ParsePrefix(text)
		if err != nil {
			return t, usagef("--allowed-ips has %q: write networks such as 10.0.0.0/8", text)
		}
		t.AllowedIPs = append(t.AllowedIPs, prefix.Masked())
	}
	return t, nil
}

// inForce returns the addresses of the running gateway's peers. If a file has a fault now, they may be in force and in no file.
func inForce(ctx context.Context, e *env, c *config.Config) []peerbook.FormerAddress {
	client, err := e.dial(ctx)
	if err != nil {
		return nil // nothing runs
	}
	defer client.Close()
	if s, err := client.Status(ctx); err != nil || s.Config != c.Path {
		return nil
	}
	answer, err := client.Peers(ctx)
	if err != nil {
		return nil
	}
	var list []peerbook.FormerAddress
	for _, p := range answer.Peers {
		for _, text := range p.Addresses {
			if prefix, err := netip.ParsePrefix(text); err == nil {
				list = append(list, peerbook.FormerAddress{Address: prefix, Peer: p.Name})
			}
		}
	}
	return list
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
