package health

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// world says which targets there are and what a dial of each finds.
type world struct {
	mu      sync.Mutex // guards below
	targets []string
	found   map[string]error
	hangs   string // a target whose dial never ends by itself
	told    int    // how often a change was told
}

func (w *world) dial(ctx context.Context, target string) error {
	w.mu.Lock()
	hangs, err := target == w.hangs, w.found[target]
	w.mu.Unlock()
	if hangs {
		<-ctx.Done()
		return ctx.Err()
	}
	return err
}

func (w *world) names() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.targets
}

func (w *world) tell() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.told++
}

func TestReadyIsWhereAllTargetsAreReached(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{targets: []string{"a:1", "b:2"}, found: map[string]error{}}
		h := New(Config{
			Targets: w.names, Dial: w.dial, Changed: w.tell, Log: slog.New(slog.DiscardHandler),
		})
		if err := h.Err(); err == nil || !strings.Contains(err.Error(), "not been dialled yet") {
			t.Errorf("before the first dial: got %v, want not ready", err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		over := make(chan error, 1)
		go func() { over <- h.Run(ctx) }()
		time.Sleep(patience + time.Second) // between two looks, from now on
		synctest.Wait()
		no := errors.New("no route")
		for _, row := range []struct {
			sentence string
			targets  []string
			b        error
			hangs    string
			want     string
			told     int
		}{
			{"both are reached", []string{"a:1", "b:2"}, nil, "", "", 1},
			{"one is not", []string{"a:1", "b:2"}, no, "", "health target b:2 is not reached: no route", 2},
			{"it still is not", []string{"a:1", "b:2"}, no, "", "health target b:2 is not reached: no route", 2},
			{"one does not answer, the other is reached again", []string{"a:1", "b:2"}, nil, "a:1", "health target a:1 is not reached: no answer within 5s", 3},
			{"the configuration leaves it out", []string{"b:2"}, nil, "a:1", "", 3},
			{"a new one is not reached", []string{"c:3", "b:2"}, nil, "c:3", "health target c:3 is not reached: no answer within 5s", 4},
			{"there are none", nil, nil, "", "", 4},
		} {
			w.mu.Lock()
			w.targets, w.hangs, w.found["b:2"] = row.targets, row.hangs, row.b
			w.mu.Unlock()
			time.Sleep(Every)
			synctest.Wait()
			got := ""
			if err := h.Err(); err != nil {
				got = err.Error()
			}
			if got != row.want || w.told != row.told {
				t.Errorf("%s: got %q and %d changes told, want %q and %d", row.sentence, got, w.told, row.want, row.told)
			}
			var names []string
			for _, target := range h.Last() {
				names = append(names, target.Name)
			}
			if !slices.Equal(names, row.targets) {
				t.Errorf("%s: got targets %q, want %q", row.sentence, names, row.targets)
			}
		}
		cancel()
		if err := <-over; err != nil {
			t.Errorf("stopped: got %v", err)
		}
	})
}

func TestSinceIsWhenItChanged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{targets: []string{"a:1"}, found: map[string]error{}}
		h := New(Config{Targets: w.names, Dial: w.dial, Changed: func() {}, Log: slog.New(slog.DiscardHandler)})
		start := time.Now()
		for _, row := range []struct {
			err  error
			want time.Duration
		}{{nil, 0}, {nil, 0}, {errors.New("no"), 2 * time.Second}, {errors.New("another"), 2 * time.Second}, {nil, 4 * time.Second}} {
			w.found["a:1"] = row.err
			h.look(t.Context())
			if got := h.Last()[0]; got.Since.Sub(start) != row.want || !errors.Is(got.Err, row.err) {
				t.Errorf("got %+v, want since %v", got, row.want)
			}
			time.Sleep(time.Second)
		}
	})
}
