package gateway

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"penstock/cmd/internal/config"
)

// fakeFolders looks like a word, and is read when it says something else than what is in force.
type fakeFolders struct {
	mu            sync.Mutex // guards below
	word, inForce string
	reads         int
	err           error
	asked         []time.Time // for peers that have expired
}

func (f *fakeFolders) Look() (now config.Seen, changed bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return config.Seen{"peers.d/*.yaml": f.word}, f.word != f.inForce
}

func (f *fakeFolders) Read(context.Context) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.reads++
	if f.err == nil {
		f.inForce = f.word
	}
	return f.err
}

func (f *fakeFolders) Expire(now time.Time) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked = append(f.asked, now)
	return nil
}

func TestWatchReadsWhatHasChangedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeFolders{word: "a", inForce: "a"}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() {
			done <- Watch{Every: time.Second, Folders: f, Log: slog.New(slog.DiscardHandler)}.Run(ctx)
		}()
		time.Sleep(500 * time.Millisecond) // between two looks, from now on
		for _, row := range []struct {
			sentence string
			word     string
			err      error
			looks    int
			want     int // reads so far
		}{
			{"what is in force is not read", "a", nil, 3, 0},
			{"what has just changed is not read", "b", nil, 1, 0},
			{"what changes again is not read", "c", nil, 1, 0},
			{"what stays is read once", "c", nil, 5, 1},
			{"what cannot be put in force is tried once", "d", errors.New("no"), 5, 2},
			{"and again when it looks different", "e", nil, 5, 3},
			{"what is put back before it is read is not read", "f", nil, 1, 3},
			{"nor afterwards", "e", nil, 3, 3},
		} {
			f.mu.Lock()
			f.word, f.err = row.word, row.err
			f.mu.Unlock()
			time.Sleep(time.Duration(row.looks) * time.Second)
			synctest.Wait()
			if f.reads != row.want {
				t.Errorf("%s: got %d reads, want %d", row.sentence, f.reads, row.want)
			}
		}
		if n := len(f.asked); n != 24 || !f.asked[n-1].After(f.asked[0]) {
			t.Errorf("got %d questions for peers that have expired, want one at each of 24 looks", n)
		}
		cancel()
		if err := <-done; err != nil {
			t.Errorf("got %v when it was stopped", err)
		}
	})
}
