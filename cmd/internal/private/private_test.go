//go:build unix

package private

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
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

func TestAPipeHandsInASecret(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := w.WriteString("secret"); err != nil {
		t.Fatal(err)
	}
	w.Close()
	path := fmt.Sprintf("/dev/fd/%d", r.Fd())
	if data, err := Read(path, 100); err != nil || string(data) != "secret" {
		t.Errorf("got %q, %v; want the content", data, err)
	}
}

func TestAPipeThatNobodyWritesIntoDoesNotHang(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	done := make(chan string, 1)
	go func() {
		data, err := Read(path, 100)
		done <- fmt.Sprintf("%q, %v", data, err)
	}()
	select {
	case got := <-done:
		if want := `"", <nil>`; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	case <-time.After(5 * time.Second):
		t.Fatal("Read still waits")
	}
}

func TestTwoVersionsOfAFileAreNeverMixed(t *testing.T) {
	path := write(t, 0o600)
	// A writer that replaces the content in place, as a shell's > does: empty, then a part, then all of it.
	texts := []string{strings.Repeat("a", 256<<10), strings.Repeat("b", 128<<10)}
	if err := os.WriteFile(path, []byte(texts[0]), 0o600); err != nil {
		t.Fatal(err)
	}
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			text := texts[i%2]
			f, err := os.OpenFile(path, os.O_WRONLY|os.O_TRUNC, 0o600)
			if err != nil {
				t.Error(err)
				return
			}
			for half := range 2 {
				if _, err := f.WriteString(text[half*len(text)/2 : (half+1)*len(text)/2]); err != nil {
					t.Error(err)
				}
			}
			f.Close()
			time.Sleep(3 * time.Millisecond)
		}
	}()
	defer func() {
		close(stop)
		<-stopped
	}()
	whole := 0
	for end := time.Now().Add(time.Second); time.Now().Before(end); {
		data, err := Read(path, 1<<20)
		if err != nil && !strings.Contains(err.Error(), "changes while it is read") {
			t.Fatal(err)
		}
		if err == nil && strings.Trim(string(data), "a") != "" && strings.Trim(string(data), "b") != "" {
			t.Fatalf("got %d bytes, a mixture of both contents", len(data))
		}
		if len(data) == len(texts[0]) || len(data) == len(texts[1]) {
			whole++
		}
	}
	if whole == 0 {
		t.Error("no read succeeded beside the writer")
	}
}
