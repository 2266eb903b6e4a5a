package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"penstock/cmd/internal/config"
	"penstock/cmd/internal/fleet"
	"penstock/cmd/internal/fleet/bundle"
	"penstock/cmd/internal/fleet/store"
)

// storeTime is how long a store may take for a small answer.
const storeTime = 30 * time.Second

// place is where a fleet's store is, as flags say it.
type place struct {
	config, dir     string
	nats            []string
	creds, nkey, ca string
	replicas        int
}

func newFleetPublishCommand(e *env) *cobra.Command {
	var p place
	cmd := &cobra.Command{
		Use:   "publish FILE",
		Short: "Put a signed bundle into the store that the gateways take it from",
		Long: `Put a signed bundle into the store: a folder, NATS, or the store that the fleet section of a
configuration names. The gateways take it from there, test it, and put it in force.

A bundle is refused if the store has one of the same site that is as new or newer. The same bundle
may be published again, which mends a store that has lost some of its files.`,
		Args: takes(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			at, err := p.store()
			if err != nil {
				return err
			}
			a, err := bundle.OpenArchive(args[0])
			if err != nil {
				return err
			}
			defer a.Close()
			return e.intoStore(cmd.Context(), at, func(s store.Store) (string, error) {
				return e.publish(cmd.Context(), s, a.Signed(), a.Fetch)
			})
		},
	}
	p.flags(cmd)
	return cmd
}

// flags adds the flags that say it.
func (p *place) flags(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVarP(&p.config, "config", "c", "", "without --dir and --nats, the store of the fleet section in this configuration `FILE` (default $PENSTOCK_CONFIG)")
	flags.StringVar(&p.dir, "dir", "", "the store in this `FOLDER`")
	flags.StringSliceVar(&p.nats, "nats", nil, "the store in NATS, at these `URLS`")
	flags.StringVar(&p.creds, "creds", "", "credentials for NATS, in a .creds `FILE`")
	flags.StringVar(&p.nkey, "nkey", "", "the NKey seed for NATS, in a `FILE`")
	flags.StringVar(&p.ca, "ca", "", "certificates that those of NATS must lead to, in a `FILE`")
	flags.IntVar(&p.replicas, "replicas", 3, "keep what is new in NATS on this `NUMBER` of its servers")
}

// store says where the store is.
func (p place) store() (config.FleetStore, error) {
	var at config.FleetStore
	switch {
	case len(p.nats) > 0 && p.dir != "":
		return at, usagef("the store is in a folder or in NATS: keep --dir or --nats")
	case p.creds != "" && p.nkey != "":
		return at, usagef("NATS takes one of --creds and --nkey")
	case p.replicas < 1 || p.replicas > 5:
		return at, usagef("--replicas is %d: write 1, 3 or 5", p.replicas)
	case len(p.nats) == 0 && (p.creds != "" || p.nkey != "" || p.ca != ""):
		return at, usagef("--creds, --nkey and --ca are for NATS: name its servers with --nats URL")
	case len(p.nats) > 0:
		at.NATS = &config.NATS{Servers: p.nats, Credentials: config.Secret{File: p.creds}, NKey: config.Secret{File: p.nkey}, CA: p.ca, Replicas: p.replicas}
	case p.dir != "":
		at.Dir = p.dir
	case p.config != "":
		f, err := loadFleet(p.config)
		if err != nil {
			return at, err
		}
		at = f.Store
	default:
		return at, usagef("where is the store? name it with -c FILE, --dir FOLDER or --nats URL")
	}
	return at, nil
}

// loadFleet loads the fleet section of a gateway's file.
func loadFleet(path string) (*config.Fleet, error) {
	c, err := config.LoadFleet(path)
	if err != nil {
		return nil, err
	}
	if c.Fleet == nil {
		return nil, fmt.Errorf("%s has no fleet section, so that it names no store", path)
	}
	return c.Fleet, nil
}

func newFleetSeedCommand(e *env) *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "seed -c FILE",
		Short: "Fill an empty store with the bundle that this gateway has in force",
		Long: `Put the bundle that this gateway has in force into its store, for a store that has lost its contents.
It is refused if the store has another bundle that is as new or newer.

Where only operators may write bundles, as it is to be in NATS, run this with a configuration whose
fleet section has an operator's credentials.`,
		Args: takes(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if file == "" {
				return usagef("which configuration? name it with -c FILE, or in PENSTOCK_CONFIG")
			}
			f, err := loadFleet(file)
			if err != nil {
				return err
			}
			return e.intoStore(cmd.Context(), f.Store, func(s store.Store) (string, error) {
				return e.seed(cmd.Context(), s, f)
			})
		},
	}
	fileFlag(cmd, &file)
	return cmd
}

// intoStore opens a store for publishing, and prints what was done.
func (e *env) intoStore(ctx context.Context, at config.FleetStore, publishing func(store.Store) (string, error)) error {
	s, closing, err := fleet.OpenStore(ctx, at, slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	defer closing()
	done, err := publishing(s)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(e.stdout, done)
	return err
}

// seed publishes what a gateway has in force: its bundle, the changes of peers since, and who has joined.
func (e *env) seed(ctx context.Context, s store.Store, f *config.Fleet) (string, error) {
	disk := bundle.Disk{Dir: f.Folder}
	a, err := disk.Current()
	if errors.Is(err, store.ErrNone) {
		return "", fmt.Errorf("this gateway has no bundle in %s yet: publish one with penstock fleet publish", disk.Dir)
	}
	if err != nil {
		return "", err
	}
	if a.Damaged != nil {
		fmt.Fprintf(e.stderr, "warning: generation %d is published, because a newer one cannot be read: %s\n", a.Manifest.Generation, printable(a.Damaged.Error()))
	}
	done, err := e.publish(ctx, s, a.Signed, a.Fetch)
	if err != nil {
		return "", err
	}
	changed := fleet.Changed(f.ChangesOf(a.Manifest.Generation))
	for peer, signed := range changed {
		put := func(ctx context.Context) (uint64, error) {
			return s.Put(ctx, store.Peers, fleet.PeerKey(a.Manifest.Site, peer), signed, 0)
		}
		if _, err := ask(ctx, put); err != nil && !errors.Is(err, store.ErrConflict) { // what the store has is as new
			return "", fmt.Errorf("publish the change of peer %s: %w", peer, err)
		}
	}
	if len(changed) > 0 {
		done += fmt.Sprintf(" Peers that were changed since: %d.", len(changed))
	}
	joins := fleet.Joins(f.Joins())
	for invitation, signed := range joins {
		if err := seedJoin(ctx, s, a.Manifest.Site, invitation, signed); err != nil {
			return "", err
		}
	}
	if len(joins) > 0 {
		done += fmt.Sprintf(" Peers that have joined by invitation: %d.", len(joins))
	}
	return done, nil
}

// seedJoin publishes who has joined, unless the store has another join to the invitation.
func seedJoin(ctx context.Context, s store.Store, site string, invitation bundle.PublicKey, signed bundle.Signed) error {
	key := fleet.JoinKey(site, invitation)
	put := func(after uint64) error {
		_, err := ask(ctx, func(ctx context.Context) (uint64, error) { return s.Put(ctx, store.Joins, key, signed, after) })
		return err
	}
	err := put(0)
	if errors.Is(err, store.ErrConflict) {
		var there store.Entry
		if there, err = ask(ctx, func(ctx context.Context) (store.Entry, error) { return s.Get(ctx, store.Joins, key) }); err == nil {
			if _, bad := bundle.VerifyJoin(there.Value, site, invitation); bad != nil {
				err = put(there.Version)
			}
		}
	}
	if err != nil && !errors.Is(err, store.ErrConflict) {
		return fmt.Errorf("publish who has joined: %w", err)
	}
	return nil
}

// publish puts a bundle into a store and says so: first the files, and then the manifest, so that whoever sees it finds the files.
func (e *env) publish(ctx context.Context, s store.Store, signed bundle.Signed, fetch bundle.Fetch) (string, error) {
	m, keys, err := described(signed)
	if err != nil {
		return "", err
	}
	there, err := ask(ctx, func(ctx context.Context) (store.Entry, error) { return s.Get(ctx, store.Truth, m.Site) })
	if err != nil && !errors.Is(err, store.ErrNone) {
		return "", fmt.Errorf("read what the store has of site %s: %w", m.Site, err)
	}
	same := err == nil && bytes.Equal(there.Value, signed)
	if err == nil && !same {
		if err := e.follows(m, keys, there.Value); err != nil {
			return "", err
		}
	}
	for _, f := range m.Files {
		if err := publishFile(ctx, s, f, fetch); err != nil {
			return "", fmt.Errorf("publish %s: %w", f.Name, err)
		}
	}
	if err := prepare(ctx, s, m.Site); err != nil {
		return "", err
	}
	if same {
		return fmt.Sprintf("The store has generation %d of site %s already, and all of its files.", m.Generation, m.Site), nil
	}
	put := func(ctx context.Context) (uint64, error) {
		return s.Put(ctx, store.Truth, m.Site, signed, there.Version)
	}
	switch _, err := ask(ctx, put); {
	case errors.Is(err, store.ErrConflict):
		return "", fmt.Errorf("somebody else has published a bundle of site %s meanwhile, so this one was not: sign it again as the one after theirs: %w", m.Site, err)
	case errors.Is(err, store.ErrForbidden):
		return "", fmt.Errorf("these credentials may not publish bundles: use an operator's: %w", err)
	case err != nil:
		return "", fmt.Errorf("publish the manifest: %w", err)
	}
	e.outdated(ctx, s, m)
	return fmt.Sprintf("Generation %d of site %s is published: %s.", m.Generation, m.Site, counted(m.Files)), nil
}

// prepare makes the buckets of a store that gateways write and may not make.
func prepare(ctx context.Context, s store.Store, site string) error {
	for _, b := range []store.Bucket{store.Peers, store.Joins, store.State, store.Sessions, store.Leases} {
		for _, value := range [][]byte{[]byte("{}"), nil} {
			if _, err := ask(ctx, func(ctx context.Context) (uint64, error) { return s.Put(ctx, b, site+".--", value, store.Any) }); err != nil {
				if errors.Is(err, store.ErrForbidden) {
					return fmt.Errorf("these credentials may not publish bundles: use an operator's: %w", err)
				}
				return fmt.Errorf("prepare the bucket %s for the gateways: %w", b, err)
			}
		}
	}
	return nil
}

// outdated warns of peers that were changed since the bundle before: the new one must have these changes.
func (e *env) outdated(ctx context.Context, s store.Store, m *bundle.Manifest) {
	var changed []string
	err := listAll(ctx, s, store.Peers, m.Site, func(entry store.Entry) {
		if c, err := bundle.Signed(entry.Value).Change(); err == nil && c.Generation+1 == m.Generation {
			changed = append(changed, printable(c.Peer))
		}
	})
	if err != nil || len(changed) == 0 {
		return
	}
	slices.Sort(changed)
	fmt.Fprintf(e.stderr, "Since generation %d these peers were added or removed; they are in force as this bundle has them: %s\n", m.Generation-1, strings.Join(changed, ", "))
}

// ask bounds how long a store may take for a small answer.
func ask[T any](ctx context.Context, question func(context.Context) (T, error)) (T, error) {
	ctx, cancel := context.WithTimeout(ctx, storeTime)
	defer cancel()
	return question(ctx)
}

// follows returns an error if a bundle is not newer than what a store has. It warns if none of those whom that names has signed it.
func (e *env) follows(m *bundle.Manifest, keys []bundle.PublicKey, there bundle.Signed) error {
	before, by, err := described(there)
	if err != nil {
		fmt.Fprintln(e.stderr, "warning: what the store has of the site is no bundle, and is replaced:", printable(err.Error()))
		return nil
	}
	if m.Generation <= before.Generation {
		return fmt.Errorf("the store has generation %d of site %s, made %s and signed by %s, and this is generation %d: sign it again as the one after that: %w",
			before.Generation, before.Site, before.Made.Local().Format(time.DateTime), keysText(by), m.Generation, bundle.ErrOld)
	}
	if !slices.ContainsFunc(keys, func(k bundle.PublicKey) bool { return slices.Contains(before.Signers, k) }) {
		fmt.Fprintf(e.stderr, "warning: the bundle is signed by %s, and generation %d in the store names %s: gateways that have that one refuse this one\n",
			keysText(keys), before.Generation, keysText(before.Signers))
	}
	return nil
}

// publishFile puts the bytes of a file into a store.
func publishFile(ctx context.Context, s store.Store, f bundle.File, fetch bundle.Fetch) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	r, w := io.Pipe()
	fetched := make(chan error, 1)
	go func() {
		err := fetch(ctx, f, w)
		w.CloseWithError(err)
		fetched <- err
	}()
	digest, err := s.PublishBlob(ctx, r)
	r.Close()
	cancel()
	switch wrong := <-fetched; {
	case err != nil && wrong != nil && !errors.Is(wrong, io.ErrClosedPipe) && !errors.Is(wrong, context.Canceled):
		return wrong
	case err != nil:
		return err
	case digest != f.Digest:
		return fmt.Errorf("the store says that it has another digest: %s, not %s", digest, f.Digest)
	}
	return nil
}
