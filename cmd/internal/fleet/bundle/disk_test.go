package bundle

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"penstock/cmd/internal/fleet/store"
)

// accept unpacks and accepts a bundle.
func accept(t testing.TB, d Disk, s *site, b made) string {
	t.Helper()
	dir, err := d.Unpack(t.Context(), b.signed, b.manifest, s.gateway, b.fetch)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Accept(t.Context(), b.manifest.Generation); err != nil {
		t.Fatal(err)
	}
	return dir
}

// entries are the names in a folder.
func entries(t *testing.T, dir string) []string {
	t.Helper()
	list, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range list {
		names = append(names, e.Name())
	}
	return names
}

// currentIs wants an intact bundle of one of the generations in force.
func currentIs(t *testing.T, d Disk, want ...uint64) uint64 {
	t.Helper()
	a, err := d.Current()
	if err != nil {
		t.Fatalf("got %v, want generation %v", err, want)
	}
	if a.Damaged != nil || !slices.Contains(want, a.Manifest.Generation) {
		t.Errorf("got generation %d, damaged: %v; want %v", a.Manifest.Generation, a.Damaged, want)
	}
	return a.Manifest.Generation
}

func TestTheOneBeforeIsKept(t *testing.T) {
	s, d := newSite(t, usual()), Disk{Dir: t.TempDir()}
	for g := uint64(1); g <= 4; g++ {
		s.write("site.yaml", fmt.Sprintf("generation: %d\n", g))
		accept(t, d, s, s.make(g))
		currentIs(t, d, g)
	}
	if got, want := entries(t, d.Dir), []string{"3", "4", "blobs", "lock"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	// Each has its own site.yaml and its own sealed key; they share the peers.
	if got := entries(t, filepath.Join(d.Dir, "blobs")); len(got) != 5 {
		t.Errorf("got %d blobs, want 5", len(got))
	}
	if err := d.Accept(t.Context(), 3); !errors.Is(err, ErrOld) {
		t.Errorf("to accept the one before: got %v, want ErrOld", err)
	}
	if err := d.Accept(t.Context(), 5); !errors.Is(err, store.ErrNone) {
		t.Errorf("to accept what was not unpacked: got %v, want store.ErrNone", err)
	}
	if err := d.Accept(t.Context(), 4); err != nil {
		t.Errorf("to accept it again: %v", err)
	}
	if err := d.Discard(t.Context(), 4); err == nil {
		t.Error("what is in force was discarded")
	}
	if err := d.Discard(t.Context(), 5); err != nil {
		t.Errorf("to discard what is not there: %v", err)
	}
	b := s.make(5)
	if _, err := d.Unpack(t.Context(), b.signed, b.manifest, s.gateway, b.fetch); err != nil {
		t.Fatal(err)
	}
	if err := d.Discard(t.Context(), 5); err != nil {
		t.Fatal(err)
	}
	currentIs(t, d, 4)
	if got := entries(t, filepath.Join(d.Dir, "blobs")); len(got) != 5 {
		t.Errorf("after a candidate was discarded: got %d blobs, want 5", len(got))
	}
}

func TestOneGenerationHasOneContent(t *testing.T) {
	s, d := newSite(t, usual()), Disk{Dir: t.TempDir()}
	accept(t, d, s, s.make(1))
	s.write("site.yaml", "other: {}\n")
	other := s.make(1)
	if _, err := d.Unpack(t.Context(), other.signed, other.manifest, s.gateway, other.fetch); !errors.Is(err, ErrOld) {
		t.Errorf("other contents for an accepted generation: got %v, want ErrOld", err)
	}
	// A candidate that nobody accepted gives way.
	one := s.make(2)
	if _, err := d.Unpack(t.Context(), one.signed, one.manifest, s.gateway, one.fetch); err != nil {
		t.Fatal(err)
	}
	s.write("site.yaml", "third: {}\n")
	accept(t, d, s, s.make(2))
	text, err := os.ReadFile(filepath.Join(d.Dir, "2", "files", "site.yaml"))
	if err != nil || string(text) != "third: {}\n" {
		t.Errorf("got %q, %v; want that of the later candidate", text, err)
	}
	// What is unpacked has to be what was verified.
	if _, err := d.Unpack(t.Context(), one.signed, other.manifest, s.gateway, one.fetch); err == nil {
		t.Error("a manifest of another bundle: got no error")
	}
}

func TestDamageIsFound(t *testing.T) {
	flip := func(path string) func(*testing.T, string) {
		return func(t *testing.T, dir string) {
			path := filepath.Join(dir, filepath.FromSlash(path))
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			text[len(text)/2] ^= 4
			if err := os.WriteFile(path, text, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	tests := map[string]func(*testing.T, string){
		"a bit of a file":             flip("files/site.yaml"),
		"a bit of an opened secret":   flip("files/secrets/wireguard.key"),
		"a bit of the signed text":    flip("bundle.json"),
		"a bit of the opened digests": flip("opened.json"),
		"an empty file": func(t *testing.T, dir string) {
			if err := os.Truncate(filepath.Join(dir, "files", "site.yaml"), 0); err != nil {
				t.Fatal(err)
			}
		},
		"an empty signed text": func(t *testing.T, dir string) {
			if err := os.Truncate(filepath.Join(dir, "bundle.json"), 0); err != nil {
				t.Fatal(err)
			}
		},
		"a missing file": func(t *testing.T, dir string) {
			if err := os.Remove(filepath.Join(dir, "files", "site.yaml")); err != nil {
				t.Fatal(err)
			}
		},
		"a file too many": func(t *testing.T, dir string) {
			if err := os.WriteFile(filepath.Join(dir, "files", "more.yaml"), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		},
		"no files": func(t *testing.T, dir string) {
			if err := os.RemoveAll(filepath.Join(dir, "files")); err != nil {
				t.Fatal(err)
			}
		},
	}
	for name, damage := range tests {
		t.Run(name, func(t *testing.T) {
			s, d := newSite(t, usual()), Disk{Dir: t.TempDir()}
			one, two := s.make(1), s.make(2)
			accept(t, d, s, one)
			accept(t, d, s, two)
			damage(t, d.path(2))
			a, err := d.Current()
			if err != nil {
				t.Fatal(err)
			}
			if a.Manifest.Generation != 1 || !errors.Is(a.Damaged, ErrDamaged) || !strings.Contains(a.Damaged.Error(), "generation 2") {
				t.Errorf("got generation %d, damaged: %v; want 1, because 2 is damaged", a.Manifest.Generation, a.Damaged)
			}
			// The blobs are there, so that nothing has to be fetched.
			nothing := func(context.Context, File, io.Writer) error { return errors.New("the store is away") }
			if _, err := d.Unpack(t.Context(), two.signed, two.manifest, s.gateway, nothing); err != nil {
				t.Fatalf("to unpack it again: %v", err)
			}
			if err := d.Accept(t.Context(), 2); err != nil {
				t.Fatal(err)
			}
			currentIs(t, d, 2)
			damage(t, d.path(1))
			damage(t, d.path(2))
			if _, err := d.Current(); !errors.Is(err, ErrDamaged) || errors.Is(err, store.ErrNone) || !strings.Contains(err.Error(), "remove "+d.Dir) {
				t.Errorf("with both damaged: got %v, want ErrDamaged and what to do", err)
			}
			// A third one, which nobody can fall back from, is accepted beside them.
			accept(t, d, s, s.make(3))
			currentIs(t, d, 3)
		})
	}
}

func TestADamagedOneIsNotWhatIsKept(t *testing.T) {
	s, d := newSite(t, usual()), Disk{Dir: t.TempDir()}
	accept(t, d, s, s.make(1))
	accept(t, d, s, s.make(2))
	if err := os.WriteFile(filepath.Join(d.path(2), "files", "site.yaml"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	accept(t, d, s, s.make(3))
	if got, want := entries(t, d.Dir), []string{"1", "3", "blobs", "lock"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestADamagedBlobIsFetchedAgain(t *testing.T) {
	s, d := newSite(t, usual()), Disk{Dir: t.TempDir()}
	b := s.make(1)
	accept(t, d, s, b)
	f := b.manifest.Files[0]
	if err := os.WriteFile(d.blobPath(f), []byte("something else"), 0o600); err != nil {
		t.Fatal(err)
	}
	a, err := d.Current()
	if err != nil || a.Damaged != nil {
		t.Fatal(err, a)
	}
	if err := a.Fetch(t.Context(), f, io.Discard); !errors.Is(err, ErrDamaged) {
		t.Errorf("to seed a damaged blob: got %v, want ErrDamaged", err)
	}
	next := s.make(2)
	accept(t, d, s, next)
	if a, err = d.Current(); err != nil {
		t.Fatal(err)
	}
	if err := a.Fetch(t.Context(), f, io.Discard); err != nil {
		t.Errorf("after the next bundle, which has it too: %v", err)
	}
	if err := os.Remove(d.blobPath(f)); err != nil {
		t.Fatal(err)
	}
	if err := a.Fetch(t.Context(), f, io.Discard); !errors.Is(err, store.ErrNone) {
		t.Errorf("to seed a blob that is gone: got %v, want store.ErrNone", err)
	}
}

func TestWhatAFetchBringsIsChecked(t *testing.T) {
	errAway := errors.New("the store is away")
	tests := []struct {
		name  string
		fetch func(f File, good []byte, w io.Writer) error
		want  error
	}{
		{"too much", func(_ File, good []byte, w io.Writer) error { _, err := w.Write(append(good, 'x')); return err }, ErrDamaged},
		{"far too much, without minding errors", func(_ File, good []byte, w io.Writer) error {
			for range 1000 {
				w.Write(good)
			}
			return nil
		}, ErrDamaged},
		{"too little", func(_ File, good []byte, w io.Writer) error { _, err := w.Write(good[1:]); return err }, ErrDamaged},
		{"nothing", func(File, []byte, io.Writer) error { return nil }, ErrDamaged},
		{"something else", func(_ File, good []byte, w io.Writer) error { _, err := w.Write(bytes.ToUpper(good)); return err }, ErrDamaged},
		{"half of it", func(_ File, good []byte, w io.Writer) error { w.Write(good[:len(good)/2]); return errAway }, errAway},
		{"all of it and an error", func(_ File, good []byte, w io.Writer) error { w.Write(good); return errAway }, errAway},
		{"what is not there", func(File, []byte, io.Writer) error { return store.ErrNone }, store.ErrNone},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s, d := newSite(t, usual()), Disk{Dir: t.TempDir()}
			accept(t, d, s, s.make(1))
			s.write("site.yaml", "second: {}\n")
			s.write("peers/ana.yaml", "peers: [ana]\n")
			b := s.make(2)
			counts := make(map[string]int)
			bad := func(ctx context.Context, f File, w io.Writer) error {
				counts[f.Name]++
				if f.Name != "site.yaml" {
					return b.fetch(ctx, f, w)
				}
				var good bytes.Buffer
				if err := b.fetch(ctx, f, &good); err != nil {
					return err
				}
				return tt.fetch(f, good.Bytes(), w)
			}
			if dir, err := d.Unpack(t.Context(), b.signed, b.manifest, s.gateway, bad); !errors.Is(err, tt.want) || !strings.Contains(err.Error(), "site.yaml") {
				t.Errorf("got %s, %v; want %v about site.yaml", dir, err, tt.want)
			}
			currentIs(t, d, 1)
			if err := d.Accept(t.Context(), 2); !errors.Is(err, store.ErrNone) {
				t.Errorf("to accept what is not complete: got %v, want store.ErrNone", err)
			}
			if got, want := entries(t, d.Dir), []string{"1", "blobs", "lock"}; !slices.Equal(got, want) {
				t.Errorf("got %v, want %v", got, want)
			}
			good := func(ctx context.Context, f File, w io.Writer) error { counts[f.Name]++; return b.fetch(ctx, f, w) }
			if _, err := d.Unpack(t.Context(), b.signed, b.manifest, s.gateway, good); err != nil {
				t.Fatal(err)
			}
			if counts["peers/ana.yaml"] != 1 || counts["site.yaml"] != 2 {
				t.Errorf("got %v fetches, want one of peers/ana.yaml, which was complete, and two of site.yaml", counts)
			}
			if err := d.Accept(t.Context(), 2); err != nil {
				t.Fatal(err)
			}
			currentIs(t, d, 2)
		})
	}
}

func TestSecretsNeedTheGatewaysKey(t *testing.T) {
	s, d := newSite(t, usual()), Disk{Dir: t.TempDir()}
	b := s.make(1)
	stranger, err := NewIdentity()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Unpack(t.Context(), b.signed, b.manifest, stranger, b.fetch); err == nil || !strings.Contains(err.Error(), stranger.Recipient()) {
		t.Errorf("with another key: got %v, want an error that names it", err)
	}
	if _, err := d.Unpack(t.Context(), b.signed, b.manifest, nil, b.fetch); err == nil || !strings.Contains(err.Error(), "fleet.key") {
		t.Errorf("without a key: got %v, want an error that names fleet.key", err)
	}
	// Signed by the operator, but not sealed with age.
	f := File{Name: "secrets/x", Digest: digestOf("abc"), Size: 3, Sealed: true}
	m := s.manifest(2)
	m.Files = []File{f}
	signed, err := Sign(m, s.key)
	if err != nil {
		t.Fatal(err)
	}
	verified, err := signed.Verify(m.Signers)
	if err != nil {
		t.Fatal(err)
	}
	abc := func(_ context.Context, _ File, w io.Writer) error { _, err := io.WriteString(w, "abc"); return err }
	if _, err := d.Unpack(t.Context(), signed, verified, s.gateway, abc); err == nil || !strings.Contains(err.Error(), "not sealed well") {
		t.Errorf("what is not sealed at all: got %v", err)
	}
}

func digestOf(text string) store.Digest { return sha256.Sum256([]byte(text)) }

func TestUnpacksAtOnce(t *testing.T) {
	s, dir := newSite(t, usual()), t.TempDir()
	var all []made
	for g := range uint64(3) {
		s.write("site.yaml", fmt.Sprintf("generation: %d\n", g+1))
		all = append(all, s.make(g+1))
	}
	var wg sync.WaitGroup
	var fetches atomic.Int64
	for _, b := range all {
		for range 3 {
			wg.Go(func() {
				fetch := func(ctx context.Context, f File, w io.Writer) error { fetches.Add(1); return b.fetch(ctx, f, w) }
				if _, err := (Disk{Dir: dir}).Unpack(t.Context(), b.signed, b.manifest, s.gateway, fetch); err != nil {
					t.Error(err)
				}
			})
		}
	}
	wg.Wait()
	if got := fetches.Load(); got != 7 { // three site.yaml, three sealed keys, and the peers once
		t.Errorf("got %d fetches, want 7", got)
	}
	for g := range uint64(3) {
		wg.Go(func() {
			if err := (Disk{Dir: dir}).Accept(t.Context(), g+1); err != nil && !errors.Is(err, ErrOld) && !errors.Is(err, store.ErrNone) {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	currentIs(t, Disk{Dir: dir}, 3)
}

func TestAnUnpackThatWaitsEndsWithItsContext(t *testing.T) {
	s, d := newSite(t, usual()), Disk{Dir: t.TempDir()}
	b := s.make(1)
	ctx, cancel := context.WithCancel(t.Context())
	_, err := d.Unpack(t.Context(), b.signed, b.manifest, s.gateway, func(context.Context, File, io.Writer) error {
		// The lock is held here.
		cancel()
		if _, err := d.Unpack(ctx, b.signed, b.manifest, s.gateway, b.fetch); !errors.Is(err, context.Canceled) {
			t.Errorf("the second: got %v, want context.Canceled", err)
		}
		return context.Canceled
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("the first: got %v, want context.Canceled", err)
	}
}

// TestAFullDisk lets every change from the nth on find the disk full, but for those that remove and rename.
func TestAFullDisk(t *testing.T) {
	s := newSite(t, usual())
	one := s.make(1)
	s.write("site.yaml", "second: {}\n")
	two := s.make(2)
	for n := 1; ; n++ {
		d := Disk{Dir: t.TempDir()}
		accept(t, d, s, one)
		count := 0
		d.changes.before = func(change string) error {
			if count++; count >= n && !strings.HasPrefix(change, "remove") && !strings.HasPrefix(change, "rename") {
				return &os.PathError{Op: "write", Path: change, Err: syscall.ENOSPC}
			}
			return nil
		}
		_, err := d.Unpack(t.Context(), two.signed, two.manifest, s.gateway, two.fetch)
		if err == nil {
			err = d.Accept(t.Context(), 2)
		}
		if err == nil && count < n {
			if n < 20 {
				t.Errorf("got %d changes, want more to test", n)
			}
			currentIs(t, d, 2)
			return
		}
		if err != nil && !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("change %d: got %v, want that the disk is full", n, err)
		}
		if err != nil {
			currentIs(t, d, 1)
		} else {
			currentIs(t, d, 2)
		}
		for _, name := range entries(t, d.Dir) {
			if strings.HasPrefix(name, ".") {
				t.Errorf("change %d: %s is left", n, name)
			}
		}
		d.changes.before = nil
		accept(t, d, s, two)
		currentIs(t, d, 2)
	}
}

// TestAKillLeavesABundleInForce kills a process at each change that it makes.
func TestAKillLeavesABundleInForce(t *testing.T) {
	s, archive, key := newSite(t, usual()), filepath.Join(t.TempDir(), "two.bundle"), filepath.Join(t.TempDir(), "key")
	one := s.make(1)
	s.write("site.yaml", "second: {}\n")
	two := s.make(2)
	if err := WriteArchive(t.Context(), archive, two.signed, two.fetch); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(key, []byte(s.gateway.Reveal()), 0o600); err != nil {
		t.Fatal(err)
	}
	seen := make(map[uint64]int)
	for n := 1; ; n++ {
		d := Disk{Dir: t.TempDir()}
		accept(t, d, s, one)
		child := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^$")
		child.Env = append(os.Environ(), "BUNDLE_KILL_AT="+fmt.Sprint(n), "BUNDLE_DIR="+d.Dir, "BUNDLE_ARCHIVE="+archive, "BUNDLE_KEY="+key)
		out, err := child.CombinedOutput()
		var exit *exec.ExitError
		if err != nil && (!errors.As(err, &exit) || exit.ExitCode() != killed) {
			t.Fatalf("change %d: %v: %s", n, err, out)
		}
		if err == nil {
			currentIs(t, d, 2)
			break
		}
		g := currentIs(t, d, 1, 2)
		seen[g]++
		if g == 1 && seen[2] > 0 {
			t.Errorf("change %d: got generation 1 in force after 2 was", n)
		}
		accept(t, d, s, two)
		currentIs(t, d, 2)
		if got, want := entries(t, d.Dir), []string{"1", "2", "blobs", "lock"}; !slices.Equal(got, want) {
			t.Errorf("change %d: got %v, want %v", n, got, want)
		}
		if got := entries(t, filepath.Join(d.Dir, "blobs")); len(got) != 5 {
			t.Errorf("change %d: got the blobs %v, want 5", n, got)
		}
	}
	if seen[1] < 20 || seen[2] == 0 {
		t.Errorf("got %v kills by the generation in force after them, want at least 20 before and one after 2 was accepted", seen)
	}
}

const killed = 99

func TestMain(m *testing.M) {
	if at := os.Getenv("BUNDLE_KILL_AT"); at != "" {
		var n int
		fmt.Sscan(at, &n)
		d := Disk{Dir: os.Getenv("BUNDLE_DIR")}
		d.changes.before = func(string) error {
			if n--; n == 0 {
				os.Exit(killed)
			}
			return nil
		}
		if err := child(d); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// child is what is killed.
func child(d Disk) error {
	text, err := os.ReadFile(os.Getenv("BUNDLE_KEY"))
	if err != nil {
		return err
	}
	id, err := ParseIdentity(string(text))
	if err != nil {
		return err
	}
	a, err := OpenArchive(os.Getenv("BUNDLE_ARCHIVE"))
	if err != nil {
		return err
	}
	defer a.Close()
	m, err := a.Signed().Manifest()
	if err != nil {
		return err
	}
	if _, err := d.Unpack(context.Background(), a.Signed(), m, id, a.Fetch); err != nil {
		return err
	}
	return d.Accept(context.Background(), m.Generation)
}
