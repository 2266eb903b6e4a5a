package filelock

import (
	"context"
	"errors"
	"path/filepath"
	"testing"
	"time"
)

func TestOneAtATime(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	unlock, err := Open(t.Context(), path, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*pause)
	defer cancel()
	if _, err := Open(ctx, path, 0o600); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("while somebody has the lock: got %v, want to wait until the context ends", err)
	}
	time.AfterFunc(5*pause, unlock)
	again, err := Open(t.Context(), path, 0o600)
	if err != nil {
		t.Fatalf("after it was given back: %v", err)
	}
	again()
}
