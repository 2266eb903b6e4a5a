package storetest

import (
	"context"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"

	"penstock/cmd/internal/fleet/store"
)

// Watched is what a Watch has said.
type Watched struct {
	prefix string
	cancel context.CancelFunc
	ended  chan struct{}
	err    error // once ended is closed

	mu       sync.Mutex // guards below
	entries  map[string]store.Entry
	complete int
}

// Watch watches until the test ends. If the store can no longer be watched, it starts over.
func Watch(t *testing.T, s store.Store, b store.Bucket, prefix string) *Watched {
	return watch(t, s, b, prefix, true)
}

// WatchOnce watches until the test ends, or the store can no longer be watched.
func WatchOnce(t *testing.T, s store.Store, b store.Bucket, prefix string) *Watched {
	return watch(t, s, b, prefix, false)
}

func watch(t *testing.T, s store.Store, b store.Bucket, prefix string, again bool) *Watched {
	ctx, cancel := context.WithCancel(t.Context())
	w := &Watched{prefix: prefix, cancel: cancel, ended: make(chan struct{}), entries: make(map[string]store.Entry)}
	go func() {
		defer close(w.ended)
		for {
			w.err = s.Watch(ctx, b, prefix, func(e store.Entry) { w.note(t, e) })
			if ctx.Err() != nil || !again {
				return
			}
			t.Logf("a watch of %s/%s starts over: %v", b, prefix, w.err)
			w.mu.Lock()
			w.entries, w.complete = make(map[string]store.Entry), 0
			w.mu.Unlock()
		}
	}()
	t.Cleanup(func() { w.End(t) })
	return w
}

func (w *Watched) note(t *testing.T, e store.Entry) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if e.Key == "" {
		w.complete++
		return
	}
	if e.Version <= w.entries[e.Key].Version {
		t.Errorf("a watch of %s: version %d of %s follows %d", w.prefix, e.Version, e.Key, w.entries[e.Key].Version)
	}
	w.entries[e.Key] = e
}

// End ends the watch, and returns its error.
func (w *Watched) End(t *testing.T) error {
	w.cancel()
	<-w.ended
	if w.complete > 1 {
		t.Errorf("a watch of %s has %d markers, want at most one", w.prefix, w.complete)
	}
	return w.err
}

// Ended tells whether the watch has ended by itself.
func (w *Watched) Ended() bool {
	select {
	case <-w.ended:
		return true
	default:
		return false
	}
}

// Complete tells whether the marker has come.
func (w *Watched) Complete() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.complete > 0
}

// Value returns the last value of a key, "" if there is none.
func (w *Watched) Value(key string) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return string(w.entries[key].Value)
}

// Version returns the version of the last entry of a key.
func (w *Watched) Version(key string) uint64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.entries[key].Version
}

// Keys returns all keys that have been told of.
func (w *Watched) Keys() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return strings.Join(slices.Sorted(maps.Keys(w.entries)), " ")
}

// Await waits until is.
func (w *Watched) Await(t *testing.T, what string, is func() bool) {
	t.Helper()
	await(t, what, is)
}
