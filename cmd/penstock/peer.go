package main

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/mdp/qrterminal/v3"
	"github.com/spf13/cobra"
	"penstock/cmd/internal/config"
	"penstock/cmd/internal/control"
	"penstock/router/transport/wireguard"
)

func newPeerCommand(e *env) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "peer",
		Short: "Add, list and remove the peers of a gateway",
		Args:  cobra.ArbitraryArgs,
		RunE:  needsCommand,
	}
	cmd.AddCommand(newPeerAddCommand(e), newPeerListCommand(e), newPeerRemoveCommand(e))
	return cmd
}

// newPeer is what is asked for with peer add.
type newPeer struct {
	file       string // configuration of the gateway; empty: that of the running one
	endpoint   string // where the peer dials; empty: the configuration's
	allowedIPs []string
	groups     []string
	out        string
	qr         bool
}

func newPeerAddCommand(e *env) *cobra.Command {
	var p newPeer
	cmd := &cobra.Command{
		Use:   "add NAME",
		Short: "Make a peer and print its WireGuard configuration",
		Long: `Make a key pair and choose the next free address for a new peer, and print the configuration
that any WireGuard program reads, or a QR code of it for the phone apps. The private key is
kept nowhere else.

If the gateway's configuration includes a glob, for example

  include: peers.d/*.yaml

the peer is written to a file there and the running gateway is told. Otherwise the lines to
add to the configuration are printed.`,
		Args: takes(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error { return addPeer(cmd, e, p, args[0]) },
	}
	f := cmd.Flags()
	gatewayFlag(cmd, &p.file)
	f.StringVar(&p.endpoint, "endpoint", "", "`HOST:PORT` that the peer dials (default listen.wireguard.endpoint)")
	f.StringSliceVar(&p.allowedIPs, "allowed-ips", nil, "`NETWORKS` that the peer sends through the tunnel (default all)")
	f.StringSliceVar(&p.groups, "group", nil, "`GROUPS` that the peer is in")
	f.StringVarP(&p.out, "out", "o", "", "write the peer's configuration to this `FILE`, which only you can read")
	f.BoolVar(&p.qr, "qr", false, "print a QR code instead of the configuration")
	return cmd
}

// gatewayFlag adds -c for commands that ask the running gateway if it is not given.
func gatewayFlag(cmd *cobra.Command, file *string) {
	cmd.Flags().StringVarP(file, "config", "c", "", "the gateway's configuration `FILE` (default that of the running gateway)")
}

// loadGateway loads the configuration at file, or of the running penstock, which must be a gateway's.
func loadGateway(cmd *cobra.Command, e *env, file string) (*config.Config, error) {
	if file == "" {
		s, err := runningStatus(cmd, e)
		if err != nil {
			return nil, fmt.Errorf("which configuration? name it with -c FILE: %w", err)
		}
		file = s.Config
	}
	c, err := config.Load(file)
	if err != nil {
		return nil, err
	}
	if c.Listen.WireGuard == nil {
		return nil, c.Err("listen", "this configuration is no gateway's: peers have nothing to connect to", "add listen: {wireguard: ...}")
	}
	return c, nil
}

func runningStatus(cmd *cobra.Command, e *env) (control.Status, error) {
	client, err := e.dial(cmd.Context())
	if err != nil {
		return control.Status{}, err
	}
	defer client.Close()
	return client.Status(cmd.Context())
}

func addPeer(cmd *cobra.Command, e *env, p newPeer, name string) error {
	if err := config.CheckName(name); err != nil {
		return usagef("%v: choose another", err)
	}
	c, err := loadGateway(cmd, e, p.file)
	if err != nil {
		return err
	}
	for _, other := range c.Peers {
		if other.Name == name {
			return fmt.Errorf("there is a peer %q already, at %s: choose another name, or remove it with: penstock peer rm %s", name, other.Pos, name)
		}
	}
	addresses, err := freeAddresses(c)
	if err != nil {
		return err
	}
	key := wireguard.GeneratePrivateKey()
	client, err := clientFile(c, p, key, addresses)
	if err != nil {
		return err
	}
	// The peer's file is made before the gateway learns of the peer: it holds the only copy of the key.
	if err := p.deliver(e, client); err != nil {
		return err
	}
	peer := config.Peer{Name: name, PublicKey: key.Public().String(), AllowedIPs: addresses, Groups: p.groups}
	path, err := writePeer(c, peer)
	if err != nil {
		return err
	}
	if path == "" {
		fmt.Fprintf(e.stderr, "Nothing is written yet. Add this to %s and run penstock reload:\n\n%s", c.Path, peerYAML(peer))
		return nil
	}
	fmt.Fprintf(e.stderr, "peer %s is written to %s\n", name, path)
	return reloadAfter(cmd, e)
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

// deliver gives the peer's configuration to the caller.
func (p newPeer) deliver(e *env, text string) error {
	if p.out != "" {
		f, err := os.OpenFile(p.out, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return fmt.Errorf("write the peer's configuration: %w", err)
		}
		defer f.Close()
		if _, err := io.WriteString(f, text); err != nil {
			return fmt.Errorf("write the peer's configuration: %w", err)
		}
		if err := f.Close(); err != nil {
			return fmt.Errorf("write the peer's configuration: %w", err)
		}
	}
	switch {
	case p.qr:
		// Low redundancy: a screen is clean, and the file is long.
		qrterminal.GenerateHalfBlock(text, qrterminal.L, e.stdout)
	case p.out == "":
		_, err := io.WriteString(e.stdout, text)
		return err
	}
	return nil
}

// reloadAfter tells the running gateway that its peers changed.
func reloadAfter(cmd *cobra.Command, e *env) error {
	client, err := e.dial(cmd.Context())
	if err != nil {
		fmt.Fprintln(e.stderr, "the change takes effect when penstock reads its configuration again:", err)
		return nil
	}
	defer client.Close()
	if _, err := client.Reload(cmd.Context(), control.ReloadQuery{}); err != nil {
		return fmt.Errorf("the file is written, but the running penstock did not take it: %w", err)
	}
	return nil
}

func newPeerListCommand(e *env) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the peers of the running gateway",
		Args:  takes(0, 0),
		RunE: e.asking(func(ctx context.Context, client *control.Client, _ []string) error {
			answer, err := client.Peers(ctx)
			if err != nil {
				return err
			}
			rows := [][]string{{"PEER", "ADDRESSES", "GROUPS", "ENDPOINT", "HANDSHAKE", "RX", "TX"}}
			for _, p := range answer.Peers {
				shake := ago(time.Now(), p.LastHandshake)
				if p.Disabled {
					shake = "disabled"
				}
				rows = append(rows, []string{p.Name, strings.Join(p.Addresses, " "), strings.Join(p.Groups, " "), p.Endpoint,
					shake, bytesText(p.RxBytes), bytesText(p.TxBytes)})
			}
			return printRows(e.stdout, asJSON, answer, rows)
		}),
	}
	jsonFlag(cmd, &asJSON)
	return cmd
}

func newPeerRemoveCommand(e *env) *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "rm NAME",
		Short: "Remove a peer that peer add has written",
		Args:  takes(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := loadGateway(cmd, e, file)
			if err != nil {
				return err
			}
			path, err := removePeer(c, args[0])
			if err != nil {
				return err
			}
			fmt.Fprintf(e.stderr, "peer %s is gone, and with it %s\n", args[0], path)
			return reloadAfter(cmd, e)
		},
	}
	gatewayFlag(cmd, &file)
	return cmd
}
