package bundle

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"penstock/cmd/internal/fleet/store"
)

// site is an operator with a key, a gateway, and a folder.
type site struct {
	t       testing.TB
	key     PrivateKey
	gateway *Identity
	dir     string
}

func newSite(t testing.TB, files map[string]string) *site {
	t.Helper()
	key, err := NewPrivateKey()
	if err != nil {
		t.Fatal(err)
	}
	gateway, err := NewIdentity()
	if err != nil {
		t.Fatal(err)
	}
	s := &site{t, key, gateway, t.TempDir()}
	for name, text := range files {
		s.write(name, text)
	}
	return s
}

func (s *site) write(name, text string) {
	s.t.Helper()
	path := filepath.Join(s.dir, filepath.FromSlash(name))
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		s.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
}

func (s *site) manifest(generation uint64) Manifest {
	return Manifest{Site: "berlin", Generation: generation, Made: time.Unix(1e9, 0), Signers: []PublicKey{s.key.Public()},
		Gateways: []Gateway{{"a", s.gateway.Recipient()}}}
}

// made is a bundle that was signed and verified.
type made struct {
	signed   Signed
	manifest *Manifest
	fetch    Fetch
}

func (s *site) make(generation uint64) made {
	s.t.Helper()
	b, err := Build(s.dir, s.manifest(generation))
	if err != nil {
		s.t.Fatal(err)
	}
	signed, err := Sign(b.Manifest, s.key)
	if err != nil {
		s.t.Fatal(err)
	}
	m, err := signed.Verify([]PublicKey{s.key.Public()})
	if err != nil {
		s.t.Fatal(err)
	}
	// The bytes are kept: the folder may change before they are fetched.
	stored := make(map[store.Digest][]byte)
	for _, f := range m.Files {
		var text bytes.Buffer
		if err := b.Fetch(s.t.Context(), f, &text); err != nil {
			s.t.Fatal(err)
		}
		stored[f.Digest] = text.Bytes()
	}
	return made{signed, m, func(_ context.Context, f File, w io.Writer) error {
		text, ok := stored[f.Digest]
		if !ok {
			return store.ErrNone
		}
		_, err := w.Write(text)
		return err
	}}
}

// usual are the files of most tests.
func usual() map[string]string {
	return map[string]string{"site.yaml": "site: {}\n", "peers/ana.yaml": "peers: []\n", "secrets/wireguard.key": "very secret\n", ".git/config": "x"}
}

func TestABundleIsUnpackedAsItWasBuilt(t *testing.T) {
	s := newSite(t, usual())
	b := s.make(1)
	disk := Disk{Dir: filepath.Join(t.TempDir(), "state", "fleet")}
	if _, err := disk.Current(); !errors.Is(err, store.ErrNone) {
		t.Errorf("before the first: got %v, want store.ErrNone", err)
	}
	dir, err := disk.Unpack(t.Context(), b.signed, b.manifest, s.gateway, b.fetch)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := disk.Current(); !errors.Is(err, store.ErrNone) {
		t.Errorf("with a candidate: got %v, want store.ErrNone", err)
	}
	if err := disk.Accept(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	current, err := disk.Current()
	if err != nil || current.Damaged != nil {
		t.Fatal(err, current)
	}
	if current.Dir != dir || !current.Manifest.same(b.manifest) || !bytes.Equal(current.Signed, b.signed) {
		t.Errorf("got %+v in %s, want what was unpacked in %s", current.Manifest, current.Dir, dir)
	}
	got := make(map[string]string)
	err = filepath.WalkDir(filepath.Dir(filepath.Dir(dir)), func(path string, e os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		if info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v, want nobody else to read it", path, info.Mode())
		}
		if name, err := filepath.Rel(dir, path); err == nil && !e.IsDir() && !strings.HasPrefix(name, "..") {
			text, err := os.ReadFile(path)
			got[filepath.ToSlash(name)] = string(text)
			return err
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	want := usual()
	delete(want, ".git/config")
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got %v, want %v", got, want)
	}
	for _, f := range current.Manifest.Files {
		var mine, theirs bytes.Buffer
		if err := errors.Join(current.Fetch(t.Context(), f, &mine), b.fetch(t.Context(), f, &theirs)); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(mine.Bytes(), theirs.Bytes()) {
			t.Errorf("%s: what can be fetched from the disk differs from what was unpacked", f.Name)
		}
		if sealed := bytes.Contains(mine.Bytes(), []byte("secret")); f.Sealed && sealed {
			t.Errorf("%s is stored as it is, want it sealed", f.Name)
		}
	}
}

func TestAnArchiveHasTheWholeBundle(t *testing.T) {
	s := newSite(t, usual())
	s.write("twin.yaml", "peers: []\n") // as peers/ana.yaml
	b := s.make(7)
	var texts [2][]byte
	for i := range texts {
		path := filepath.Join(t.TempDir(), "site.bundle")
		if err := WriteArchive(t.Context(), path, b.signed, b.fetch); err != nil {
			t.Fatal(err)
		}
		var err error
		if texts[i], err = os.ReadFile(path); err != nil {
			t.Fatal(err)
		}
		a, err := OpenArchive(path)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(a.Signed(), b.signed) {
			t.Error("got another bundle than was written")
		}
		if _, err := (Disk{Dir: t.TempDir()}).Unpack(t.Context(), a.Signed(), b.manifest, s.gateway, a.Fetch); err != nil {
			t.Error(err)
		}
		if err := a.Close(); err != nil {
			t.Error(err)
		}
	}
	if !bytes.Equal(texts[0], texts[1]) {
		t.Error("the same bundle makes different archives")
	}
	for _, cut := range []int{0, 1, 511, 512, 1000, len(texts[0]) / 2, len(texts[0]) - 1530} {
		short := texts[0][:cut]
		if a, err := readArchive(bytes.NewReader(short), int64(len(short))); !errors.Is(err, ErrDamaged) {
			t.Errorf("cut after %d of %d bytes: got %v, %v; want ErrDamaged", cut, len(texts[0]), a != nil, err)
		}
	}
}
