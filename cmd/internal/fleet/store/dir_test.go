package store_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"penstock/cmd/internal/fleet/store"
	"penstock/cmd/internal/fleet/store/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestDirIsAStore(t *testing.T) {
	dir := t.TempDir()
	storetest.Run(t, func(t *testing.T) store.Store { return open(t, dir) })
}

func open(t *testing.T, dir string) *store.Dir {
	t.Helper()
	d, err := store.OpenDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestDirThatCanOnlyBeRead(t *testing.T) {
	dir := configMap(t)
	swap(t, dir, "v1", map[string]string{"truth/muc.one": "first"})
	s := open(t, dir)
	w := storetest.Watch(t, s, store.Truth, "")
	w.Await(t, "the value", func() bool { return w.Value("muc.one") == "first" && w.Complete() })
	before := w.Version("muc.one")
	swap(t, dir, "v2", map[string]string{"truth/muc.one": "other", "truth/fra": "new"})
	w.Await(t, "what was swapped", func() bool { return w.Value("muc.one") == "other" && w.Value("fra") == "new" })
	if got := w.Version("muc.one"); got <= before {
		t.Errorf("the version is %d after %d, want more", got, before)
	}
	e, err := s.Get(t.Context(), store.Truth, "muc.one")
	if err != nil || string(e.Value) != "other" || e.Version != w.Version("muc.one") {
		t.Errorf("Get: got %q at %d, %v, want what the watch has", e.Value, e.Version, err)
	}
	swap(t, dir, "v3", map[string]string{"truth/muc.one": "other"})
	w.Await(t, "a removal", func() bool { return w.Value("fra") == "" })
	if got := w.Version("muc.one"); got != e.Version {
		t.Errorf("a file that was swapped for an equal one has version %d, want %d still", got, e.Version)
	}
}

// configMap returns a folder as a mounted ConfigMap is: what is in it leads to ..data, which leads to a folder with a name of its own.
func configMap(t *testing.T) string {
	dir := t.TempDir()
	for _, name := range []string{"truth", "blobs"} {
		if err := os.Symlink(filepath.Join("..data", name), filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func swap(t *testing.T, dir, name string, files map[string]string) {
	t.Helper()
	for file, content := range files {
		path := filepath.Join(dir, ".."+name, file)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		write(t, path, content)
	}
	link := filepath.Join(dir, "..data_tmp")
	if err := os.Symlink(".."+name, link); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(link, filepath.Join(dir, "..data")); err != nil {
		t.Fatal(err)
	}
}

func TestDirWithFilesByHand(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	if err := os.Mkdir(filepath.Join(dir, "truth"), 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "truth", "muc"), "by hand")
	e, err := s.Get(t.Context(), store.Truth, "muc")
	if err != nil || string(e.Value) != "by hand" {
		t.Fatalf("got %q, %v, want the file's content", e.Value, err)
	}
	version, err := s.Put(t.Context(), store.Truth, "muc", []byte("by Put"), e.Version)
	if err != nil || version <= e.Version {
		t.Errorf("Put after the version that was read: got %d, %v, want more than %d", version, err, e.Version)
	}
	storetest.AwaitValue(t, open(t, dir), store.Truth, "muc", "by Put", version)
}

func TestDirThatIsDamaged(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	if _, err := s.Put(t.Context(), store.Truth, "good", []byte("value"), 0); err != nil {
		t.Fatal(err)
	}
	good, err := os.ReadFile(filepath.Join(dir, "truth", "good"))
	if err != nil {
		t.Fatal(err)
	}
	flipped := bytes.Clone(good)
	flipped[len(flipped)-1] ^= 1
	for name, content := range map[string][]byte{
		"empty": nil, "flipped": bytes.Replace(flipped, []byte("good"), []byte("flipped"), 1), "renamed": good, "cut": good[:len(good)-len("value")],
		"header": []byte("penstock-store 1 header x\nvalue"), "large": make([]byte, 2*store.MaxValue),
	} {
		write(t, filepath.Join(dir, "truth", name), string(content))
	}
	if err := os.Mkdir(filepath.Join(dir, "truth", "folder"), 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "truth", ".nfs0001"), "foreign")
	write(t, filepath.Join(dir, "truth", "README~"), "foreign")
	write(t, filepath.Join(dir, "truth", ".version"), "nonsense")

	log := &bytes.Buffer{}
	s = open(t, dir)
	s.Log = slog.New(slog.NewTextHandler(log, nil))
	w := storetest.Watch(t, s, store.Truth, "")
	w.Await(t, "the marker", w.Complete)
	if got := w.Keys(); got != "good" {
		t.Errorf("a watch has %s, want the good file only", got)
	}
	for _, name := range []string{"empty", "flipped", "renamed", "cut", "header", "large", "folder"} {
		if _, err := s.Get(t.Context(), store.Truth, name); err == nil || errors.Is(err, store.ErrNone) || !strings.Contains(err.Error(), name) {
			t.Errorf("Get of the file %s: got %v, want an error that names it", name, err)
		}
		if _, err := s.Put(t.Context(), store.Truth, name, []byte("x"), 0); err == nil {
			t.Errorf("the file %s is taken for none", name)
		}
	}
	version, err := s.Put(t.Context(), store.Truth, "flipped", []byte("mended"), store.Any)
	if err != nil || version <= 1 {
		t.Errorf("Put over a damaged file, with a damaged counter: got %d, %v, want a version above 1", version, err)
	}
	w.Await(t, "the file that was mended", func() bool { return w.Value("flipped") == "mended" })
	w.End(t)
	if n := strings.Count(log.String(), "truth/folder"); n != 1 {
		t.Errorf("the log tells %d times of the folder, want once:\n%s", n, log)
	}
}

// TestARemovalByHandHasAVersionOfItsOwn removes a file as a person would.
func TestARemovalByHandHasAVersionOfItsOwn(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	version, err := s.Put(t.Context(), store.Truth, "muc", []byte("value"), 0)
	if err != nil {
		t.Fatal(err)
	}
	w := storetest.Watch(t, s, store.Truth, "")
	w.Await(t, "the value", func() bool { return w.Value("muc") == "value" })
	if err := os.Remove(filepath.Join(dir, "truth", "muc")); err != nil {
		t.Fatal(err)
	}
	w.Await(t, "the removal", func() bool { return w.Value("muc") == "" })
	if got := w.Version("muc"); got <= version {
		t.Errorf("the removal of version %d has version %d, want more", version, got)
	}
}

// TestABlobThatIsGivenUpLeavesNothing ends a publication half way.
func TestABlobThatIsGivenUpLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	half := io.MultiReader(strings.NewReader("half of it"), endless(cancel))
	if _, err := open(t, dir).PublishBlob(ctx, half); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want that it was given up", err)
	}
	left, err := os.ReadDir(filepath.Join(dir, "blobs"))
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// endless calls a function at each read, and returns nothing.
type endless func()

func (e endless) Read([]byte) (int, error) {
	e()
	return 0, nil
}

func TestDirWithDamagedBlob(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	blob := storetest.Random(1000)
	d, err := s.PublishBlob(t.Context(), bytes.NewReader(blob))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "blobs", d.String())
	write(t, path, "something else")
	if err := s.FetchBlob(t.Context(), d, io.Discard); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("got %v, want an error that names %s", err, path)
	}
	if _, err := s.PublishBlob(t.Context(), bytes.NewReader(blob)); err != nil {
		t.Fatal(err)
	}
	var got bytes.Buffer
	if err := s.FetchBlob(t.Context(), d, &got); err != nil || !bytes.Equal(got.Bytes(), blob) {
		t.Errorf("after it was published again: %v", err)
	}
	files, err := os.ReadDir(filepath.Join(dir, "blobs"))
	if err != nil || len(files) != 1 {
		t.Errorf("the folder has %v, %v, want one file", files, err)
	}
}

func TestDirThatIsNotThere(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "later"))
	if _, err := s.Get(t.Context(), store.Truth, "muc"); err == nil || errors.Is(err, store.ErrNone) {
		t.Errorf("Get: got %v, want an error that the folder is missing", err)
	}
	if err := s.Watch(t.Context(), store.Truth, "", func(store.Entry) {}); err == nil {
		t.Error("Watch: no error")
	}
	if _, err := s.Put(t.Context(), store.Truth, "muc", []byte("x"), 0); err == nil {
		t.Error("Put makes the folder, want an error: it may be a mount that comes later")
	}
	for _, path := range []string{"", write(t, filepath.Join(t.TempDir(), "file"), "x")} {
		if _, err := store.OpenDir(path); err == nil {
			t.Errorf("OpenDir(%q): no error", path)
		}
	}
}

func write(t *testing.T, path, content string) string {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}
