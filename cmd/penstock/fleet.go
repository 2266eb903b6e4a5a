package main

import (
	"fmt"
	"path/filepath"

	"github.com/spf13/cobra"

	"penstock/cmd/internal/enrol"
	"penstock/cmd/internal/fleet/bundle"
	"penstock/cmd/internal/private"
)

func newFleetCommand(e *env) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "fleet",
		Short: "Keys, bundles and the state of several gateways that run as one",
		Args:  cobra.ArbitraryArgs,
		RunE:  needsCommand,
	}
	cmd.AddCommand(newFleetKeygenCommand(e), newFleetSignCommand(e), newFleetShowCommand(e), newFleetPublishCommand(e), newFleetSeedCommand(e), newFleetPeerCommand(e), newFleetStatusCommand(e))
	return cmd
}

func newFleetKeygenCommand(e *env) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "keygen",
		Short: "Make the key of an operator, of a gateway, or of the page where people join",
		Args:  cobra.ArbitraryArgs,
		RunE:  needsCommand,
	}
	cmd.AddCommand(&cobra.Command{
		Use:   "operator FILE",
		Short: "Make a key that signs bundles",
		Long: `Make an operator's key, write it to a new file that only you can read, and print its public key.
Whoever has the file can change everything on all gateways of the site: keep it off the gateways.`,
		Args: takes(1, 1),
		RunE: func(_ *cobra.Command, args []string) error {
			key, err := bundle.NewPrivateKey()
			if err != nil {
				return err
			}
			return e.wroteKey(args[0], key.Reveal(), key.Public().String(),
				"Name the public key in the site's bundle, and for the first bundle in the file of each gateway, with the others who may sign:\n"+
					"  site:  {signers: [%[1]q]}\n  fleet: {signers: [%[1]q]}\n")
		},
	}, &cobra.Command{
		Use:   "gateway FILE",
		Short: "Make a key that opens the secrets of bundles",
		Long: `Make a gateway's key, write it to a new file that only you can read, and print its public key.
Run this on the gateway: its private key is needed nowhere else.`,
		Args: takes(1, 1),
		RunE: func(_ *cobra.Command, args []string) error {
			key, err := bundle.NewIdentity()
			if err != nil {
				return err
			}
			return e.wroteKey(args[0], key.Reveal(), key.Recipient(),
				"Name the public key in the site's bundle, and the file in the gateway's own file:\n"+
					"  site:  {gateways: [{name: NAME, key: %q}]}\n  fleet: {key: {file: %q}}\n")
		},
	})
	cmd.AddCommand(&cobra.Command{
		Use:   "enrolment FILE",
		Short: "Make the key for the certificates of the page where invited people join",
		Long: `Make a key for the certificates of listen.enrol, and write it to a new file that only you can read. All
gateways of a site make their certificates with it, and the links of invitations name it, so that
nobody can get in between. Write it below secrets/ in the site's folder.`,
		Args: takes(1, 1),
		RunE: func(_ *cobra.Command, args []string) error {
			if err := enrol.NewKeyFile(args[0]); err != nil {
				return err
			}
			fmt.Fprintf(e.stderr, "The private key is in %s. Name it in the site's bundle, by its place below the folder:\n"+
				"  listen: {enrol: {url: \"https://HOST:8443\", private_key: {file: \"secrets/%s\"}}}\n", args[0], filepath.Base(args[0]))
			return nil
		},
	})
	return cmd
}

// wroteKey writes a private key to a new file, prints its public key, and says where that belongs.
func (e *env) wroteKey(path, text, public, where string) error {
	if err := private.WriteNew(path, text); err != nil {
		return err
	}
	fmt.Fprintf(e.stderr, "The private key is in %s; keep it to yourself.\n", path)
	fmt.Fprintf(e.stderr, where, public, path)
	_, err := fmt.Fprintln(e.stdout, public)
	return err
}
