//go:build unix

package private

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func write(t *testing.T, mode os.FileMode) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(path, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestModes(t *testing.T) {
	for mode, ok := range map[os.FileMode]bool{0o600: true, 0o400: true, 0o640: true, 0o644: false, 0o660: false, 0o666: false, 0o602: false} {
		data, err := Read(write(t, mode), 100)
		switch {
		case ok && (err != nil || string(data) != "secret"):
			t.Errorf("mode %04o: got %q, %v; want the content", mode, data, err)
		case !ok && (err == nil || !strings.Contains(err.Error(), "chmod 600")):
			t.Errorf("mode %04o: got %v, want an error that names the mend", mode, err)
		}
	}
}

func TestAnotherOwnerIsNotTrusted(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can give a file away")
	}
	path := write(t, 0o600)
	if err := os.Chown(path, 65534, 65534); err != nil {
		t.Fatal(err)
	}
	if _, err := Read(path, 100); err == nil || !strings.Contains(err.Error(), "chown 0 ") {
		t.Errorf("a file of another user: got %v, want an error that names the mend", err)
	}
}

func TestWhatIsNoFile(t *testing.T) {
	dir := t.TempDir()
	if _, err := Read(filepath.Join(dir, "none"), 100); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a missing file: got %v, want fs.ErrNotExist", err)
	}
	if _, err := Read(dir, 100); err == nil || !strings.Contains(err.Error(), "is a directory") {
		t.Errorf("a directory: got %v", err)
	}
	if _, err := Read(write(t, 0o600), 5); err == nil || !strings.Contains(err.Error(), "larger than 5 bytes") {
		t.Errorf("a file over the limit: got %v", err)
	}
}
