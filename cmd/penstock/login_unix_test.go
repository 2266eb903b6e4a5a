//go:build unix

package main

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// TestABrowserIsNotWaitedFor: penstock login goes on while a browser that it has started is open.
func TestABrowserIsNotWaitedFor(t *testing.T) {
	pid := filepath.Join(t.TempDir(), "pid")
	if err := launch(t.Context(), "sh", "-c", `echo $$ >"$0"; exec sleep 20`, pid); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(pid)
	if err != nil {
		t.Fatal(err)
	}
	browser, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(browser, syscall.SIGTERM); err != nil { // it is open until then
		t.Errorf("the browser is closed: %v", err)
	}
	if err := launch(t.Context(), "sh", "-c", "exit 3"); err == nil {
		t.Error("a browser that cannot be started is no error")
	}
}
