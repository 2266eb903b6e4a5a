package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/spf13/cobra"

	"penstock/cmd/internal/bundle"
	"penstock/cmd/internal/config"
	"penstock/cmd/internal/doctor"
)

func newBundleCommand(e *env) *cobra.Command {
	var file, out string
	var names bool
	cmd := &cobra.Command{
		Use:   "bundle [-c FILE] [-o FILE]",
		Short: "Make a support archive without secrets",
		Long: `Make a support archive: what doctor finds, state, rules, lists, transports, peers, the last flows and
refused questions, the configuration, the host's network, metrics and log. It works without a running
penstock, too, and says what is missing then.

Keys, passwords and tokens are never in it. Names of hosts, peers and users, and addresses, are
hashes that cannot be reversed; --names keeps them. Look at the archive before you send it: this
command sends nothing.`,
		Args: takes(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			now := time.Now()
			if out == "" {
				out = now.UTC().Format("penstock-bundle-20060102-150405.tar.gz")
			}
			if _, err := os.Lstat(out); err == nil {
				return exists(out) // before all the work
			}
			b, err := e.collect(cmd.Context(), file, names, now)
			if err != nil {
				return err
			}
			if err := writeBundle(out, b); err != nil {
				return err
			}
			return printBundle(e, out, b)
		},
	}
	fileFlag(cmd, &file)
	cmd.Flags().StringVarP(&out, "output", "o", "", "write `FILE`, which must not exist (default penstock-bundle-TIME.tar.gz)")
	cmd.Flags().BoolVar(&names, "names", false, "keep names and addresses")
	return cmd
}

// collect collects what is put into the archive. file is the configuration that -c names, or "".
func (e *env) collect(ctx context.Context, file string, names bool, now time.Time) (*bundle.Bundle, error) {
	findings, err := e.examine(ctx, file)
	if err != nil {
		return nil, err
	}
	cfg := bundle.Config{Findings: findings, Version: versionLine(), Names: names, Now: now}
	client, err := e.dial(ctx)
	if err == nil {
		defer client.Close()
		cfg.Running = client
		if status, err := client.Status(ctx); err == nil && file == "" {
			file = status.Config
		}
	}
	cfg.Absent = err
	if file == "" {
		file = doctor.SystemConfig
	}
	cfg.Loaded, cfg.Fault = config.LoadServing(file, nil)
	return bundle.Collect(ctx, cfg)
}

func exists(path string) error {
	return fmt.Errorf("there is a file %s, which bundle does not overwrite: name another one with -o", path)
}

// writeBundle writes a file that only its owner can read, and removes it if that fails.
func writeBundle(path string, b *bundle.Bundle) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return exists(path)
	}
	if err != nil {
		return err
	}
	if err := errors.Join(b.Write(f), f.Close()); err != nil {
		return errors.Join(err, os.Remove(path))
	}
	return nil
}

// printBundle says what is in the archive, and how to look at it.
func printBundle(e *env, path string, b *bundle.Bundle) error {
	rows := [][]string{{"FILE", "SIZE", "WHAT"}}
	for _, f := range b.Files {
		rows = append(rows, []string{f.Name, bytesText(uint64(len(f.Text))), f.What})
	}
	for _, m := range b.Missing {
		rows = append(rows, []string{"missing", "", printable(m.What + ": " + m.Why)})
	}
	if err := table(e.stdout, rows); err != nil {
		return err
	}
	_, err := fmt.Fprintf(e.stdout, "\n%s is written. Look at it before you send it:\n  tar -xzOf %[1]s | less\n", path)
	return err
}
