package atomicfile

import (
	"os"
	"path/filepath"
	"runtime"
	"testing"
)

func TestWriteReplacesOrLeaves(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("directories cannot be synced there")
	}
	dir := t.TempDir()
	path := filepath.Join(dir, "state")
	for _, content := range []string{"one", "two"} {
		if err := Write(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(path)
		if err != nil || string(got) != content {
			t.Errorf("got %q, %v; want %q", got, err, content)
		}
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("got mode %v, %v; want 0600", info.Mode(), err)
	}
	busy := filepath.Join(dir, "busy")
	if err := os.MkdirAll(filepath.Join(busy, "full"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := Write(busy, []byte("x"), 0o600); err == nil {
		t.Error("got nil for a directory in the file's place, want an error")
	}
	if err := Link("state", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	if err := Link("busy", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	if to, err := os.Readlink(filepath.Join(dir, "link")); err != nil || to != "busy" {
		t.Errorf("got a link to %q, %v; want the second target", to, err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 3 {
		t.Errorf("got %v, %v; want state, busy and link alone: no temporary file is left", entries, err)
	}
}
