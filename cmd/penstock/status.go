package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"penstock/cmd/internal/control"
)

// watchPeriod is how often -w asks again.
const watchPeriod = time.Second

func newStatusCommand(e *env) *cobra.Command {
	var watch, asJSON bool
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show the state",
		Long: `Show the state: one line that sums up, then transports and flows. The exit code is 0 for
connected, 3 for down or not running, 4 for anything between.`,
		Args: takes(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if watch {
				return watchStatus(cmd.Context(), e, asJSON)
			}
			s, err := askStatus(cmd.Context(), e)
			if err != nil {
				return err
			}
			if asJSON {
				err = printJSON(e.stdout, s)
			} else {
				err = printStatus(e.stdout, s, time.Now())
			}
			if err != nil {
				return err
			}
			return exitError{code: statusCode(s)}.orNil()
		},
	}
	cmd.Flags().BoolVarP(&watch, "watch", "w", false, "print a line whenever the state or a transport changes; penstock top shows more")
	jsonFlag(cmd, &asJSON)
	return cmd
}

// jsonFlag adds --json.
func jsonFlag(cmd *cobra.Command, asJSON *bool) {
	cmd.Flags().BoolVar(asJSON, "json", false, "print JSON")
}

// askStatus asks the running penstock. If none runs, that is its answer.
func askStatus(ctx context.Context, e *env) (control.Status, error) {
	client, err := e.dial(ctx)
	if err == nil {
		defer client.Close()
		var s control.Status
		if s, err = client.Status(ctx); err == nil {
			return s, nil
		}
	}
	if errors.Is(err, control.ErrNotRunning) {
		return control.Status{
			APIVersion: control.APIVersion, State: "down", Verdict: "down: " + err.Error(),
			Listen: []string{}, Transports: []control.TransportStatus{}, // [] in JSON
		}, nil
	}
	return control.Status{}, err
}

func statusCode(s control.Status) int {
	switch {
	case s.State == "down":
		return exitNotRunning
	case s.State == "connected" && !s.Degraded:
		return exitOK
	}
	return exitDegraded
}

// orNil returns e, or nil for code 0.
func (e exitError) orNil() error {
	if e.code == exitOK && e.err == nil {
		return nil
	}
	return e
}

func printStatus(w io.Writer, s control.Status, now time.Time) error {
	reloadError, _, _ := strings.Cut(s.ReloadError, "\n") // the first fault; penstock check shows all
	s = plain(s)
	fmt.Fprintln(w, s.Verdict)
	if s.Started.IsZero() { // not running
		return nil
	}
	fmt.Fprintf(w, "up %s, %s, %s\n", age(now.Sub(s.Started)), s.Version, s.Config)
	for _, l := range s.Listen {
		fmt.Fprintln(w, "listen", l)
	}
	fmt.Fprintf(w, "flows %d active, %d forwarded, %d denied, policy %d\n", s.Flows.Active, s.Flows.Forwarded, s.Flows.Denied, s.PolicyGeneration)
	if s.Direct != "" {
		fmt.Fprintln(w, printable(s.Direct))
	}
	for _, t := range s.Health {
		if t.Reached {
			fmt.Fprintf(w, "health %s reached for %s\n", t.Target, age(now.Sub(t.Since)))
		} else {
			fmt.Fprintf(w, "health %s not reached for %s: %s\n", t.Target, age(now.Sub(t.Since)), t.Error)
		}
	}
	if s.Fleet != nil {
		fmt.Fprintln(w, "fleet", fleetSummary(*s.Fleet))
	}
	if n := s.Peers; n != nil {
		fmt.Fprintf(w, "peers %d active in the last 3 minutes, %d idle, %d disabled, %d expired\n", n.Active, n.Idle, n.Disabled, n.Expired)
		if n.OverQuota > 0 {
			fmt.Fprintf(w, "%d of them over their quotas: penstock peer list\n", n.OverQuota)
		}
		for _, bad := range n.Bad {
			fmt.Fprintf(w, "the file of peers %s has a fault: %s\n", bad.File, bad.Error)
		}
	}
	if s.ReloadError != "" {
		fmt.Fprintln(w, "the last reload was refused:", printable(reloadError))
	}
	if s.HistoryStopped != "" {
		fmt.Fprintln(w, "the history is not kept at present:", printable(s.HistoryStopped))
	}
	for _, warning := range s.Warnings {
		fmt.Fprintln(w, "warning:", warning)
	}
	for _, v := range s.OtherVPNs {
		fmt.Fprintf(w, "another VPN has %s (table %d): %s\n", v.Interface, v.Table, strings.Join(v.Networks, ", "))
	}
	if len(s.Restart) > 0 {
		fmt.Fprintln(w, "these changes wait for a restart:", strings.Join(s.Restart, ", "))
	}
	if len(s.Transports) == 0 {
		return nil
	}
	fmt.Fprintln(w)
	rows := [][]string{{"TRANSPORT", "KIND", "STATE", "SINCE", "LAST RX", "RX", "TX", "RECONNECTS", "ENDPOINT"}}
	for _, t := range s.Transports {
		rows = append(rows, []string{t.Name, t.Kind, stateText(t), ago(now, t.Since), ago(now, t.LastRx),
			bytesText(t.RxBytes), bytesText(t.TxBytes), strconv.FormatUint(t.Reconnects, 10), endpointText(t)})
	}
	if err := table(w, rows); err != nil {
		return err
	}
	for _, t := range s.Transports {
		if t.Error != "" {
			fmt.Fprintf(w, "%s: %s\n", t.Name, t.Error)
		}
		if t.SignIn != "" {
			because := ""
			if t.SignInWhy != "" && t.SignInWhy != t.Error {
				because = ", because " + t.SignInWhy
			}
			fmt.Fprintf(w, "  sign in: %s (penstock login %s)%s\n", t.SignIn, t.Name, because)
		}
		for _, warning := range t.Warnings {
			fmt.Fprintf(w, "%s: warning: %s\n", t.Name, warning)
		}
	}
	return nil
}

// stateText is a transport's state with its qualifier and reason.
func stateText(t control.TransportStatus) string {
	text := t.State
	if t.Active != "" {
		text += " via " + t.Active
	}
	if t.Degraded {
		text += ", degraded"
	}
	if t.Reason != "" {
		text += " (" + t.Reason + ")"
	}
	return text
}

// watchStatus prints a line for each change of state, with how long the one before lasted, and for each change of a transport, until
// ctx ends.
func watchStatus(ctx context.Context, e *env, asJSON bool) error {
	var last string
	var since time.Time
	transports := make(map[string]string)
	return every(ctx, watchPeriod, func() error {
		s, err := askStatus(ctx, e)
		if err != nil {
			return err
		}
		now, first := time.Now(), last == ""
		state := strings.Join([]string{s.State, strconv.FormatBool(s.Degraded), s.Reason, s.PausedUntil.String(), s.ReloadError}, "\x00")
		var lines []string
		if state != last {
			line := s.Verdict
			if !first {
				line += ", after " + age(now.Sub(since))
			}
			lines, last, since = append(lines, line), state, now
		}
		for _, t := range s.Transports {
			text := stateText(t)
			if was, known := transports[t.Name]; was != text && (known || !first) {
				lines = append(lines, t.Name+": "+text)
			}
			transports[t.Name] = text
		}
		switch {
		case len(lines) == 0:
			return nil
		case asJSON:
			return printJSON(e.stdout, s)
		}
		for _, line := range lines {
			if _, err = fmt.Fprintln(e.stdout, now.Format(time.TimeOnly), printable(line)); err != nil {
				return err
			}
		}
		return nil
	})
}

// every calls f at once and then each period, until ctx ends, which is no error, or f fails.
func every(ctx context.Context, period time.Duration, f func() error) error {
	tick := time.NewTicker(period)
	defer tick.Stop()
	for {
		err := f()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// endpointText is the endpoint in use, and how many more are known.
func endpointText(t control.TransportStatus) string {
	if t.Others == 0 {
		return t.Endpoint
	}
	return fmt.Sprintf("%s and %d more", t.Endpoint, t.Others)
}
