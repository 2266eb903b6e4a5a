package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"penstock/cmd/internal/enrol"
	"penstock/cmd/internal/private"
	"penstock/router/transport/wireguard"
)

func newJoinCommand(e *env) *cobra.Command {
	var out string
	cmd := &cobra.Command{
		Use:   "join LINK|-",
		Short: "Join a gateway with the link of an invitation",
		Long: `Join a gateway with a link that penstock peer invite has made. Put it in quotes: a shell may take
the # for a comment.

penstock makes a key here, sends its public half to the gateway, and writes the configuration that
it gets, in the format of wg-quick, to a new file that only you can read. On stdout it prints a
configuration of penstock that uses it:

  penstock join 'https://vpn.example:8443/join#...' > laptop.yaml

With - it reads the link from stdin, so that no other user of this machine sees it.

A link works once. If it names the gateway's key, only that gateway is trusted; otherwise the system
has to trust the gateway's certificate.`,
		Args: takes(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error { return join(cmd.Context(), e, args[0], out) },
	}
	cmd.Flags().StringVarP(&out, "out", "o", "penstock.conf", "write the WireGuard configuration to this new `FILE`")
	return cmd
}

func join(ctx context.Context, e *env, text, out string) error {
	if text == "-" {
		read, err := io.ReadAll(io.LimitReader(e.stdin, 4096))
		if err != nil {
			return fmt.Errorf("read the link from stdin: %w", err)
		}
		text = string(read)
	}
	link, err := enrol.ParseLink(text)
	if err != nil {
		return exitError{exitUsage, err}
	}
	path, err := filepath.Abs(out)
	if err != nil {
		return err
	}
	if err := mayWrite(path); err != nil { // before the link is used up
		return err
	}
	joined, err := enrol.Join(ctx, link, wireguard.GeneratePrivateKey())
	if errors.Is(err, enrol.ErrRefused) {
		return exitError{exitDegraded, err}
	}
	if err != nil {
		return err
	}
	var file strings.Builder
	if _, err := joined.Config.WriteTo(&file); err != nil {
		return err
	}
	if err := private.WriteNew(path, file.String()); err != nil {
		return fmt.Errorf("the link is used up, and the configuration is not written: ask for a new one: %w", err)
	}
	fmt.Fprintf(e.stderr, "You are peer %s. The configuration is in %s, which any WireGuard program reads; keep it to yourself.\n"+
		"With penstock, save the lines below as laptop.yaml (chmod 600) and run: sudo penstock run -c laptop.yaml\n", printable(joined.Name), path)
	_, err = fmt.Fprintf(e.stdout, "# docs/configuration.md has the whole language\nversion: 1\nprofile: %q\n# block: [gambling, adult, malware]\nmetrics: {listen: \"127.0.0.1:9477\"}\n", path)
	return err
}

// mayWrite returns why a new file cannot be made at a path.
func mayWrite(path string) error {
	if _, err := os.Lstat(path); err == nil {
		return fmt.Errorf("there is a file %s already, and it may hold a key: choose another with -o FILE", path)
	}
	temp, err := private.WriteTemp(filepath.Dir(path), "")
	if err != nil {
		return fmt.Errorf("the configuration cannot be written there: choose another place with -o FILE: %w", err)
	}
	return os.Remove(temp)
}
