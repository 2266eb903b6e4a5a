package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"penstock/cmd/internal/control"
	"penstock/cmd/internal/notices"
)

func newNoticesCommand(e *env) *cobra.Command {
	var categories []string
	var debug bool
	cmd := &cobra.Command{
		Use:   "notices",
		Short: "Show notices on the desktop of what is blocked, and of lost connections",
		Long: `Show notices on this desktop: of a site that this machine has just tried to open and that is blocked, and of
a connection that is lost for more than ten seconds, is back, or needs its user to sign in, and of a pause of the
filter. A site is shown at most once an hour, sites that are blocked together share a notice, and there are at
most six such notices an hour. "Why?" in a notice shows the rule and the list.

It runs in the user's session (penstock-notices.service, or penstock-notices.desktop), until it is interrupted, and
needs D-Bus. It only reads: the user must be in control.group.`,
		Args: takes(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			bus, err := e.sessionBus()
			if err != nil {
				return err
			}
			client, err := e.dial(cmd.Context())
			switch {
			case err == nil:
				client.Close()
			case !errors.Is(err, control.ErrNotRunning):
				return err
			}
			err = notices.Run(cmd.Context(), notices.Config{
				Dial: e.dial, Explain: explanationText, Bus: bus, Categories: categories, Log: newLogger(e, debug),
			})
			if errors.Is(err, notices.ErrRunsAlready) {
				fmt.Fprintln(e.stderr, "penstock:", err)
				return nil
			}
			return err
		},
	}
	cmd.Flags().StringSliceVar(&categories, "category", nil,
		"tell only of this `CATEGORY` or rule; may be given several times (default all categories)")
	cmd.Flags().BoolVar(&debug, "debug", false, "log each notice")
	return cmd
}

// explanationText is what explain prints.
func explanationText(x control.Explanation) string {
	var b strings.Builder
	printExplanation(&b, plain(x)) // a Builder takes everything
	return b.String()
}

// sessionBus is the D-Bus address of the user's session.
func (e *env) sessionBus() (string, error) {
	if address := e.getenv("DBUS_SESSION_BUS_ADDRESS"); address != "" {
		return address, nil
	}
	if dir := e.getenv("XDG_RUNTIME_DIR"); dir != "" {
		socket := filepath.Join(dir, "bus")
		if _, err := os.Stat(socket); err == nil {
			return "unix:path=" + socket, nil
		}
	}
	return "", errors.New("there is no session bus: run this as the user of a desktop, in their session, not with sudo")
}
