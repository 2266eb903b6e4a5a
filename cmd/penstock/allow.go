package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"penstock/cmd/internal/control"
)

// howLong is how long a decision counts, and for whom, as flags.
type howLong struct {
	lasts       time.Duration
	always, dry bool
	peer        string
}

func (t *howLong) flags(cmd *cobra.Command) {
	cmd.Flags().DurationVar(&t.lasts, "for", 0, "how long, for example 10m")
	cmd.Flags().BoolVar(&t.always, "always", false, "until it is taken back; it is written to the file in managed")
	cmd.Flags().BoolVar(&t.dry, "dry-run", false, "only show what would be written")
	cmd.Flags().StringVar(&t.peer, "peer", "", "only for this `PEER`")
}

// check is the PreRunE of a command with these flags.
func (t *howLong) check(*cobra.Command, []string) error {
	switch {
	case t.always && t.lasts != 0:
		return usagef("for a while or always? give one of --for and --always")
	case !t.always && t.lasts <= 0:
		return usagef("for how long? write --for 10m, or --always")
	}
	return nil
}

func newAllowCommand(e *env) *cobra.Command {
	var t howLong
	cmd := &cobra.Command{
		Use:   "allow NAME|category:NAME --for TIME|--always",
		Short: "Let something through, for a while or always",
		Long: `Let a name, with all below it, or a category through, although rules block it by name or
category. What else blocks it stays in force: rules by address, port or client, the guard,
sign-in, quotas, and a last rule that blocks.

What has more than a minute left survives a restart, in the file that the configuration names
with managed.`,
		Args:    takes(1, 1),
		PreRunE: t.check,
		RunE: e.asking(func(ctx context.Context, client *control.Client, args []string) error {
			q := control.AllowQuery{Target: args[0], Peer: t.peer, For: t.lasts, Always: t.always, DryRun: t.dry}
			a, err := control.DecisionClient{Client: client}.Allow(ctx, q)
			if err != nil {
				return err
			}
			return printDecided(e, t, a.Target, "allowed", a.Peer, a.Until, a.File, a.Diff, a.Warning)
		}),
	}
	t.flags(cmd)
	return cmd
}

func newBlockCommand(e *env) *cobra.Command {
	var t howLong
	cmd := &cobra.Command{
		Use:   "block NAME|category:NAME --for TIME|--always",
		Short: "Block something, for a while or always",
		Long: `Block a name, with all below it, or a category before any rule is asked. Live flows to it are
reset, and questions for it are refused from now on.

What has more than a minute left survives a restart, in the file that the configuration names
with managed.`,
		Args:    takes(1, 1),
		PreRunE: t.check,
		RunE: e.asking(func(ctx context.Context, client *control.Client, args []string) error {
			q := control.BlockQuery{Target: args[0], Peer: t.peer, For: t.lasts, Always: t.always, DryRun: t.dry}
			b, err := control.DecisionClient{Client: client}.Block(ctx, q)
			if err != nil {
				return err
			}
			if err := printDecided(e, t, b.Target, "blocked", b.Peer, b.Until, b.File, b.Diff, b.Warning); err != nil {
				return err
			}
			return printEnded(e.stdout, b.Ended)
		}),
	}
	t.flags(cmd)
	return cmd
}

// printDecided says what has been decided, or what would be written.
func printDecided(e *env, t howLong, target, what, peer string, until time.Time, file, diff, warning string) error {
	if warning != "" {
		fmt.Fprintln(e.stderr, "penstock:", printable(warning))
	}
	if t.dry {
		return printDiff(e.stdout, diff)
	}
	end := "until it is taken back"
	if !until.IsZero() {
		end = "until " + until.Local().Format(time.DateTime)
	}
	if peer != "" {
		what += " for " + printable(peer)
	}
	if file != "" && t.always {
		end += ", in " + printable(file)
	}
	_, err := fmt.Fprintf(e.stdout, "%s is %s %s\n", printable(target), what, end)
	return err
}

func printDiff(w io.Writer, diff string) error {
	if diff == "" {
		diff = "nothing would be written\n"
	}
	var b strings.Builder
	for line := range strings.Lines(diff) {
		if !strings.ContainsAny(line[:1], "-+@ \\n") { // no line of a diff
			b.WriteString("\\ ")
		}
		b.WriteString(printableLines(line, "") + "\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func printEnded(w io.Writer, n int) (err error) {
	if n > 0 {
		_, err = fmt.Fprintln(w, "live flows that were reset:", n)
	}
	return err
}
