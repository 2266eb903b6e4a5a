package main

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"penstock/cmd/internal/config"
	"penstock/cmd/internal/control"
	"penstock/cmd/internal/peerbook"
)

func newPeerCommand(e *env) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "peer",
		Short: "Add, invite, list, show, disable, sign out and remove the peers of a gateway, and set up their phones",
		Args:  cobra.ArbitraryArgs,
		RunE:  needsCommand,
	}
	cmd.AddCommand(newPeerAddCommand(e), newPeerListCommand(e), newPeerShowCommand(e), newPeerRemoveCommand(e),
		newPeerDisableCommand(e), newPeerEnableCommand(e), newPeerInviteCommand(e), newPeerInvitesCommand(e), newPeerUninviteCommand(e),
		newPeerDNSCommand(e), newPeerQuotaCommand(e), newPeerSignOutCommand(e))
	return cmd
}

// gatewayFlag adds -c for commands that ask the running gateway if it is not given.
func gatewayFlag(cmd *cobra.Command, file *string) {
	cmd.Flags().StringVarP(file, "config", "c", "", "the gateway's configuration `FILE` (default $PENSTOCK_CONFIG, else that of the running gateway)")
}

// changePeers loads the gateway's configuration, lets change work on the named peer while no other command changes peers,
// and tells the running gateway if something changed.
func changePeers(cmd *cobra.Command, e *env, file, name string, change func(*config.Config, *peerbook.Folder) (changed bool, err error)) error {
	file, err := gatewayFile(cmd, e, file)
	if err != nil {
		return err
	}
	changed, err := lockedChange(cmd.Context(), file, name, change)
	if err != nil || !changed {
		return err
	}
	return reloadAfter(cmd, e, name)
}

// lockedChange holds the lock of the peers' folder, if there is one, while it loads the configuration and change works.
func lockedChange(ctx context.Context, file, name string, change func(*config.Config, *peerbook.Folder) (changed bool, err error)) (bool, error) {
	folder, err := peerbook.OpenAt(ctx, file, name)
	if err != nil {
		return false, err
	}
	defer func() { folder.Close() }()
	c, err := loadGateway(file)
	if err != nil {
		return false, err
	}
	if c.Fleet != nil {
		return false, fmt.Errorf("this is a gateway of site %s, and its peers are those of the site: use penstock fleet peer, or the site's folder and a new bundle", c.Fleet.Site)
	}
	if !folder.Is(c, name) {
		folder.Close()
		if folder, err = peerbook.Open(ctx, c, name); err != nil {
			return false, err
		}
		if folder != nil { // another command may have changed it before we had the lock
			if c, err = config.LoadServing(c.Path, nil); err != nil {
				return false, err
			}
		}
	}
	return change(c, folder)
}

// gatewayFile returns the configuration that a command is about: file, or without one that of the running penstock.
func gatewayFile(cmd *cobra.Command, e *env, file string) (string, error) {
	if file != "" {
		return file, nil
	}
	s, err := runningStatus(cmd, e)
	if err != nil {
		return "", fmt.Errorf("which configuration? name it with -c FILE: %w", err)
	}
	return s.Config, nil
}

// loadGateway loads a configuration, which must be a gateway's.
func loadGateway(file string) (*config.Config, error) {
	c, err := config.LoadServing(file, nil)
	if err != nil {
		return nil, err
	}
	if c.Listen.WireGuard == nil {
		return nil, c.Err("listen", "this is not the configuration of a gateway: peers have nothing to connect to", "add listen: {wireguard: ...}")
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

// reloadAfter tells the running gateway that a peer changed.
func reloadAfter(cmd *cobra.Command, e *env, name string) error {
	client, err := e.dial(cmd.Context())
	if err != nil {
		fmt.Fprintln(e.stderr, "the change takes effect when penstock reads its configuration again:", err)
		return nil
	}
	defer client.Close()
	if _, err := client.Reload(cmd.Context(), control.ReloadQuery{PeersOnly: true}); err != nil {
		return fmt.Errorf("the change is written, but the running penstock refuses the configuration: mend it and run penstock reload: %w", err)
	}
	s, err := client.Status(cmd.Context())
	if err != nil || s.Peers == nil {
		return err
	}
	for _, bad := range s.Peers.Bad {
		if filepath.Base(bad.File) == name+".yaml" {
			return fmt.Errorf("the change is written, but the running penstock does not take it: %s", bad.Error)
		}
	}
	return nil
}

func newPeerRemoveCommand(e *env) *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "rm NAME",
		Short: "Remove a peer that peer add has written",
		Long: `Remove a peer that peer add has written, and tell the running gateway. Its flows end. Its address
rests for listen.wireguard.reuse_after before another peer gets it.`,
		Args: takes(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return changePeers(cmd, e, file, args[0], func(c *config.Config, folder *peerbook.Folder) (bool, error) {
				path, err := folder.Remove(c, args[0])
				if err != nil {
					return false, err
				}
				fmt.Fprintf(e.stderr, "peer %s is removed, and with it %s\n", args[0], path)
				return true, nil
			})
		},
	}
	gatewayFlag(cmd, &file)
	return cmd
}

// newPeerDisableCommand makes disable.
func newPeerDisableCommand(e *env) *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "disable NAME",
		Short: "Refuse a peer, and keep its key and address",
		Args:  takes(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return changePeer(cmd, e, file, args[0], giving(peerbook.Access{Disabled: true}))
		},
	}
	gatewayFlag(cmd, &file)
	return cmd
}

// newPeerSignOutCommand makes sign-out.
func newPeerSignOutCommand(e *env) *cobra.Command {
	return &cobra.Command{
		Use:   "sign-out NAME",
		Short: "End the session of whoever has signed in with a peer, and its flows",
		Args:  takes(1, 1),
		RunE: e.asking(func(ctx context.Context, client *control.Client, args []string) error {
			if err := client.SignOut(ctx, args[0]); err != nil {
				return err
			}
			fmt.Fprintf(e.stderr, "the session with peer %s is over\n", args[0])
			return nil
		}),
	}
}

// newPeerEnableCommand makes enable.
func newPeerEnableCommand(e *env) *cobra.Command {
	var file, expires string
	cmd := &cobra.Command{
		Use:   "enable NAME",
		Short: "Let a peer connect again that is disabled or has expired",
		Args:  takes(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			until, err := parseExpiry(expires, time.Now())
			if err != nil {
				return err
			}
			var access peerbook.Access
			if expires != "" {
				access.Expires = &until
			}
			return changePeer(cmd, e, file, args[0], giving(access))
		},
	}
	gatewayFlag(cmd, &file)
	cmd.Flags().StringVar(&expires, "expires", "", expiresUsage)
	return cmd
}

// giving is a change of a peer's access.
func giving(a peerbook.Access) func(*config.Peer) (did, already string, err error) {
	return func(p *config.Peer) (did, already string, err error) { return a.Give(p, time.Now()) }
}

// changePeer changes a peer that peer add has written. change says what it did, or that there was nothing to do.
func changePeer(cmd *cobra.Command, e *env, file, name string, change func(*config.Peer) (did, already string, err error)) error {
	return changePeers(cmd, e, file, name, func(c *config.Config, folder *peerbook.Folder) (bool, error) {
		p, path, err := folder.Own(c, name)
		if err != nil {
			return false, err
		}
		did, already, err := change(&p)
		if err != nil {
			return false, err
		}
		if already != "" {
			fmt.Fprintf(e.stderr, "peer %s is %s\n", p.Name, already)
			return false, nil
		}
		if err := folder.Replace(c, path, p); err != nil {
			return false, err
		}
		fmt.Fprintf(e.stderr, "peer %s is %s\n", p.Name, did)
		return true, nil
	})
}
