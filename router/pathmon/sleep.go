package pathmon

import (
	"context"
	"log/slog"
	"time"
)

const (
	tick = 5 * time.Second
	jump = 7500 * time.Millisecond // more than this between two ticks was sleep, or a process that was stopped
)

// SleepConfig configures a Sleep. Run's goroutine calls its functions, which must not block.
type SleepConfig struct {
	// Sleeping, if set, is called when the system announces sleep. The wall clock cannot do that.
	Sleeping func()
	// Woke is called after a sleep of about slept, at most.
	Woke func(slept time.Duration)
	// Now is the wall clock. Nil means time.Now.
	Now func() time.Time
	// Log may be nil.
	Log *slog.Logger
}

// Sleep notices when the machine sleeps and wakes, from jumps of the wall clock and from logind, where it runs.
type Sleep struct {
	SleepConfig
	last   time.Time // the last reading of the clock, without the monotonic part, which stops during sleep
	asleep bool      // the system has announced sleep, and not yet that it woke
	missed time.Duration
}

// NewSleep makes a Sleep. Nothing happens before Run. Woke must be set.
func NewSleep(c SleepConfig) *Sleep {
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Sleeping == nil {
		c.Sleeping = func() {}
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return &Sleep{SleepConfig: c}
}

// Run reports sleep until ctx ends, and then returns nil. Without logind it uses the clock alone.
func (s *Sleep) Run(ctx context.Context) error {
	l, err := listenLogind()
	if err != nil {
		s.Log.Debug("logind is not available: sleep is noticed by the clock", "err", err)
	} else {
		defer l.close()
	}
	s.watch(ctx, l.prepare)
	return nil
}

// watch reads the clock and listens to the system: true announces sleep, false means that it woke.
func (s *Sleep) watch(ctx context.Context, prepare <-chan bool) {
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	s.last = s.now()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			s.looked()
		case sleeping, ok := <-prepare:
			if !ok {
				prepare = nil // the bus is gone; the clock is left
				continue
			}
			s.told(sleeping)
		}
	}
}

func (s *Sleep) now() time.Time { return s.Now().Round(0) }

// looked compares the wall clock with its last reading. After an announced sleep it waits for the system to say that it
// woke, but not longer than a tick: that message may never come.
func (s *Sleep) looked() {
	now := s.now()
	d := now.Sub(s.last)
	s.last = now
	switch {
	case d > jump && s.asleep:
		s.missed += d
	case d > jump:
		s.woke(d)
	case s.asleep && s.missed > 0:
		s.woke(s.missed)
	}
}

// told handles a message of the system.
func (s *Sleep) told(sleeping bool) {
	now := s.now()
	if sleeping {
		s.asleep, s.missed, s.last = true, 0, now
		s.Sleeping()
		return
	}
	d := s.missed + max(now.Sub(s.last), 0)
	s.last = now
	s.woke(d)
}

func (s *Sleep) woke(d time.Duration) {
	s.asleep, s.missed = false, 0
	s.Woke(d)
}
