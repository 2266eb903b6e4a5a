package main

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
)

func TestWhatCannotBeInterruptedIsLeftAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		release := make(chan struct{})
		defer close(release)
		done := make(chan error, 1)
		go func() {
			_, err := interruptible(ctx, func() (int, error) { <-release; return 1, nil })
			done <- err
		}()
		synctest.Wait()
		stop()
		if err := <-done; err == nil || err.Error() != "interrupted" {
			t.Errorf("got %v, want an error at once", err)
		}
	})
	if n, err := interruptible(t.Context(), func() (int, error) { return 7, nil }); n != 7 || err != nil {
		t.Errorf("got %d, %v; want the result", n, err)
	}
	fault := errors.New("a fault")
	if _, err := interruptible(t.Context(), func() (int, error) { return 0, fault }); !errors.Is(err, fault) {
		t.Errorf("got %v, want the error", err)
	}
}
