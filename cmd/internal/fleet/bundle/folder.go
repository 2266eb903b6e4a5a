package bundle

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"regexp"
	"slices"
	"strings"

	"filippo.io/age"
	"penstock/cmd/internal/fleet/store"
)

// Built is what Build made of a folder: a manifest that is ready to be signed, and the bytes that belong to it.
type Built struct {
	Manifest Manifest

	dir    string
	sealed map[string][]byte // by name
}

// source is a file of the operator's folder.
type source struct {
	name string
	info fs.FileInfo
}

// Build reads the regular files below a folder, seals those below secrets/ to the gateways of m, and returns m with all of them. m has
// site, generation, signers and gateways. Names that begin with a dot are left out. A symbolic link to a file within the folder is that
// file. What is neither a file nor a folder is an error. So is a key of a fleet, and any private key that is not below secrets/, as far
// as the beginning of a file shows it.
func Build(dir string, m Manifest) (*Built, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	found, err := sources(root, ".")
	if err != nil {
		return nil, err
	}
	if err := checkTwins(found); err != nil {
		return nil, err
	}
	var recipients []age.Recipient
	for _, g := range m.Gateways {
		r, err := recipient(g.Recipient)
		if err != nil {
			return nil, fmt.Errorf("gateway %s: %w", g.Name, err)
		}
		recipients = append(recipients, r)
	}
	b := &Built{Manifest: m, dir: dir, sealed: make(map[string][]byte)}
	b.Manifest.Format, b.Manifest.Files = format, make([]File, 0, len(found))
	for _, s := range found {
		f, err := b.add(root, s, recipients)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", s.name, err)
		}
		b.Manifest.Files = append(b.Manifest.Files, f)
	}
	if err := b.Manifest.check(); err != nil {
		return nil, err
	}
	return b, nil
}

// sources returns the files below a folder, by name.
func sources(root *os.Root, dir string) ([]source, error) {
	entries, err := fs.ReadDir(root.FS(), dir)
	if err != nil {
		return nil, err
	}
	var found []source
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") {
			continue
		}
		name := path.Join(dir, e.Name())
		if err := checkName(name); err != nil {
			return nil, err
		}
		info, err := root.Stat(name)
		switch {
		case err != nil && e.Type()&fs.ModeSymlink != 0:
			return nil, fmt.Errorf("%s is a link that leads out of the folder, or to nothing: put the file itself there: %w", name, err)
		case err != nil:
			return nil, err
		case info.IsDir() && e.Type()&fs.ModeSymlink != 0:
			return nil, fmt.Errorf("%s is a link to a folder: put the folder itself there", name)
		case info.IsDir():
			below, err := sources(root, name)
			if err != nil {
				return nil, err
			}
			found = append(found, below...)
		case info.Mode().IsRegular():
			found = append(found, source{name, info})
		default:
			return nil, fmt.Errorf("%s is neither a file nor a folder: remove it", name)
		}
		if len(found) > MaxFiles {
			return nil, fmt.Errorf("%w: it has more than %d files", ErrTooLarge, MaxFiles)
		}
	}
	slices.SortFunc(found, func(a, b source) int { return cmp.Compare(a.name, b.name) })
	return found, nil
}

// checkTwins returns an error if a file would be in the bundle sealed and, by a link, unsealed.
func checkTwins(found []source) error {
	for _, secret := range found {
		if !isSecret(secret.name) {
			continue
		}
		for _, s := range found {
			if !isSecret(s.name) && os.SameFile(s.info, secret.info) {
				return fmt.Errorf("%s and %s are the same file: everybody could read what is to be secret", s.name, secret.name)
			}
		}
	}
	return nil
}

// isSecret reports whether the file of a name is sealed.
func isSecret(name string) bool { return strings.HasPrefix(name, secrets+"/") }

// add reads a file, and seals it if it is a secret.
func (b *Built) add(root *os.Root, s source, recipients []age.Recipient) (File, error) {
	f := File{Name: s.name, Sealed: isSecret(s.name)}
	in, err := root.Open(s.name)
	if err != nil {
		return f, err
	}
	defer in.Close()
	most := int64(MaxFile)
	if f.Sealed {
		most = MaxSealed
	}
	if s.info.Size() > most {
		return f, fmt.Errorf("%w: it has %d bytes, and may have %d", ErrTooLarge, s.info.Size(), most)
	}
	begin := make([]byte, 4096)
	n, err := io.ReadFull(in, begin)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return f, err
	}
	if err := checkKeys(begin[:n], f.Sealed); err != nil {
		return f, err
	}
	text := io.LimitReader(io.MultiReader(bytes.NewReader(begin[:n]), in), most+1)
	sum := sha256.New()
	if !f.Sealed {
		f.Size, err = io.Copy(sum, text)
		f.Digest = store.Digest(sum.Sum(nil))
		return f, err
	}
	var sealed bytes.Buffer
	w, err := age.Encrypt(&sealed, recipients...)
	if err != nil {
		return f, fmt.Errorf("seal it: %w", err)
	}
	if _, err := io.Copy(w, text); err != nil {
		return f, err
	}
	if err := w.Close(); err != nil {
		return f, fmt.Errorf("seal it: %w", err)
	}
	b.sealed[f.Name] = sealed.Bytes()
	f.Size, f.Digest = int64(sealed.Len()), sha256.Sum256(sealed.Bytes())
	return f, nil
}

// What private keys look like, in 4 KiB at the beginning of a file.
var (
	operatorKey = regexp.MustCompile(privatePrefix + `[A-Za-z0-9+/]{43}=`)
	gatewayKey  = regexp.MustCompile(agePrefix + `1[A-Z0-9]{58}`)
	otherKey    = regexp.MustCompile(`-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----`)
)

// checkKeys returns an error if a file begins as one does that must not be in a bundle, or must be sealed there.
func checkKeys(begin []byte, sealed bool) error {
	switch {
	case operatorKey.Match(begin):
		return errors.New("this is an operator's private key, which no gateway may have: keep it elsewhere")
	case gatewayKey.Match(begin):
		return errors.New("this is a gateway's private key, which belongs on that gateway alone: keep it elsewhere")
	case !sealed && otherKey.Match(begin):
		return fmt.Errorf("there is a private key in it, which everybody could read: put it below %s/", secrets)
	}
	return nil
}

// Fetch writes the bytes of a file as they are to be stored. It is a Fetch. The error is ErrDamaged if the file has changed since
// Build.
func (b *Built) Fetch(ctx context.Context, f File, w io.Writer) error {
	if sealed, ok := b.sealed[f.Name]; ok {
		return checked(f, w, func(w io.Writer) error {
			_, err := w.Write(sealed)
			return err
		})
	}
	root, err := os.OpenRoot(b.dir)
	if err != nil {
		return err
	}
	defer root.Close()
	in, err := root.Open(f.Name)
	if err != nil {
		return err
	}
	defer in.Close()
	return checked(f, w, func(w io.Writer) error { return copyUntil(ctx, w, in) })
}
