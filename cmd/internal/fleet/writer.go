package fleet

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"penstock/cmd/internal/fleet/store"
)

const (
	writeAtOnce   = 32               // values on the way to the store, at most
	writePatience = 5 * time.Second  // for one of them
	writePause    = time.Second      // after one that could not be written, more or less by half
	longestPause  = 16 * time.Second // to which it doubles, as long as that goes on
)

// writer writes values of a bucket in the background. Of a key that changes faster than the store takes it, the newest value counts.
type writer struct {
	store  store.Store
	bucket store.Bucket
	log    *slog.Logger
	wake   chan struct{} // capacity 1

	mu        sync.Mutex // guards below
	waiting   map[string][]byte
	forbidden bool // it has been told
}

func newWriter(s store.Store, bucket store.Bucket, log *slog.Logger) *writer {
	return &writer{store: s, bucket: bucket, log: log, wake: make(chan struct{}, 1), waiting: make(map[string][]byte)}
}

// put writes a value soon, or removes the key if there is none. It does not wait.
func (w *writer) put(key string, value []byte) {
	w.mu.Lock()
	w.waiting[key] = value
	w.mu.Unlock()
	tell(w.wake)
}

// run writes until ctx ends. A store that comes back is written to by all gateways at once: those that it does not answer in time
// write less at once, and later.
func (w *writer) run(ctx context.Context) {
	atOnce, pause := writeAtOnce, writePause
	for {
		select {
		case <-ctx.Done():
			return
		case <-w.wake:
		}
		for batch := w.take(atOnce); len(batch) > 0; batch = w.take(atOnce) {
			if w.write(ctx, batch) {
				atOnce, pause = min(atOnce+1, writeAtOnce), writePause
				continue
			}
			select {
			case <-ctx.Done():
				return
			case <-time.After(pause/2 + rand.N(pause)):
			}
			atOnce, pause = max(atOnce/2, 1), min(2*pause, longestPause)
		}
	}
}

// take takes some of the values that wait.
func (w *writer) take(most int) map[string][]byte {
	w.mu.Lock()
	defer w.mu.Unlock()
	batch := make(map[string][]byte, most)
	for key, value := range w.waiting {
		if len(batch) == most {
			break
		}
		batch[key] = value
		delete(w.waiting, key)
	}
	return batch
}

// write writes values, and puts back those that could not be written. It reports whether all were.
func (w *writer) write(ctx context.Context, batch map[string][]byte) bool {
	ctx, cancel := context.WithTimeout(ctx, writePatience)
	defer cancel()
	var wg sync.WaitGroup
	complete := true
	for key, value := range batch {
		wg.Go(func() {
			_, err := w.store.Put(ctx, w.bucket, key, value, store.Any)
			if err == nil || value == nil && errors.Is(err, store.ErrNone) {
				return
			}
			w.mu.Lock()
			defer w.mu.Unlock()
			if errors.Is(err, store.ErrForbidden) { // it would be forbidden again
				if !w.forbidden {
					w.log.Error("the store of the fleet takes nothing from this gateway: its peers cannot be taken over", "bucket", w.bucket, "err", err)
				}
				w.forbidden = true
				return
			}
			complete = false
			if _, newer := w.waiting[key]; !newer {
				w.waiting[key] = value
			}
		})
	}
	wg.Wait()
	return complete
}

// tell leaves a signal in a channel of capacity 1, unless there is one.
func tell(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
