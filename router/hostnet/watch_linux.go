package hostnet

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// minGap is the least time between two looks that events cause: a routing daemon may write all day.
const minGap = 100 * time.Millisecond

// Watch puts back what others remove, and follows the connected networks, until ctx is over; it then
// returns nil, or ErrClosed when the Host is closed first. It looks when the kernel tells of a change,
// and once a second for what it does not tell of. Our own writes cause a look that finds nothing
// amiss. What cannot be put back is logged, told to Config.Repaired and tried again.
func (h *Host) Watch(ctx context.Context) error {
	events, err := listenAll()
	if err != nil {
		return fmt.Errorf("hostnet: listen for changes: %w", err)
	}
	defer events.close()

	slow := time.NewTicker(repairWithin)
	defer slow.Stop()
	var last time.Time
	var lastErr string
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-slow.C:
		case <-events.changed:
			pause(ctx, minGap-time.Since(last))
		}
		err := h.repair(ctx)
		last = time.Now()
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, ErrClosed):
			return err
		case err == nil:
			lastErr = ""
		case err.Error() != lastErr:
			lastErr = err.Error()
			h.cfg.Log.Warn("cannot put back what others removed", "err", err)
		}
	}
}

// repair is one look at everything.
func (h *Host) repair(ctx context.Context) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return ErrClosed
	}
	if h.applied == nil {
		return nil
	}
	v := newView(h.kernel)
	f, err := gather(v, h.cfg.Interface)
	if err != nil {
		return err
	}
	resolver, failed := planResolver(h.cfg, h.settings, f)
	if failed != nil { // unreadable: stay with what was planned
		for _, c := range h.applied {
			if c.stage() == stageResolver {
				resolver = append(resolver, c)
			}
		}
	}
	if f.link == nil && h.settings.needTUN() {
		missing := fmt.Errorf("hostnet: interface %s is gone", h.cfg.Interface)
		h.repaired(stageLink, missing)
		failed = errors.Join(failed, missing)
	}
	return errors.Join(failed, h.repairLocked(ctx, v, append(planKernel(h.cfg, h.settings, f), resolver...)))
}

// repairLocked goes on after an error: one thing that cannot be put back is no reason to leave others.
func (h *Host) repairLocked(ctx context.Context, v *view, plan []change) error {
	known := h.journal.entries
	plan, missing := h.compareLocked(v, plan)
	if err := h.recordLocked(plan); err != nil {
		return err
	}
	var failed error
	for _, c := range missing {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		err := h.makeLocked(c)
		if err != nil {
			err = fmt.Errorf("hostnet: %s: %w", c, err)
		}
		again := inEntries(known, c.key()) // else it is new: a network that has just come
		if err == nil && again {
			h.cfg.Log.Warn("put back what others removed", "change", c.String())
		}
		if err != nil || again {
			h.repaired(c.stage(), err)
		}
		failed = errors.Join(failed, err)
	}
	h.applied = plan
	return errors.Join(failed, h.undoStaleLocked(plan))
}

func (h *Host) repaired(s stage, err error) {
	if h.cfg.Repaired != nil {
		h.cfg.Repaired(s.String(), err)
	}
}

// pause waits for d, if it is positive, or the end of ctx.
func pause(ctx context.Context, d time.Duration) {
	if d <= 0 {
		return
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}
