package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"penstock/cmd/internal/control"
	"penstock/cmd/internal/top"
)

func newTopCommand(e *env) *cobra.Command {
	var every time.Duration
	cmd := &cobra.Command{
		Use:   "top",
		Short: "Watch state, flows and blocks live in the terminal",
		Long: `Watch the running penstock in the terminal: its state, transports, flows, what it blocks, clients or
peers, and rules. Enter says why a flow was judged as it was. Who may change the running penstock can also end a
flow, allow a blocked name for an hour, and begin new sessions of the transports; each is asked about first.

While penstock does not run, the view waits for it. It needs a terminal; "penstock flows -w" prints lines instead.`,
		Args: takes(0, 0),
		PreRunE: func(*cobra.Command, []string) error {
			if every < 100*time.Millisecond || every > time.Minute {
				return usagef("--every is %s: write a time from 100ms to 1m", every)
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			return showTop(cmd.Context(), e, every)
		},
	}
	cmd.Flags().DurationVar(&every, "every", time.Second, "`TIME` between two looks")
	return cmd
}

func showTop(ctx context.Context, e *env, every time.Duration) error {
	if why := e.noScreen(); why != "" {
		return fmt.Errorf("top cannot draw: %s; penstock flows -w and penstock status -w print lines instead", why)
	}
	client, err := e.dial(ctx)
	switch {
	case err == nil:
		client.Close()
	case !errors.Is(err, control.ErrNotRunning):
		return err
	}
	return top.Run(ctx, top.Config{
		Dial: e.dial, Explain: explanationText,
		Every: every, In: e.stdin, Out: e.stdout, Environ: os.Environ(), ASCII: !e.showsUnicode(), Colours: e.getenv("NO_COLOR") == "",
	})
}

// noScreen is why nothing but lines can be shown; empty if a whole screen can.
func (e *env) noScreen() string {
	for _, stream := range []struct {
		name string
		end  any
	}{{"stdin", e.stdin}, {"stdout", e.stdout}} {
		if f, ok := stream.end.(*os.File); !ok || !term.IsTerminal(int(f.Fd())) {
			return stream.name + " is not a terminal"
		}
	}
	switch name := e.getenv("TERM"); {
	case name == "dumb":
		return "TERM is dumb"
	case name == "" && runtime.GOOS != "windows":
		return "TERM is not set"
	}
	return ""
}

// showsUnicode reports whether the locale is one of UTF-8.
func (e *env) showsUnicode() bool {
	locale := strings.ToLower(cmp.Or(e.getenv("LC_ALL"), e.getenv("LC_CTYPE"), e.getenv("LANG")))
	return runtime.GOOS == "windows" || strings.Contains(locale, "utf-8") || strings.Contains(locale, "utf8")
}
