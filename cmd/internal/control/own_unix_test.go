//go:build unix

package control

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestTheSystemsPenstockIsFoundWhereTheUserHasNone(t *testing.T) {
	f := &fake{status: func() (Status, error) { return Status{State: "connected"}, nil }}
	system := serveControl(t, f.config())
	own := filepath.Join(t.TempDir(), "own.sock")

	c, err := dialFirst(t.Context(), own, system)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if s, err := c.Status(t.Context()); err != nil || s.State != "connected" {
		t.Errorf("got %+v, %v, want the system's answer", s, err)
	}

	none := filepath.Join(t.TempDir(), "none.sock")
	_, err = dialFirst(t.Context(), own, none)
	if !errors.Is(err, ErrNotRunning) || !strings.Contains(err.Error(), own) || !strings.Contains(err.Error(), none) {
		t.Errorf("without any: got %v, want ErrNotRunning that names both", err)
	}

	g := &fake{status: func() (Status, error) { return Status{State: "offline"}, nil }}
	mine, err := dialFirst(t.Context(), serveControl(t, g.config()), system)
	if err != nil {
		t.Fatal(err)
	}
	defer mine.Close()
	if s, err := mine.Status(t.Context()); err != nil || s.State != "offline" {
		t.Errorf("with both: got %+v, %v, want that of the user's own", s, err)
	}
}

// TestAUserWithoutRightsIsToldSo runs itself as another user, for whom root's socket is closed.
func TestAUserWithoutRightsIsToldSo(t *testing.T) {
	if socket := os.Getenv("PENSTOCK_TEST_SOCKET"); socket != "" {
		_, err := dialFirst(context.WithoutCancel(t.Context()), "/nonexistent/own.sock", socket)
		if !errors.Is(err, ErrNoPermission) || !strings.Contains(err.Error(), "sudo") {
			t.Errorf("got %v, want ErrNoPermission and the mend", err)
		}
		return
	}
	if os.Geteuid() != 0 {
		t.Skip("only root can become another user")
	}
	dir, err := os.MkdirTemp("/tmp", "penstock-control-") // others may pass through it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	f := &fake{status: func() (Status, error) { return Status{State: "connected"}, nil }}
	config := f.config()
	config.Socket = filepath.Join(dir, "control.sock")
	serveControl(t, config)
	text, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Skip("this program cannot be read")
	}
	program := filepath.Join(dir, "test")
	if err := os.WriteFile(program, text, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), program, "-test.run=^TestAUserWithoutRightsIsToldSo$", "-test.v")
	cmd.Dir = dir
	cmd.Env = []string{"PENSTOCK_TEST_SOCKET=" + config.Socket}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "--- PASS") {
		t.Errorf("as another user: %v\n%s", err, out)
	}
}
