package main

import (
	"fmt"
	"os"

	"github.com/mdp/qrterminal/v3"
	"github.com/spf13/cobra"

	"penstock/cmd/internal/config"
	"penstock/cmd/internal/privatedns"
)

// phone is what peer dns is asked for.
type phone struct {
	file  string // configuration of the gateway; empty: that of the running one
	out   string // for the profile
	qr    bool
	renew bool
}

func newPeerDNSCommand(e *env) *cobra.Command {
	var p phone
	cmd := &cobra.Command{
		Use:   "dns NAME",
		Short: "Print the addresses at which a peer's phone asks encrypted DNS",
		Long: `Print the addresses at which a peer's phone asks the encrypted DNS of dns.serve: a URL for DNS over
HTTPS, and a host name for DNS over TLS, which Android calls private DNS. Whoever has one of them is
that peer for the DNS server. With -o FILE, write a profile for iOS and macOS.

With --renew the peer gets other addresses, and those that it had are dead at once.`,
		Args: takes(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error { return showPhone(cmd, e, p, args[0]) },
	}
	f := cmd.Flags()
	gatewayFlag(cmd, &p.file)
	f.StringVarP(&p.out, "out", "o", "", "write a .mobileconfig for iOS and macOS to this `FILE`, which only you can read")
	f.BoolVar(&p.qr, "qr", false, "print the URL, or else the host name, as a QR code")
	f.BoolVar(&p.renew, "renew", false, "make other addresses, so that those before are dead")
	return cmd
}

func showPhone(cmd *cobra.Command, e *env, p phone, name string) error {
	c, peer, err := phonePeer(cmd, e, p.file, name)
	if err != nil {
		return err
	}
	if p.renew {
		err := changePeer(cmd, e, p.file, name, func(p *config.Peer) (did, already string, err error) {
			p.DNSRenewals++
			peer = *p
			return "given other addresses for DNS", "", nil
		})
		if err != nil {
			return err
		}
	}
	return p.deliver(e, c, peer)
}

// phonePeer finds a peer in a configuration with dns.serve.
func phonePeer(cmd *cobra.Command, e *env, file, name string) (*config.Config, config.Peer, error) {
	file, err := gatewayFile(cmd, e, file)
	if err != nil {
		return nil, config.Peer{}, err
	}
	c, err := loadGateway(file)
	if err != nil {
		return nil, config.Peer{}, err
	}
	if err := servesPhones(c); err != nil {
		return nil, config.Peer{}, err
	}
	i := c.Peers.Index(func(p config.Peer) bool { return p.Name == name })
	if i < 0 {
		return nil, config.Peer{}, fmt.Errorf("there is no peer %q: see penstock peer list, or make it with: penstock peer add %s --dns-only", name, name)
	}
	return c, c.Peers.At(i), nil
}

// servesPhones returns an error without dns.serve.
func servesPhones(c *config.Config) error {
	if c.DNS.Serve == nil {
		return c.Err("dns", "this gateway serves no encrypted DNS", "add dns: {serve: {name: ..., https: ..., tls: ..., certificate: ..., key: ...}}")
	}
	return nil
}

// deliver gives the caller what the phone of a peer needs.
func (p phone) deliver(e *env, c *config.Config, peer config.Peer) error {
	a, err := privatedns.AccessOf(c, peer)
	if err != nil {
		return err
	}
	if p.out != "" {
		if err := writeSecret(p.out, string(a.MobileConfig(peer.Name, c.DNS.Serve.Name))); err != nil {
			return fmt.Errorf("write the profile: %w", err)
		}
	}
	out := &failing{w: e.stdout}
	if p.qr {
		text := a.URL
		if text == "" {
			text = a.Host
		}
		qrterminal.GenerateHalfBlock(text, qrterminal.L, out)
	} else {
		for _, row := range [][2]string{{"https", a.URL}, {"tls", a.Host}} {
			if row[1] != "" {
				fmt.Fprintf(out, "%-6s%s\n", row[0], row[1])
			}
		}
	}
	if out.err != nil && p.out != "" {
		os.Remove(p.out)
	}
	return out.err
}
