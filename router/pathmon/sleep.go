package pathmon

import (
	"context"
	"log/slog"
	"time"
)

const (
	tick = 5 * time.Second
	jump = 7500 * time.Millisecond // more than this between two ticks was sleep, or a stopped process
)

// SleepConfig says who is told of sleep. Both functions are called by Run's goroutine and must not block.
type SleepConfig struct {
	// Sleeping, if set, is called when the system says that it is about to sleep. The wall clock cannot know that.
	Sleeping func()
	// Woke is called after a sleep that took at most about slept.
	Woke func(slept time.Duration)
	// Now is the wall clock. Nil means time.Now.
	Now func() time.Time
	// Log may be nil.
	Log *slog.Logger
}

// Sleep notices when the machine sleeps and wakes: by the wall clock, which jumps, and by logind where there is one.
type Sleep struct {
	SleepConfig
	last   time.Time // when the clock was looked at last, without its monotonic reading: that one stands still in sleep
	asleep bool      // the system said that it would sleep, and not yet that it woke
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

// Run tells of sleep until ctx ends, and then returns nil. A system without logind is none the worse.
func (s *Sleep) Run(ctx context.Context) error {
	l, err := listenLogind()
	if err != nil {
		s.Log.Debug("the system does not tell of sleep: the clock does", "err", err)
	} else {
		defer l.close()
	}
	s.watch(ctx, l.prepare)
	return nil
}

// watch looks at the clock and listens to the system: true means that it is about to sleep, false that it woke.
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
				prepare = nil // the bus is gone: the clock remains
				continue
			}
			s.told(sleeping)
		}
	}
}

func (s *Sleep) now() time.Time { return s.Now().Round(0) }

// looked compares the wall clock with the last look. While the system is known to sleep its own word is waited for, but
// not for longer than a tick: it may never come.
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

// told takes the system's word.
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
