package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
	"penstock/router/transport/wireguard"
)

func newGenkeyCommand(e *env) *cobra.Command {
	return &cobra.Command{
		Use:   "genkey",
		Short: "Print a new WireGuard private key",
		Long: `Print a new WireGuard private key. Keep it in a file that only you can read:

  (umask 077; penstock genkey > gateway.key)`,
		Args: takes(0, 0),
		RunE: func(*cobra.Command, []string) error {
			_, err := fmt.Fprintln(e.stdout, wireguard.GeneratePrivateKey().Reveal())
			return err
		},
	}
}

func newPubkeyCommand(e *env) *cobra.Command {
	return &cobra.Command{
		Use:   "pubkey < KEYFILE",
		Short: "Print the public key of a private key read from stdin",
		Args:  takes(0, 0),
		RunE: func(*cobra.Command, []string) error {
			text, err := io.ReadAll(io.LimitReader(e.stdin, 4096))
			if err != nil {
				return fmt.Errorf("read the private key from stdin: %w", err)
			}
			key, err := wireguard.ParsePrivateKey(strings.TrimSpace(string(text)))
			if err != nil {
				return fmt.Errorf("there is no private key on stdin: %w", err)
			}
			_, err = fmt.Fprintln(e.stdout, key.Public())
			return err
		},
	}
}
