package fleet

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"strconv"
	"sync"
	"time"

	"penstock/cmd/internal/fleet/store"
	"penstock/router/transport/wireguard"
)

const (
	writePatience = 5 * time.Second  // for a block
	writePause    = time.Second      // after one that could not be written, more or less by half
	longestPause  = 16 * time.Second // to which it doubles, as long as that goes on
)

// writer writes blocks of sessions in the background, one at a time, so that the store has them in their order. What waits is gathered:
// of a peer whose session changes faster than the store takes it, the newest record counts.
type writer struct {
	store  store.Store
	prefix string // of the names of blocks
	number uint64 // of the last block; run alone uses it
	log    *slog.Logger
	wake   chan struct{} // capacity 1

	mu        sync.Mutex // guards below
	waiting   map[wireguard.PublicKey]dated
	forbidden bool // it has been told
}

// dated is a record, and when its age was right.
type dated struct {
	record
	at time.Time
}

func newWriter(s store.Store, prefix string, log *slog.Logger) *writer {
	return &writer{store: s, prefix: prefix, log: log, wake: make(chan struct{}, 1), waiting: make(map[wireguard.PublicKey]dated)}
}

// put writes a record soon. It does not wait.
func (w *writer) put(peer wireguard.PublicKey, r record) {
	w.mu.Lock()
	w.waiting[peer] = dated{r, time.Now()}
	w.mu.Unlock()
	tell(w.wake)
}

// run writes until ctx ends. A store that comes back is written to by all gateways at once: those that it does not answer in time wait
// longer each time.
func (w *writer) run(ctx context.Context) {
	pause := writePause
	for {
		select {
		case <-ctx.Done():
			return
		case <-w.wake:
		}
		for batch := w.take(mostInBlock); len(batch) > 0; batch = w.take(mostInBlock) {
			if w.write(ctx, batch) {
				pause = writePause
				continue
			}
			select {
			case <-ctx.Done():
				return
			case <-time.After(pause/2 + rand.N(pause)):
			}
			pause = min(2*pause, longestPause)
		}
	}
}

// take takes some of the records that wait.
func (w *writer) take(most int) map[wireguard.PublicKey]dated {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.waiting) <= most {
		all := w.waiting
		w.waiting = make(map[wireguard.PublicKey]dated)
		return all
	}
	batch := make(map[wireguard.PublicKey]dated, most)
	for peer, r := range w.waiting {
		if len(batch) == most {
			break
		}
		batch[peer] = r
		delete(w.waiting, peer)
	}
	return batch
}

// write writes a block. It reports whether that is done; if not, the records wait again.
func (w *writer) write(ctx context.Context, batch map[wireguard.PublicKey]dated) bool {
	ctx, cancel := context.WithTimeout(ctx, writePatience)
	defer cancel()
	now, block := time.Now(), append(make([]byte, 0, 1+len(batch)*blockEntry), blockFormat)
	for peer, r := range batch {
		r.Age += now.Sub(r.at)
		block = appendRecord(block, peer, r.record)
	}
	w.number++
	_, err := w.store.Put(ctx, store.Sessions, w.prefix+"-"+strconv.FormatUint(w.number, 10), block, store.Any)
	if err == nil {
		return true
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if errors.Is(err, store.ErrForbidden) { // it would be forbidden again
		if !w.forbidden {
			w.log.Error("the store of the fleet takes nothing from this gateway: its peers cannot be taken over", "bucket", store.Sessions, "err", err)
		}
		w.forbidden = true
		return true
	}
	for peer, r := range batch {
		if _, newer := w.waiting[peer]; !newer {
			w.waiting[peer] = r
		}
	}
	return false
}

// tell leaves a signal in a channel of capacity 1, unless there is one.
func tell(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
