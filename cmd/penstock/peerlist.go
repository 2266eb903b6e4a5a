package main

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"penstock/cmd/internal/config"
	"penstock/cmd/internal/control"
)

func newPeerListCommand(e *env) *cobra.Command {
	var file string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the peers of a gateway",
		Long: `List the peers of the running gateway with their sessions. With -c FILE it also lists those of a
gateway that does not run.`,
		Args: takes(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			answer, err := askPeers(cmd.Context(), e, file)
			if err != nil {
				return err
			}
			return printRows(e.stdout, asJSON, answer, peerRows)
		},
	}
	gatewayFlag(cmd, &file)
	jsonFlag(cmd, &asJSON)
	return cmd
}

func newPeerShowCommand(e *env) *cobra.Command {
	var file string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "show NAME",
		Short: "Show everything about one peer",
		Args:  takes(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			answer, err := askPeers(cmd.Context(), e, file)
			if err != nil {
				return err
			}
			i := slices.IndexFunc(answer.Peers, func(p control.PeerStatus) bool { return p.Name == args[0] })
			if i < 0 {
				return fmt.Errorf("there is no peer %q", args[0])
			}
			answer.Peers = answer.Peers[i : i+1]
			return printRows(e.stdout, asJSON, answer, peerFacts)
		},
	}
	gatewayFlag(cmd, &file)
	jsonFlag(cmd, &asJSON)
	return cmd
}

// askPeers asks the running gateway for its peers. If file names a configuration that no penstock runs, they come from there.
func askPeers(ctx context.Context, e *env, file string) (control.Peers, error) {
	client, err := e.dial(ctx)
	if err == nil {
		defer client.Close()
		if file == "" {
			return client.Peers(ctx)
		}
		if s, failed := client.Status(ctx); failed == nil && sameFile(s.Config, file) {
			return client.Peers(ctx)
		}
	}
	if file == "" {
		return control.Peers{}, fmt.Errorf("%w; or name a configuration with -c FILE", err)
	}
	c, err := config.LoadServing(file, nil)
	if err != nil {
		return control.Peers{}, err
	}
	for _, bad := range c.Bad {
		fmt.Fprintf(e.stderr, "warning: %s: %s\n", bad.File, bad)
	}
	answer := control.Peers{APIVersion: control.APIVersion, Peers: []control.PeerStatus{}}
	for _, p := range c.Peers.All() {
		s := control.PeerStatus{Name: p.Name, Groups: p.Groups, State: p.State(time.Now()), PublicKey: p.PublicKey, Position: p.Pos.String(), Disabled: p.Disabled, Expires: p.Expires}
		l := config.LimitsOf(c, p)
		if l.Rate != (config.Rates{}) {
			s.Rate = &control.PeerRate{Up: int64(l.Rate.Up), Down: int64(l.Rate.Down)}
		}
		if l.Quota != nil {
			s.Quota = &control.PeerQuota{LimitBytes: uint64(l.Quota.Monthly), Over: l.Quota.Over.String()}
		}
		for _, a := range p.AllowedIPs {
			s.Addresses = append(s.Addresses, a.String())
		}
		answer.Peers = append(answer.Peers, s)
	}
	return answer, nil
}

func sameFile(a, b string) bool {
	b, err := filepath.Abs(b)
	return err == nil && a == b
}

func peerRows(answer control.Peers) [][]string {
	rows := [][]string{{"PEER", "ADDRESSES", "GROUPS", "STATE", "USER", "EXPIRES", "ENDPOINT", "HANDSHAKE", "RX", "TX", "RATE", "QUOTA"}}
	for _, p := range answer.Peers {
		rows = append(rows, []string{p.Name, strings.Join(p.Addresses, " "), strings.Join(p.Groups, " "), p.State, p.User, moment(p.Expires),
			p.Endpoint, ago(time.Now(), p.LastHandshake), bytesText(p.RxBytes), bytesText(p.TxBytes), rateText(p.Rate), quotaText(p.Quota)})
	}
	return rows
}

// peerFacts returns a row for each fact about the first peer.
func peerFacts(answer control.Peers) [][]string {
	p := answer.Peers[0]
	rows := [][]string{
		{"peer", p.Name},
		{"state", p.State},
		{"addresses", strings.Join(p.Addresses, " ")},
		{"groups", strings.Join(p.Groups, " ")},
		{"signed in", signedIn(p)},
		{"expires", moment(p.Expires)},
		{"endpoint", p.Endpoint},
		{"handshake", ago(time.Now(), p.LastHandshake)},
		{"received", bytesText(p.RxBytes)},
		{"sent", bytesText(p.TxBytes)},
	}
	if p.Rate != nil {
		rows = append(rows, []string{"rate", rateText(p.Rate)})
	}
	if q := p.Quota; q != nil {
		rows = append(rows, []string{"quota", quotaText(q)})
		if !q.Ends.IsZero() {
			rows = append(rows, []string{"begins anew", moment(q.Ends)})
		}
	}
	if p.DroppedBytes > 0 {
		rows = append(rows, []string{"dropped", bytesText(p.DroppedBytes) + " above the rate"})
	}
	return append(rows, []string{"public key", p.PublicKey}, []string{"written at", p.Position})
}

// rateText writes the rates from and to a peer.
func rateText(r *control.PeerRate) string {
	if r == nil {
		return ""
	}
	text := func(rate int64) string {
		if rate == 0 {
			return "any"
		}
		return config.Rate(rate).String()
	}
	return text(r.Up) + " up, " + text(r.Down) + " down"
}

// quotaText writes how much of a quota is used, and what happens if it is used up.
func quotaText(q *control.PeerQuota) string {
	if q == nil {
		return ""
	}
	text := bytesText(q.UsedBytes) + " of " + bytesText(q.LimitBytes)
	switch {
	case q.Spent && q.Over == "block":
		text += ", blocked"
	case q.Spent:
		text += ", slowed down to " + q.Over
	}
	return text
}

// signedIn says who has signed in with a peer, and for how long.
func signedIn(p control.PeerStatus) string {
	if p.User == "" {
		return ""
	}
	return fmt.Sprintf("%s, since %s, until %s", p.User, moment(p.SignedIn), moment(p.SignedInUntil))
}

// moment writes a time for a table, or nothing for none.
func moment(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.Local().Format("2006-01-02 15:04")
}
