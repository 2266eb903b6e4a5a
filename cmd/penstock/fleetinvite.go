package main

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"penstock/cmd/internal/config"
	"penstock/cmd/internal/control"
	"penstock/cmd/internal/enrol"
	"penstock/cmd/internal/fleet/bundle"
	"penstock/cmd/internal/peerbook"
	"penstock/cmd/internal/private"
	"penstock/router/transport/wireguard"
)

func newFleetInviteCommand(e *env) *cobra.Command {
	var p fleetPeer
	var open string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "invite NAME DIR --key FILE",
		Short: "Make a link with which somebody becomes a peer of all gateways of a site",
		Long: `Make an invitation to a site and print its link, and on stderr a QR code of it. Send it to one person, by a
way that nobody else reads: whoever opens it first becomes the peer. They run

  penstock join LINK

or open it in a browser, and reach any gateway of the site. The private key is made there. The address is
chosen now, as fleet peer add does.

The link works once, and for --for. Nobody keeps a copy of it: the gateways and the store have the public
key that its token stands for, signed with your key. With --expires the access that it gives ends at a
time; a duration counts from now.

The site's folder DIR needs listen.enrol. Before the next bundle, penstock fleet peer collect takes whoever
has joined into it.`,
		Args: takes(2, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			return e.changeFleet(cmd.Context(), p, args[1], func(s *siteChange) error { return s.invite(args[0], open, asJSON) })
		},
	}
	p.changeFlags(cmd)
	p.termsFlags(cmd)
	openFlag(cmd, &open)
	jsonFlag(cmd, &asJSON)
	return cmd
}

func newFleetUninviteCommand(e *env) *cobra.Command {
	var p fleetPeer
	cmd := &cobra.Command{
		Use:   "uninvite NAME DIR --key FILE",
		Short: "Take back an invitation to a site that nobody has used yet",
		Args:  takes(2, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			return e.changeFleet(cmd.Context(), p, args[1], func(s *siteChange) error { return s.uninvite(args[0]) })
		},
	}
	p.changeFlags(cmd)
	return cmd
}

func newFleetInvitesCommand(e *env) *cobra.Command {
	var p fleetPeer
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "invites DIR",
		Short: "List the invitations to a site, without their links",
		Long: `List the invitations to a site that are in its folder DIR, or that other operators have published since the
bundle in force: open, used, or late. After penstock fleet peer collect, who has joined is a peer like all
others, and no longer in this list.`,
		Args: takes(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return e.lookAtFleet(cmd.Context(), p, bundle.PrivateKey{}, args[0], func(s *siteChange) error {
				return printRows(e.stdout, asJSON, s.invitations(time.Now()), fleetInvitationRows)
			})
		},
	}
	p.flags(cmd)
	jsonFlag(cmd, &asJSON)
	return cmd
}

func newFleetCollectCommand(e *env) *cobra.Command {
	var p fleetPeer
	cmd := &cobra.Command{
		Use:   "collect DIR",
		Short: "Take the peers that have joined a site, or that other operators have added, into its folder",
		Long: `Write the keys of those who have joined by invitation into the site's folder DIR, from which the next bundle
is made, and the peers that other operators have added or invited since the bundle in force. Only what an
operator, or the token of an invitation, has signed is taken from the store.

A peer that has joined stays one with the next bundle also without this, as long as its invitation is in
the folder.`,
		Args: takes(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return e.lookAtFleet(cmd.Context(), p, bundle.PrivateKey{}, args[0], (*siteChange).collect)
		},
	}
	p.flags(cmd)
	return cmd
}

// invite makes an invitation.
func (s *siteChange) invite(name, open string, asJSON bool) error {
	terms, err := s.terms(name)
	if err != nil {
		return err
	}
	until, err := parseOpen(open, time.Now())
	if err != nil {
		return err
	}
	if !terms.Expires.IsZero() && terms.Expires.Before(until) {
		until = terms.Expires
	}
	listen := s.config.Listen.Enrol
	if listen == nil {
		return fmt.Errorf("%s does not say where people join: make a key with penstock fleet keygen enrolment %s, add\n"+
			"listen: {enrol: {url: \"https://HOST:8443\", private_key: {file: secrets/enrol.key}}}, sign and publish that, and restart the gateways",
			s.dir, filepath.Join(s.dir, "secrets", "enrol.key"))
	}
	link := enrol.Link{Base: listen.URL, Token: enrol.NewToken()}
	if link.Pin, err = enrol.SitePin(listen); err != nil {
		return fmt.Errorf("listen.enrol: %w", err)
	}
	peer, _, err := s.plan(terms)
	if err != nil {
		return err
	}
	peer.Invite = &config.Invite{
		Key: bundle.InvitationKey(link.Token).Public().String(), Until: until.UTC().Truncate(time.Second), Endpoint: terms.Endpoint, AllowedIPs: terms.AllowedIPs,
	}
	return s.introduce(peer, func() error {
		return s.e.showInvited(control.Invited{Name: name, Link: link.Reveal(), Until: peer.Invite.Until, Pinned: !link.Pin.IsZero()}, asJSON)
	})
}

// invitedPeer is a peer with an invitation, and whose key it has if somebody has joined.
type invitedPeer struct {
	config.Peer
	invitation bundle.PublicKey
	key        string // of WireGuard; "": nobody has joined, as far as the store says
	published  bool   // it is not in the folder: another operator has made it
}

// withInvitation returns a peer with what the store says of its invitation, if it has one.
func (s *siteChange) withInvitation(p config.Peer) (invitedPeer, bool) {
	if !p.IsInvited() {
		return invitedPeer{}, false
	}
	invitation, err := bundle.ParsePublicKey(p.Invite.Key)
	if err != nil {
		return invitedPeer{}, false
	}
	found := invitedPeer{Peer: p, invitation: invitation}
	if joined, err := bundle.VerifyJoin(s.joins[invitation], s.config.Site.Name, invitation); err == nil {
		if key, err := wireguard.ParsePublicKey(joined.PublicKey); err == nil && key.Check() == nil {
			found.key = joined.PublicKey
		}
	}
	return found, true
}

// others returns the peers that other operators have added since the bundle in force.
func (s *siteChange) others() (list []config.Peer) {
	for _, name := range slices.Sorted(maps.Keys(s.entries)) {
		if c := s.entries[name]; !c.Removed && !s.inFolder(name) {
			if p, err := config.ChangedPeer(c); err == nil { // look has read it before
				list = append(list, p)
			}
		}
	}
	return list
}

// allInvited returns the peers with invitations.
func (s *siteChange) allInvited() (list []invitedPeer) {
	for _, p := range s.config.Peers.All() {
		if c := s.entries[p.Name]; c != nil && c.Removed {
			continue
		}
		if found, ok := s.withInvitation(p); ok {
			list = append(list, found)
		}
	}
	for _, p := range s.others() {
		if found, ok := s.withInvitation(p); ok {
			found.published = true
			list = append(list, found)
		}
	}
	slices.SortStableFunc(list, func(a, b invitedPeer) int { return cmp.Compare(a.Name, b.Name) })
	return list
}

// invited returns the peer of a name, if it has an invitation.
func (s *siteChange) invited(name string) (invitedPeer, bool) {
	for _, p := range s.allInvited() {
		if p.Name == name {
			return p, true
		}
	}
	return invitedPeer{}, false
}

// uninvite takes back an invitation.
func (s *siteChange) uninvite(name string) error {
	p, ok := s.invited(name)
	switch {
	case !ok:
		return fmt.Errorf("there is no invitation for %s: see penstock fleet peer invites", name)
	case p.key != "":
		return fmt.Errorf("the invitation for %s is used: end the access with: penstock fleet peer rm %[1]s %s", name, s.dir)
	}
	return s.remove(name, "the invitation for "+name+" is taken back")
}

// invitations returns the invitations, for people.
func (s *siteChange) invitations(now time.Time) control.Invitations {
	list := []control.Invitation{}
	for _, p := range s.allInvited() {
		state := "open"
		switch {
		case p.key != "":
			state = "used"
		case !now.Before(p.Invite.Until):
			state = "late"
		}
		list = append(list, control.Invitation{Name: p.Name, Groups: p.Groups, State: state, Until: p.Invite.Until, Expires: p.Expires})
	}
	return control.Invitations{Invitations: list}
}

func fleetInvitationRows(answer control.Invitations) [][]string {
	rows := [][]string{{"INVITED", "GROUPS", "STATE", "UNTIL", "EXPIRES"}}
	for _, v := range answer.Invitations {
		rows = append(rows, []string{v.Name, strings.Join(v.Groups, " "), v.State, moment(v.Until), moment(v.Expires)})
	}
	return rows
}

// collect writes who has joined, and whom other operators have added, into the site's folder.
func (s *siteChange) collect() error {
	var errs []error
	none := true
	for _, p := range s.config.Peers.All() {
		joined, ok := s.withInvitation(p)
		if c := s.entries[p.Name]; !ok || joined.key == "" || c != nil && c.Removed {
			continue
		}
		none = false
		if err := s.settle(joined); err != nil {
			errs = append(errs, err)
			continue
		}
		fmt.Fprintf(s.e.stderr, "peer %s has joined, and its key is written to %s\n", p.Name, s.file(p.Name))
	}
	for _, p := range s.others() {
		none = false
		if joined, ok := s.withInvitation(p); ok && joined.key != "" {
			p.PublicKey, p.Invite = joined.key, nil
		}
		if err := s.keep(p.Name, peerbook.YAML(p)); err != nil {
			errs = append(errs, err)
			continue
		}
		fmt.Fprintf(s.e.stderr, "peer %s of another operator is written to %s\n", p.Name, s.file(p.Name))
	}
	if none {
		fmt.Fprintf(s.e.stderr, "%s has all peers that the store knows of\n", s.dir)
	}
	return errors.Join(errs...)
}

// settle writes the key of a peer that has joined into its file, in the place of the invitation.
func (s *siteChange) settle(p invitedPeer) error {
	text, err := os.ReadFile(s.file(p.Name))
	if err != nil || !peerbook.IsWritten(string(text), p.Peer) {
		return fmt.Errorf("%s: peer %s is not as penstock has written it: write public_key: %s there, in the place of invite", p.Pos, p.Name, p.key)
	}
	next := p.Peer
	next.PublicKey, next.Invite = p.key, nil
	if err := private.Replace(s.file(p.Name), peerbook.YAML(next)); err != nil {
		return err
	}
	if _, err := config.LoadBundle(s.dir); err != nil {
		return errors.Join(fmt.Errorf("peer %s has joined, and does not fit: %w", p.Name, err), private.Replace(s.file(p.Name), string(text)))
	}
	return nil
}

// keep writes the file of a peer that the folder does not have.
func (s *siteChange) keep(name, text string) error {
	if err := os.MkdirAll(filepath.Dir(s.file(name)), 0o700); err != nil {
		return err
	}
	if err := private.WriteNew(s.file(name), text); err != nil {
		return err
	}
	if _, err := config.LoadBundle(s.dir); err != nil {
		return errors.Join(fmt.Errorf("peer %s of another operator does not fit: %w", name, err), os.Remove(s.file(name)))
	}
	return nil
}
