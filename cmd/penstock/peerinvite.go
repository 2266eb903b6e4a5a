package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/mdp/qrterminal/v3"
	"github.com/spf13/cobra"

	"penstock/cmd/internal/control"
	"penstock/cmd/internal/enrol"
)

func newPeerInviteCommand(e *env) *cobra.Command {
	var p newPeer
	var open string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "invite NAME",
		Short: "Make a link with which somebody becomes a peer",
		Long: `Make an invitation and print its link, and on stderr a QR code of it. Send it to one person, by a way
that nobody else reads: whoever opens it first becomes the peer. They run

  penstock join LINK

or open it in a browser. The private key is made there, and the gateway never sees it.

The link works once, and for --for. The gateway keeps no copy of it. With --expires the access that
it gives ends at a time; a duration counts from now.

The gateway needs listen.enrol in its configuration, and must be able to write its folder of peers.`,
		Args: takes(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return invite(cmd.Context(), e, p, args[0], open, asJSON)
		},
	}
	p.termsFlags(cmd)
	openFlag(cmd, &open)
	jsonFlag(cmd, &asJSON)
	return cmd
}

// openFlag adds the flag that parseOpen reads.
func openFlag(cmd *cobra.Command, open *string) {
	cmd.Flags().StringVar(open, "for", "24h", "`TIME` for which the link works, up to 30d")
}

// parseOpen returns until when the link of an invitation works.
func parseOpen(open string, now time.Time) (time.Time, error) {
	until, err := expiry(open, now)
	if err != nil || !until.After(now) || until.Sub(now) > enrol.LongestFor {
		return time.Time{}, usagef("--for is %q: write how long the link works, for example 24h or 7d, up to 30d", open)
	}
	return until, nil
}

func invite(ctx context.Context, e *env, p newPeer, name, open string, asJSON bool) error {
	terms, err := p.terms(name)
	if err != nil {
		return err
	}
	now := time.Now()
	until, err := parseOpen(open, now)
	if err != nil {
		return err
	}
	client, err := e.dial(ctx)
	if err != nil {
		return err
	}
	defer client.Close()
	made, err := client.Invite(ctx, control.InviteQuery{
		Name: terms.Name, Groups: terms.Groups, Expires: terms.Expires, Endpoint: terms.Endpoint, AllowedIPs: terms.AllowedIPs, For: until.Sub(now),
	})
	if errors.Is(err, control.ErrNotOffered) {
		return errors.New("this gateway invites nobody: add listen: {enrol: {url: \"https://HOST:8443\"}} to its configuration and restart it, or use penstock peer add, and on a gateway of a fleet penstock fleet peer invite")
	}
	if err != nil {
		return err
	}
	return e.showInvited(made, asJSON)
}

// showInvited prints the link of an invitation.
func (e *env) showInvited(made control.Invited, asJSON bool) error {
	if asJSON {
		return printJSON(e.stdout, made)
	}
	made = plain(made)
	if _, err := fmt.Fprintln(e.stdout, made.Link); err != nil {
		return err
	}
	qrterminal.GenerateHalfBlock(made.Link, qrterminal.L, e.stderr)
	fmt.Fprintf(e.stderr, "%s is invited until %s. The link works once. Send it by a way that nobody else reads. Then, on that device:\n\n  penstock join '%s'\n\n"+
		"or open it in a browser.", made.Name, made.Until.Local().Format(time.DateTime), made.Link)
	if made.Pinned {
		fmt.Fprint(e.stderr, " The gateway's certificate is its own: penstock join checks it by the link, but a browser warns of it\n"+
			"and cannot check it. Use it only on a network that you trust, or set listen.enrol.acme or listen.enrol.certificate.")
	}
	fmt.Fprintln(e.stderr)
	return nil
}

func newPeerInvitesCommand(e *env) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "invites",
		Short: "List the invitations of a gateway, without their links",
		Args:  takes(0, 0),
		RunE: e.asking(func(ctx context.Context, client *control.Client, _ []string) error {
			answer, err := client.Invitations(ctx)
			if err != nil {
				return err
			}
			return printRows(e.stdout, asJSON, answer, invitationRows)
		}),
	}
	jsonFlag(cmd, &asJSON)
	return cmd
}

func invitationRows(answer control.Invitations) [][]string {
	rows := [][]string{{"INVITED", "GROUPS", "STATE", "MADE", "UNTIL", "ENDED", "EXPIRES"}}
	for _, v := range answer.Invitations {
		rows = append(rows, []string{v.Name, strings.Join(v.Groups, " "), v.State, moment(v.Made), moment(v.Until), moment(v.Ended), moment(v.Expires)})
	}
	return rows
}

func newPeerUninviteCommand(e *env) *cobra.Command {
	return &cobra.Command{
		Use:   "uninvite NAME",
		Short: "Take back an invitation that nobody has used yet",
		Args:  takes(1, 1),
		RunE: e.asking(func(ctx context.Context, client *control.Client, args []string) error {
			if err := client.Uninvite(ctx, args[0]); err != nil {
				return err
			}
			fmt.Fprintf(e.stderr, "the invitation for %s is taken back\n", printable(args[0]))
			return nil
		}),
	}
}
