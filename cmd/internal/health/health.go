// Package health finds out whether targets can be reached that must be, for penstock to count as ready.
//
// It does not know how they are dialled, and does not end flows or change routes when they are not reached.
package health

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"
)

const (
	// Every is the time between two dials of a target.
	Every = 10 * time.Second
	// patience is how long a dial may take. A lost SYN is repeated twice in this time (RFC 6298: after 1 s and 3 s).
	patience = 5 * time.Second
)

// Config is what New needs. All fields must be set.
type Config struct {
	// Targets returns the targets, host:port. They may change.
	Targets func() []string
	// Dial returns nil if a target can be reached.
	Dial func(ctx context.Context, target string) error
	// Changed is called when a target is reached that was not, or the other way round.
	Changed func()
	Log     *slog.Logger
}

// Target is what the last dial of a target found.
type Target struct {
	Name  string
	Err   error     // nil: it was reached
	Since time.Time // of Err being nil, or not
}

// Targets dials targets. It is safe for concurrent use.
type Targets struct {
	Config

	mu     sync.Mutex // guards below
	looked bool
	last   []Target
}

// New returns Targets that dial nothing before Run.
func New(c Config) *Targets { return &Targets{Config: c} }

// Run dials all targets again and again until ctx ends. It returns nil.
func (t *Targets) Run(ctx context.Context) error {
	tick := time.NewTicker(Every)
	defer tick.Stop()
	for {
		t.look(ctx)
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// look dials all targets at once.
func (t *Targets) look(ctx context.Context) {
	names := t.Config.Targets()
	found := make([]Target, len(names))
	var wg sync.WaitGroup
	for i, name := range names {
		wg.Go(func() {
			ctx, cancel := context.WithTimeoutCause(ctx, patience, fmt.Errorf("no answer within %v", patience))
			defer cancel()
			err := t.Dial(ctx, name)
			if err != nil && ctx.Err() != nil {
				err = context.Cause(ctx)
			}
			found[i] = Target{name, err, time.Now()}
		})
	}
	wg.Wait()
	if ctx.Err() == nil {
		t.note(found)
	}
}

// note keeps what a look found and tells what has changed.
func (t *Targets) note(found []Target) {
	t.mu.Lock()
	changed := !t.looked
	for i, now := range found {
		j := slices.IndexFunc(t.last, func(before Target) bool { return before.Name == now.Name })
		switch {
		case j >= 0 && (t.last[j].Err == nil) == (now.Err == nil):
			found[i].Since = t.last[j].Since
			continue
		case now.Err != nil:
			t.Log.Warn("a health target is not reached: penstock is not ready", "target", now.Name, "err", now.Err)
		case j >= 0:
			t.Log.Info("a health target is reached again", "target", now.Name)
		}
		changed = true
	}
	t.looked, t.last = true, found
	t.mu.Unlock()
	if changed {
		t.Changed()
	}
}

// Last returns what the last look found, in the order of the targets.
func (t *Targets) Last() []Target {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Clone(t.last)
}

// Err returns nil if all targets were reached when they were last dialled, and otherwise why not. A target that is new is
// left out until it has been dialled.
func (t *Targets) Err() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.looked && len(t.Config.Targets()) > 0 {
		return errors.New("health targets have not been dialled yet")
	}
	for _, target := range t.last {
		if target.Err != nil {
			return fmt.Errorf("health target %s is not reached: %w", target.Name, target.Err)
		}
	}
	return nil
}
