package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"penstock/cmd/internal/config"
	"penstock/cmd/internal/fleet"
	"penstock/cmd/internal/fleet/bundle"
	"penstock/cmd/internal/fleet/store"
	"penstock/cmd/internal/peerbook"
	"penstock/cmd/internal/private"
	"penstock/router/transport/wireguard"
)

const (
	// addressLease is how long an address is held for a peer until its change is published.
	addressLease = 10 * time.Minute
	addressTries = 100 // addresses that others hold
)

// fleetPeer are the flags of fleet peer.
type fleetPeer struct {
	newPeer
	place
	key string
}

func newFleetPeerCommand(e *env) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "peer",
		Short: "Add peers to all gateways of a site, invite people, or remove them",
		Args:  cobra.ArbitraryArgs,
		RunE:  needsCommand,
	}
	var p fleetPeer
	add := &cobra.Command{
		Use:   "add NAME DIR --key FILE",
		Short: "Make a peer on all gateways of a site, and print its WireGuard configuration",
		Long: `Make a key pair for a new peer, choose an address that no peer of the site has, write the peer into the
site's folder DIR, from which the next bundle is made, and publish it as a signed change of the bundle in
force. All gateways of the site know it within a moment. Two operators can do that at once: an address
goes to one of them.`,
		Args: takes(2, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			return e.changeFleet(cmd.Context(), p, args[1], func(s *siteChange) error { return s.add(args[0]) })
		},
	}
	p.changeFlags(add)
	p.termsFlags(add)
	add.Flags().StringVarP(&p.out, "out", "o", "", "write the peer's configuration to this `FILE`, which only you can read")
	add.Flags().BoolVar(&p.qr, "qr", false, "print a QR code instead of the configuration")
	rm := &cobra.Command{
		Use:   "rm NAME DIR --key FILE",
		Short: "Remove a peer from all gateways of a site",
		Long: `Publish the removal of a peer as a signed change of the bundle in force, and remove its file from the site's
folder DIR, from which the next bundle is made. Its sessions and flows end on all gateways.`,
		Args: takes(2, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			return e.changeFleet(cmd.Context(), p, args[1], func(s *siteChange) error { return s.remove(args[0], "peer "+args[0]+" is removed") })
		},
	}
	p.changeFlags(rm)
	cmd.AddCommand(add, rm, newFleetInviteCommand(e), newFleetUninviteCommand(e), newFleetInvitesCommand(e), newFleetCollectCommand(e))
	return cmd
}

// changeFlags adds the flags of a change.
func (p *fleetPeer) changeFlags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&p.key, "key", "", "your private key, in a `FILE` from penstock fleet keygen operator")
	p.flags(cmd)
}

// siteChange is a change of a site's peers.
type siteChange struct {
	fleetPeer
	e       *env
	ctx     context.Context
	dir     string
	config  *config.Config    // of the site's folder
	key     bundle.PrivateKey // zero: nothing is signed
	store   store.Store
	current *bundle.Manifest          // in force
	holder  string                    // of leases
	changes map[string]bundle.Signed  // by key in the store
	version map[string]uint64         // of the same
	entries map[string]*bundle.Change // the same, by peer
	joins   map[bundle.PublicKey]bundle.Signed
	taken   []peerbook.FormerAddress // by changes, and by leases of others
}

// changeFleet loads the site's folder, looks at what is in force, and makes a change.
func (e *env) changeFleet(ctx context.Context, p fleetPeer, dir string, change func(*siteChange) error) error {
	if p.key == "" {
		return usagef("which key signs it? name your file from penstock fleet keygen operator with --key FILE")
	}
	key, err := readOperatorKey(p.key)
	if err != nil {
		return err
	}
	return e.lookAtFleet(ctx, p, key, dir, change)
}

// lookAtFleet is changeFleet with a key, or without one for a look alone.
func (e *env) lookAtFleet(ctx context.Context, p fleetPeer, key bundle.PrivateKey, dir string, look func(*siteChange) error) error {
	at, err := p.place.store()
	if err != nil {
		return err
	}
	c, err := config.LoadBundle(dir)
	if err != nil {
		return err
	}
	opened, closing, err := fleet.OpenStore(ctx, at, slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	defer closing()
	s := &siteChange{
		fleetPeer: p, e: e, ctx: ctx, dir: dir, config: c, key: key, store: opened, holder: rand.Text(),
		changes: make(map[string]bundle.Signed), version: make(map[string]uint64), entries: make(map[string]*bundle.Change), joins: make(map[bundle.PublicKey]bundle.Signed),
	}
	if err := s.look(); err != nil {
		return err
	}
	return look(s)
}

// readOperatorKey reads a private key of an operator.
func readOperatorKey(path string) (bundle.PrivateKey, error) {
	text, err := private.Read(path, mostKeyFile)
	if err != nil {
		return bundle.PrivateKey{}, err
	}
	key, err := bundle.ParsePrivateKey(string(text))
	if err != nil {
		return key, fmt.Errorf("%s: %w", path, err)
	}
	return key, nil
}

// look reads the bundle in force and the changes that follow it.
func (s *siteChange) look() error {
	site := s.config.Site.Name
	entry, err := ask(s.ctx, func(ctx context.Context) (store.Entry, error) { return s.store.Get(ctx, store.Truth, site) })
	if errors.Is(err, store.ErrNone) {
		return fmt.Errorf("the store has no bundle of site %s yet: publish one first", site)
	}
	if err != nil {
		return fmt.Errorf("read what the store has of site %s: %w", site, err)
	}
	var signers []bundle.PublicKey
	for _, text := range s.config.Site.Signers {
		if key, err := bundle.ParsePublicKey(text); err == nil { // LoadBundle has checked them
			signers = append(signers, key)
		}
	}
	if s.current, err = bundle.Signed(entry.Value).Verify(signers); err != nil {
		return fmt.Errorf("the bundle in the store is not one of the signers in %s: %w", s.dir, err)
	}
	if s.key.Public() != (bundle.PublicKey{}) && !slices.Contains(s.current.Signers, s.key.Public()) {
		return fmt.Errorf("generation %d of site %s does not name your key %s among its signers, so the gateways would refuse this change", s.current.Generation, site, s.key.Public())
	}
	if err := listAll(s.ctx, s.store, store.Peers, site, func(e store.Entry) {
		s.changes[e.Key], s.version[e.Key] = e.Value, e.Version
	}); err != nil {
		return fmt.Errorf("read the changes of peers: %w", err)
	}
	if err := listAll(s.ctx, s.store, store.Joins, site, func(e store.Entry) {
		if invitation, ok := fleet.InvitationOf(site, e.Key); ok {
			s.joins[invitation] = e.Value
		}
	}); err != nil {
		return fmt.Errorf("read who has joined: %w", err)
	}
	for _, signed := range s.changes {
		c, err := bundle.VerifyChange(signed, s.current.Signers)
		if err != nil || c.Site != site || c.Generation != s.current.Generation {
			continue // the gateways ignore it as well
		}
		s.entries[c.Peer] = c
		if c.Removed {
			continue
		}
		peer, err := config.ChangedPeer(c)
		if err != nil {
			return fmt.Errorf("another operator has published peer %s, and its entry cannot be read: %w", c.Peer, err)
		}
		for _, address := range peer.AllowedIPs {
			s.taken = append(s.taken, peerbook.FormerAddress{Address: address, Peer: c.Peer})
		}
	}
	return nil
}

// listAll calls found with each value of a site that a bucket has now.
func listAll(ctx context.Context, s store.Store, b store.Bucket, site string, found func(store.Entry)) error {
	ctx, cancel := context.WithTimeout(ctx, storeTime)
	defer cancel()
	complete := false
	err := s.Watch(ctx, b, site, func(e store.Entry) {
		switch {
		case e.Key == "":
			complete = true
			cancel()
		case !complete && len(e.Value) > 0:
			found(e)
		}
	})
	if complete {
		return nil
	}
	return err
}

// file is the peer's file in the site's folder.
func (s *siteChange) file(name string) string { return filepath.Join(s.dir, "peers", name+".yaml") }

// add makes a peer.
func (s *siteChange) add(name string) error {
	terms, err := s.terms(name)
	if err != nil {
		return err
	}
	peer, file, err := s.plan(terms)
	if err != nil {
		return err
	}
	file.PrivateKey = wireguard.GeneratePrivateKey()
	peer.PublicKey = file.PrivateKey.Public().String()
	var client strings.Builder
	if _, err := file.WriteTo(&client); err != nil {
		return err
	}
	if err := s.introduce(peer, func() error { return s.deliver(s.e, client.String()) }); err != nil {
		return err
	}
	fmt.Fprintf(s.e.stderr, "peer %s is published, and written to %s for the next bundle\n", name, s.file(name))
	return nil
}

// introduce writes a new peer into the site's folder, publishes it, and gives the caller what is for the peer.
func (s *siteChange) introduce(peer config.Peer, deliver func() error) error {
	if err := os.MkdirAll(filepath.Dir(s.file(peer.Name)), 0o700); err != nil {
		return err
	}
	if err := private.WriteNew(s.file(peer.Name), peerbook.YAML(peer)); err != nil {
		return err
	}
	_, err := config.LoadBundle(s.dir)
	if err == nil {
		err = s.publish(bundle.Change{Peer: peer.Name, Entry: peerbook.YAML(peer)})
	}
	if err == nil {
		err = deliver()
	}
	if err != nil {
		return errors.Join(err, os.Remove(s.file(peer.Name)))
	}
	return nil
}

// plan chooses the addresses of a new peer, and leases them.
func (s *siteChange) plan(terms peerbook.Terms) (config.Peer, *wireguard.Config, error) {
	if c := s.entries[terms.Name]; c != nil && !c.Removed && !s.inFolder(terms.Name) {
		return config.Peer{}, nil, fmt.Errorf("another operator has added a peer %q since generation %d: choose another name, or remove it first", terms.Name, s.current.Generation)
	}
	for range addressTries {
		peer, file, err := (*peerbook.Folder)(nil).Plan(s.config, terms, s.taken)
		if err != nil {
			return peer, file, err
		}
		held := false
		for _, address := range peer.AllowedIPs {
			key := s.config.Site.Name + ".address-" + strings.NewReplacer(".", "-", ":", "_", "/", "-").Replace(address.String())
			_, err := ask(s.ctx, func(ctx context.Context) (struct{}, error) {
				return struct{}{}, s.store.Lease(ctx, key, s.holder, addressLease)
			})
			switch {
			case errors.Is(err, store.ErrHeld):
				held = true
				s.taken = append(s.taken, peerbook.FormerAddress{Address: address, Peer: "of another operator"})
			case err != nil:
				return peer, file, fmt.Errorf("lease %s: %w", address, err)
			}
		}
		if !held {
			return peer, file, nil
		}
	}
	return config.Peer{}, nil, errors.New("other operators are adding many peers just now: try again in some minutes")
}

// inFolder reports whether the site's folder has a peer.
func (s *siteChange) inFolder(name string) bool {
	return s.config.Peers.Any(func(p config.Peer) bool { return p.Name == name })
}

// remove removes a peer, and says what was done.
func (s *siteChange) remove(name, done string) error {
	inFolder := s.inFolder(name)
	if c := s.entries[name]; !inFolder && (c == nil || c.Removed) {
		return fmt.Errorf("site %s has no peer %q", s.config.Site.Name, name)
	}
	if err := s.publish(bundle.Change{Peer: name, Removed: true}); err != nil {
		return err
	}
	if peer, ok := s.invited(name); ok { // its join is of no use to anybody now
		_, _ = ask(s.ctx, func(ctx context.Context) (uint64, error) {
			return s.store.Put(ctx, store.Joins, fleet.JoinKey(s.config.Site.Name, peer.invitation), nil, store.Any)
		})
	}
	err := os.Remove(s.file(name))
	switch {
	case err == nil:
		fmt.Fprintf(s.e.stderr, "%s, and will not be in the next bundle\n", done)
	case errors.Is(err, fs.ErrNotExist) && inFolder:
		fmt.Fprintf(s.e.stderr, "%s; it is written in another file of %s: remove it there before you sign the next bundle\n", done, s.dir)
	case errors.Is(err, fs.ErrNotExist):
		fmt.Fprintln(s.e.stderr, done)
	default:
		return err
	}
	return nil
}

// publish signs a change and puts it into the store.
func (s *siteChange) publish(c bundle.Change) error {
	c.Site, c.Generation, c.Number = s.config.Site.Name, s.current.Generation, 1
	if before := s.entries[c.Peer]; before != nil {
		c.Number = before.Number + 1
	}
	signed, err := bundle.SignChange(c, s.key)
	if err != nil {
		return err
	}
	key := fleet.PeerKey(c.Site, c.Peer)
	_, err = ask(s.ctx, func(ctx context.Context) (uint64, error) {
		return s.store.Put(ctx, store.Peers, key, signed, s.version[key])
	})
	switch {
	case errors.Is(err, store.ErrConflict):
		return fmt.Errorf("another operator has changed peer %s meanwhile: look again, and repeat the command if it is still needed: %w", c.Peer, err)
	case errors.Is(err, store.ErrForbidden):
		return fmt.Errorf("these credentials may not change peers: use an operator's: %w", err)
	case err != nil:
		return fmt.Errorf("publish the change: %w", err)
	}
	return nil
}
