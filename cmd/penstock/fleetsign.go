package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"penstock/cmd/internal/config"
	"penstock/cmd/internal/fleet/bundle"
	"penstock/cmd/internal/fleet/store"
	"penstock/cmd/internal/private"
)

const mostKeyFile = 4096 // bytes

// signing are the flags of fleet sign.
type signing struct {
	key, out, previous string
	generation         uint64 // 0: one more than that of the previous bundle
}

func newFleetSignCommand(e *env) *cobra.Command {
	var s signing
	cmd := &cobra.Command{
		Use:   "sign DIR --key FILE -o FILE",
		Short: "Make a signed bundle of a folder",
		Long: `Make a bundle of all files below a folder, except those whose names begin with a dot, and sign it.
The folder's *.yaml files say which site it is for, who may sign the next bundle, and which gateways
there are. Files below secrets/ are sealed to the keys of these gateways; all others can be read by
whoever gets the bundle.

Each bundle has a larger generation than the one before. With --previous it is one more than that of
the previous bundle, whose signers must include your key.`,
		Args: takes(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case s.key == "":
				return usagef("which key signs it? name your file from penstock fleet keygen operator with --key FILE")
			case s.out == "":
				return usagef("where to? name the bundle's file with -o FILE")
			case cmd.Flags().Changed("generation") && s.generation == 0:
				return usagef("--generation is 0: the first bundle has 1")
			}
			return e.sign(cmd.Context(), args[0], s)
		},
	}
	cmd.Flags().StringVar(&s.key, "key", "", "your private key, in a `FILE` from penstock fleet keygen operator")
	cmd.Flags().StringVarP(&s.out, "out", "o", "", "write the bundle to this `FILE`")
	cmd.Flags().StringVar(&s.previous, "previous", "", "the bundle before this one, in a `FILE`")
	cmd.Flags().Uint64Var(&s.generation, "generation", 0, "the `NUMBER` of the bundle (default one more than the previous one's)")
	return cmd
}

// sign makes a bundle of a folder.
func (e *env) sign(ctx context.Context, dir string, s signing) error {
	if err := outside(dir, s.out); err != nil {
		return err
	}
	text, err := private.Read(s.key, mostKeyFile)
	if err != nil {
		return err
	}
	key, err := bundle.ParsePrivateKey(string(text))
	if err != nil {
		return fmt.Errorf("%s: %w", s.key, err)
	}
	m, err := siteManifest(dir)
	if err != nil {
		return err
	}
	if m.Generation, err = e.generation(s, m.Site, key.Public()); err != nil {
		return err
	}
	m.Made = time.Now()
	built, err := bundle.Build(dir, m)
	if err != nil {
		return fmt.Errorf("%s: %w", dir, err)
	}
	signed, err := bundle.Sign(built.Manifest, key)
	if err != nil {
		return err
	}
	if len(signed) > store.MaxValue {
		return fmt.Errorf("the list of the %d files has %d bytes, and a store takes %d: put the files of many peers into one", len(built.Manifest.Files), len(signed), store.MaxValue)
	}
	if err := bundle.WriteArchive(ctx, s.out, signed, built.Fetch); err != nil {
		return err
	}
	if !slices.Contains(m.Signers, key.Public()) {
		fmt.Fprintf(e.stderr, "warning: your key %s is not among site.signers: with this bundle it retires, and cannot sign the next one\n", key.Public())
	}
	_, err = fmt.Fprintf(e.stdout, "%s: site %s, generation %d, %s\n", s.out, m.Site, m.Generation, counted(built.Manifest.Files))
	return err
}

// counted says how many files there are, and how large they are.
func counted(files []bundle.File) string {
	var size int64
	sealed := 0
	for _, f := range files {
		size += f.Size
		if f.Sealed {
			sealed++
		}
	}
	return fmt.Sprintf("%d files, %d of them sealed, %s", len(files), sealed, bytesText(uint64(size)))
}

// outside refuses a bundle that would be in the next bundle.
func outside(dir, out string) error {
	root, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	path, err := filepath.Abs(out)
	if err != nil {
		return err
	}
	if below, err := filepath.Rel(root, path); err == nil && filepath.IsLocal(below) && !strings.HasPrefix(below, ".") {
		return usagef("%s is within %s, so that the next bundle would have this one in it: choose another place with -o FILE", out, dir)
	}
	return nil
}

// siteManifest reads what the files of a folder say of the site.
func siteManifest(dir string) (bundle.Manifest, error) {
	var m bundle.Manifest
	c, err := config.LoadBundle(dir)
	if err != nil {
		return m, err
	}
	m.Site = c.Site.Name
	for _, text := range c.Site.Signers {
		k, err := bundle.ParsePublicKey(text)
		if err != nil {
			return m, c.Err("site.signers", err.Error(), "")
		}
		m.Signers = append(m.Signers, k)
	}
	for _, g := range c.Site.Gateways {
		m.Gateways = append(m.Gateways, bundle.Gateway{Name: g.Name, Recipient: g.Key})
	}
	return m, nil
}

// generation chooses the generation of a bundle, and refuses to follow one that a key may not follow.
func (e *env) generation(s signing, site string, key bundle.PublicKey) (uint64, error) {
	if s.previous == "" {
		if s.generation == 0 {
			fmt.Fprintln(e.stderr, "This is generation 1, the first bundle of the site. If there is one already, name it with --previous FILE.")
			return 1, nil
		}
		return s.generation, nil
	}
	m, err := readBundle(s.previous)
	if err != nil {
		return 0, err
	}
	switch {
	case m.Site != site:
		return 0, fmt.Errorf("%s is of site %s, and this folder is of site %s", s.previous, m.Site, site)
	case !slices.Contains(m.Signers, key):
		return 0, fmt.Errorf("gateways would refuse the bundle: your key %s is not among the signers that generation %d names: %s",
			key, m.Generation, keysText(m.Signers))
	case s.generation == 0:
		return m.Generation + 1, nil
	case s.generation <= m.Generation:
		return 0, usagef("--generation is %d, and %s has %d: choose a larger one", s.generation, s.previous, m.Generation)
	}
	return s.generation, nil
}

// readBundle returns the manifest of a bundle's file. Some key has signed it, trusted or not.
func readBundle(path string) (*bundle.Manifest, error) {
	a, err := bundle.OpenArchive(path)
	if err != nil {
		return nil, err
	}
	defer a.Close()
	m, _, err := described(a.Signed())
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return m, nil
}

// described returns what is in a bundle, and who has signed it.
func described(s bundle.Signed) (*bundle.Manifest, []bundle.PublicKey, error) {
	m, err := s.Manifest()
	if err != nil {
		return nil, nil, err
	}
	keys, err := s.SignedBy()
	if err == nil && len(keys) == 0 {
		err = errors.New("its signature is not of what is in it: get the bundle again")
	}
	return m, keys, err
}

func keysText(keys []bundle.PublicKey) string {
	var texts []string
	for _, k := range keys {
		texts = append(texts, k.String())
	}
	return strings.Join(texts, ", ")
}
