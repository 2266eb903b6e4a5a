//go:build unix

package store_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"penstock/cmd/internal/fleet/store"
)

// TestDirForbids runs itself again as a user who may not write, because root may write anywhere.
func TestDirForbids(t *testing.T) {
	const variable = "PENSTOCK_TEST_READ_ONLY"
	if dir := os.Getenv(variable); dir != "" {
		checkForbidden(t, dir)
		return
	}
	dir, err := os.MkdirTemp("/var/tmp", "penstock-store-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = os.Chmod(filepath.Join(dir, "truth"), 0o755)
		_ = os.Chmod(dir, 0o755)
		os.RemoveAll(dir)
	})
	if err := os.Mkdir(filepath.Join(dir, "truth"), 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "truth", "muc"), "bundle")
	for _, path := range []string{filepath.Join(dir, "truth"), dir} {
		if err := os.Chmod(path, 0o555); err != nil {
			t.Fatal(err)
		}
	}
	program, err := os.ReadFile(os.Args[0]) // it may be where that user may not look
	if err != nil {
		t.Fatal(err)
	}
	tests := filepath.Join(t.TempDir(), "store.test")
	if os.Geteuid() == 0 {
		bin, err := os.MkdirTemp("/var/tmp", "penstock-test-")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.RemoveAll(bin) })
		if err := os.Chmod(bin, 0o755); err != nil {
			t.Fatal(err)
		}
		tests = filepath.Join(bin, "store.test")
	}
	if err := os.WriteFile(tests, program, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), tests, "-test.run=^TestDirForbids$", "-test.v")
	cmd.Env, cmd.Dir = append(os.Environ(), variable+"="+dir), dir
	if os.Geteuid() == 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	}
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: TestDirForbids") {
		t.Errorf("as a user who may not write: %v\n%s", err, out)
	}
}

func checkForbidden(t *testing.T, dir string) {
	s := open(t, dir)
	if e, err := s.Get(t.Context(), store.Truth, "muc"); err != nil || string(e.Value) != "bundle" {
		t.Errorf("Get: got %q, %v", e.Value, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	_, inBucket := s.Put(ctx, store.Truth, "muc", []byte("x"), store.Any)
	_, newBucket := s.Put(ctx, store.State, "muc.g", []byte("x"), store.Any)
	_, blob := s.PublishBlob(ctx, strings.NewReader("x"))
	for name, err := range map[string]error{"a value": inBucket, "a value of a new bucket": newBucket, "a blob": blob, "a lease": s.Lease(ctx, "l", "ana", time.Hour)} {
		if !errors.Is(err, store.ErrForbidden) {
			t.Errorf("%s: got %v, want ErrForbidden", name, err)
		}
	}
}
