package hostnet

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"penstock/router/hostnet/internal/rtnl"
	"penstock/router/hostnet/resolver"
)

const (
	// minGap is the least time between two looks at everything that events cause: a routing daemon may write all the time.
	minGap = 100 * time.Millisecond
	// settleTime is how long after an event the ticks look at everything. The kernel announces that a link goes down before it
	// removes the link's routes, and does not announce those.
	settleTime = 3 * time.Second
	// lookAnyway is the longest time between two looks at everything, should an event be missing.
	lookAnyway = time.Minute
)

// Watch puts back what others remove and follows the connected networks until ctx ends. It then returns nil, or ErrClosed
// if the Host was closed first. It looks at the host after each event of the kernel. Once a second it looks at what has no
// events, and at everything while the host changes or something is still to be put back. What cannot be put back is logged,
// reported to Config.Repaired and tried again. It does not make an interface again that is gone: see Config.Gone.
func (h *Host) Watch(ctx context.Context) error {
	events, err := listenAll()
	if err != nil {
		return fmt.Errorf("hostnet: listen for changes: %w", err)
	}
	defer events.close()
	h.kernel.resolved.Notify(events.changed)
	defer h.kernel.resolved.Notify(nil)

	slow := time.NewTicker(repairWithin)
	defer slow.Stop()
	var last, lastEvent time.Time
	var lastErr string
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-slow.C:
			due := !events.complete || time.Since(lastEvent) < settleTime || time.Since(last) >= lookAnyway
			if !due && lastErr == "" && h.asUsual() {
				continue
			}
		case <-events.changed:
			lastEvent = time.Now()
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
			h.cfg.Log.Warn("cannot look after the host's settings; trying again", "err", err)
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
	usual := lookUnannounced(h.cfg, h.applied) // first: what changes while we look is found by the next look
	v := newView(h.kernel)
	f, err := gather(v, h.cfg.Interface)
	if err != nil {
		return err
	}
	h.usual = usual
	if h.settings.needTUN() && (f.link == nil || f.link.Index != h.index) {
		if h.index != 0 {
			h.goneLocked()
		}
		f.link = nil // one that Apply has not seen is not ours
	}
	settings, failed := planResolver(h.cfg, h.settings, f)
	if failed != nil { // it cannot be read: keep the last plan
		for _, c := range h.applied {
			if c.stage() == stageResolver {
				settings = append(settings, c)
			}
		}
	}
	h.others.update(v, h.cfg, &f)
	h.overlapLocked(findOverlap(h.settings, f))
	err = h.repairLocked(ctx, v, append(planKernel(h.cfg, h.settings, f, h.journal.entries), settings...))
	err = errors.Join(err, h.Forwarding.see(v, h.settings, f, h.index != 0 && h.failing[stageNft] == ""))
	return errors.Join(failed, err)
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

// repairLocked makes what is missing of the plan. It goes on after an error, because the rest can still be put back. If the journal cannot
// be written, such as on a full disk, it makes what could be undone all the same.
func (h *Host) repairLocked(ctx context.Context, v *view, plan []change) error {
	known := h.journal.entries
	plan, missing := h.compareLocked(v, plan)
	failed := make(map[stage]error)
	unwritten := h.recordLocked(plan)
	if unwritten != nil {
		plan = slices.DeleteFunc(plan, func(c change) bool { return !bearsOurName(c) && !inEntries(known, c.key()) })
		missing = slices.DeleteFunc(missing, func(c change) bool {
			if h.journal.canUndo(c) {
				return false
			}
			failed[c.stage()] = errors.Join(failed[c.stage()], fmt.Errorf("%s: %w", c, unwritten))
			return true
		})
	}
	if err := h.blindLocked(); err != nil {
		failed[stageResolver] = errors.Join(failed[stageResolver], err)
	}
	var removed []change // by others, and put back
	for _, c := range missing {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if h.settings.Forward && failed[stageNft] != nil && c.stage() == stageSysctl {
			continue
		}
		err := h.makeLocked(c)
		if err != nil && h.lostLocked() {
			h.goneLocked() // while we looked
			return nil
		}
		_, without := h.without[c.key()]
		switch {
		case err != nil:
			failed[c.stage()] = errors.Join(failed[c.stage()], fmt.Errorf("%s: %w", c, err))
		case without: // it was not put back, and a warning said so
		case inEntries(known, c.key()) && !isRevised(c, h.applied): // else it is new, such as a network that the host has just joined
			removed = append(removed, c)
		}
	}
	h.tellLocked(failed, removed)
	h.applied = plan
	if h.settings.Forward && failed[stageNft] != nil {
		h.applied = withoutForwarding(plan)
	}
	if err := h.undoStaleLocked(h.applied); unwritten == nil {
		return err
	}
	return unwritten // which undoStaleLocked met as well
}

// isRevised reports whether a change is other than what was applied, so that nobody else removed it: the table names the networks
// that the host is connected to, for example.
func isRevised(c change, applied []change) bool {
	r, ok := c.(reviser)
	return ok && slices.ContainsFunc(applied, func(a change) bool { return a.key() == c.key() && r.revises(a) })
}

// tellLocked reports what could not be put back, if that is news, and what could.
func (h *Host) tellLocked(failed map[stage]error, removed []change) {
	for s := stageNft; s <= stageResolver; s++ {
		err, before := failed[s], h.failing[s]
		switch {
		case err != nil && err.Error() != before:
			h.failing[s] = err.Error()
			h.cfg.Log.Error("cannot put back a setting of the host; trying again", "what", s.String(), "err", err)
			h.repaired(s, err)
		case err == nil && before != "":
			delete(h.failing, s)
			h.cfg.Log.Info("put back a setting of the host", "what", s.String())
			h.repaired(s, nil)
		case err == nil:
			for _, c := range removed {
				if c.stage() == s {
					h.cfg.Log.Warn("put back what another program removed", "change", c.String())
					h.repaired(s, nil)
				}
			}
		}
	}
}

// blindLocked returns why no name resolves, if the resolver file could not be changed and leads programs nowhere.
func (h *Host) blindLocked() error {
	for key := range h.without {
		if path, ok := key.(resolvConfKey); ok && !resolver.LeadsOut(string(path)) {
			return fmt.Errorf("resolver file %s cannot be changed and names no server outside this machine, so no name resolves: "+
				"make it writable, or write a server into it, such as nameserver %s", path, h.settings.DNS[0])
		}
	}
	return nil
}

func (h *Host) repaired(s stage, err error) {
	if h.cfg.Repaired != nil {
		h.cfg.Repaired(s.String(), err)
	}
}
