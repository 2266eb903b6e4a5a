package hostnet

import (
	"context"
	"errors"
	"fmt"
	"time"

	"penstock/router/hostnet/internal/rtnl"
)

// minGap is the least time between two looks that events cause: a routing daemon may write all the time.
const minGap = 100 * time.Millisecond

// Watch puts back what others remove and follows the connected networks until ctx ends. It then returns nil, or ErrClosed
// if the Host was closed first. It looks at the host after each event of the kernel, and once a second, because not
// everything has events. What cannot be put back is logged, reported to Config.Repaired and tried again. It does not make
// an interface again that is gone: see Config.Gone.
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
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(minGap - time.Since(last)):
			}
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
			h.cfg.Log.Warn("cannot put back what another program removed", "err", err)
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
	if h.settings.needTUN() && (f.link == nil || f.link.Index != h.index) {
		if h.index != 0 {
			h.goneLocked()
		}
		f.link = nil // one that Apply has not seen is not ours
	}
	resolver, failed := planResolver(h.cfg, h.settings, f)
	if failed != nil { // it cannot be read: keep the last plan
		for _, c := range h.applied {
			if c.stage() == stageResolver {
				resolver = append(resolver, c)
			}
		}
	}
	h.overlapLocked(findOverlap(h.settings, f))
	return errors.Join(failed, h.repairLocked(ctx, v, append(planKernel(h.cfg, h.settings, f), resolver...)))
}

// goneLocked reports, once, that the TUN is gone.
func (h *Host) goneLocked() {
	h.cfg.Log.Error("the TUN is gone: what it captured stays closed", "interface", h.cfg.Interface)
	h.index = 0
	if h.cfg.Gone != nil {
		h.cfg.Gone()
	}
}

// lostLocked reports whether the TUN that applied is about does not exist any more.
func (h *Host) lostLocked() bool {
	if h.index == 0 {
		return false
	}
	_, err := h.kernel.nl.LinkByIndex(h.index)
	return rtnl.IsNotFound(err)
}

// repairLocked makes what is missing of the plan. It goes on after an error, because the rest can still be put back.
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
		if err != nil && h.lostLocked() {
			h.goneLocked() // while we looked
			return nil
		}
		if err != nil {
			err = fmt.Errorf("hostnet: %s: %w", c, err)
		}
		again := inEntries(known, c.key()) // else it is new, such as a network that the host has just joined
		if err == nil && again {
			h.cfg.Log.Warn("put back what another program removed", "change", c.String())
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
