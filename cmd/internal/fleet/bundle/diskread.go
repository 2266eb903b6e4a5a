package bundle

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"filippo.io/age"
)

// read reads what a generation on disk says that it is. Its files are not looked at.
func (d Disk) read(generation uint64) (*Accepted, error) {
	s, err := readAtMost(filepath.Join(d.path(generation), signedName), MaxSigned)
	if err != nil {
		return nil, err
	}
	a := &Accepted{Signed: s, Dir: d.filesPath(generation), disk: d}
	keys, err := a.Signed.SignedBy()
	if err != nil {
		return nil, err
	}
	if len(keys) == 0 {
		return nil, fmt.Errorf("%w: its signature is not of these bytes any more", ErrDamaged)
	}
	if a.Manifest, err = a.Signed.Manifest(); err != nil {
		return nil, err
	}
	if a.Manifest.Generation != generation {
		return nil, fmt.Errorf("%w: it is generation %d", ErrDamaged, a.Manifest.Generation)
	}
	return a, nil
}

// check returns an error if a file is missing, has changed, or does not belong.
func (a *Accepted) check() error {
	want, err := a.opened()
	if err != nil {
		return err
	}
	seen := 0
	err = filepath.WalkDir(a.Dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		local, err := filepath.Rel(a.Dir, path)
		if err != nil {
			return err
		}
		f, ok := want[filepath.ToSlash(local)]
		if !ok || !e.Type().IsRegular() {
			return fmt.Errorf("%w: %s is not one of its files", ErrDamaged, path)
		}
		seen++
		in, err := os.Open(path)
		if err != nil {
			return err
		}
		defer in.Close()
		return checked(f, io.Discard, func(w io.Writer) error {
			_, err := io.Copy(w, in)
			return err
		})
	})
	if err == nil && seen != len(want) {
		return fmt.Errorf("%w: %d of its %d files are missing", ErrDamaged, len(want)-seen, len(want))
	}
	return err
}

// opened returns what the files on disk must be, by name.
func (a *Accepted) opened() (map[string]File, error) {
	text, err := readAtMost(filepath.Join(filepath.Dir(a.Dir), openedName), maxOpened)
	if err != nil {
		return nil, err
	}
	var opened []File
	if err := strict(text, &opened); err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrDamaged, openedName, err)
	}
	plain := make(map[string]File, len(opened))
	for _, f := range opened {
		plain[f.Name] = f
	}
	want := make(map[string]File, len(a.Manifest.Files))
	for _, f := range a.Manifest.Files {
		if f.Sealed {
			known := false
			if f, known = plain[f.Name]; !known {
				return nil, fmt.Errorf("%w: %s says nothing of a secret", ErrDamaged, openedName)
			}
		}
		want[f.Name] = f
	}
	return want, nil
}

// place writes a file from its blob, opened if it is sealed, and returns what it has become.
func (d Disk) place(ctx context.Context, f File, id *Identity, to string) (File, error) {
	in, err := os.Open(d.blobPath(f))
	if err != nil {
		return f, err
	}
	defer in.Close()
	read := func(w io.Writer) error {
		return checked(f, w, func(w io.Writer) error { return copyUntil(ctx, w, in) })
	}
	if !f.Sealed {
		return f, d.changes.write(to, read)
	}
	var sealed bytes.Buffer
	if err := read(&sealed); err != nil {
		return f, err
	}
	text, err := id.open(sealed.Bytes())
	if err != nil {
		return f, fmt.Errorf("%s: %w", f.Name, err)
	}
	err = d.changes.write(to, func(w io.Writer) error { _, err := w.Write(text); return err })
	return File{Name: f.Name, Digest: sha256.Sum256(text), Size: int64(len(text))}, err
}

// open opens what is sealed.
func (i *Identity) open(sealed []byte) ([]byte, error) {
	if i == nil {
		return nil, errors.New("it is sealed, and this gateway has no key: set fleet.key")
	}
	r, err := age.Decrypt(bytes.NewReader(sealed), i.key)
	if wrong := (*age.NoIdentityMatchError)(nil); errors.As(err, &wrong) {
		return nil, fmt.Errorf("it is not sealed to this gateway's key, whose public key is %s: name that in the site's gateways and sign the bundle again",
			i.Recipient())
	}
	if err != nil {
		return nil, fmt.Errorf("it was not sealed well: sign the bundle again: %w", err)
	}
	text, err := io.ReadAll(r)
	if err != nil {
		return nil, fmt.Errorf("it was not sealed well: sign the bundle again: %w", err)
	}
	return text, nil
}

// readAtMost reads a file of at most limit bytes. A missing one is fs.ErrNotExist.
func readAtMost(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(text)) > limit {
		return nil, fmt.Errorf("%w: %s has more than %d bytes", ErrDamaged, path, limit)
	}
	return text, err
}
