package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"penstock/cmd/internal/fleet/bundle"
)

func newFleetShowCommand(e *env) *cobra.Command {
	return &cobra.Command{
		Use:   "show FILE",
		Short: "Show what is in a bundle, and who has signed it",
		Long: `Show what is in a bundle, and who has signed it. Signature and contents are checked. Whether the key
may sign for the site, only its gateways know, or the bundle before this one.`,
		Args: takes(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			a, err := bundle.OpenArchive(args[0])
			if err != nil {
				return err
			}
			defer a.Close()
			if err := showBundle(cmd.Context(), e.stdout, a); err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			return nil
		},
	}
}

// showBundle prints a bundle after all of it was checked.
func showBundle(ctx context.Context, w io.Writer, a *bundle.Archive) error {
	m, keys, err := described(a.Signed())
	if err != nil {
		return err
	}
	for _, f := range m.Files {
		if err := a.Fetch(ctx, f, io.Discard); err != nil {
			return err
		}
	}
	rows := [][]string{
		{"site", m.Site},
		{"generation", fmt.Sprint(m.Generation)},
		{"made", m.Made.Local().Format(time.DateTime)},
	}
	for _, k := range keys {
		rows = append(rows, []string{"signed by", k.String()})
	}
	for _, k := range m.Signers {
		rows = append(rows, []string{"next signed by", k.String()})
	}
	for _, g := range m.Gateways {
		rows = append(rows, []string{"gateway", g.Name + "  " + g.Recipient})
	}
	rows = append(rows, []string{"files", counted(m.Files)})
	if err := table(w, rows); err != nil {
		return err
	}
	if _, err := fmt.Fprintln(w); err != nil {
		return err
	}
	rows = [][]string{{"FILE", "SIZE", "SEALED"}}
	for _, f := range m.Files {
		sealed := ""
		if f.Sealed {
			sealed = "sealed"
		}
		rows = append(rows, []string{f.Name, bytesText(uint64(f.Size)), sealed})
	}
	return table(w, rows)
}
