package gateway

import (
	"context"
	"log/slog"
	"maps"
	"time"

	"penstock/cmd/internal/config"
)

// Folders are the folders with the files of peers.
type Folders interface {
	// Look returns what the folders look like now, and whether that differs from what is in force.
	Look() (now config.Seen, changed bool)
	// Read puts in force what the files say.
	Read(context.Context) error
	// Expire lets go of peers that may no longer connect at a time.
	Expire(now time.Time) error
}

// lookShare is how much longer than a look the pause after it is at least. 100,000 files take 0.3 s to look at.
const lookShare = 20

// Watch lets go of peers that expire, and reads files of peers that have changed. It waits until they look the same twice, because
// somebody may be writing them. What it could not read, it reads again when it looks different.
type Watch struct {
	Every   time.Duration // between two looks
	Folders Folders
	Log     *slog.Logger
}

// Run watches until ctx ends. It returns nil.
func (w Watch) Run(ctx context.Context) error {
	tick := time.NewTicker(w.Every)
	defer tick.Stop()
	var last, refused config.Seen
	var rest time.Time // until when the folders are not looked at
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if err := w.Folders.Expire(time.Now()); err != nil {
			w.Log.Error("peers that have expired may still be connected", "err", err)
		}
		began := time.Now()
		if began.Before(rest) {
			continue
		}
		now, changed := w.Folders.Look()
		rest = time.Now().Add(lookShare * time.Since(began))
		if changed && maps.Equal(now, last) && !maps.Equal(now, refused) {
			if err := w.Folders.Read(ctx); err != nil {
				refused = now
				w.Log.Error("files of peers have changed, and cannot be put in force; the previous peers stay", "err", err)
			}
		}
		last = now
	}
}
