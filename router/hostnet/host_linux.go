package hostnet

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
)

// Host is the host side of one penstock, from Open to Close. Its methods may be called concurrently.
type Host struct {
	cfg    Config
	kernel *kernel

	mu       sync.Mutex // guards below
	journal  *journal
	settings Settings
	applied  []change     // nil before Apply
	without  map[any]bool // keys of changes that this kernel cannot bear
	closed   bool
}

// Open takes the state file, or returns ErrInUse, wrapped, if another process has it. It changes
// nothing. What a killed predecessor left in place stays in place, so that nothing leaks until Apply
// takes it over; Close without Apply undoes it.
func Open(c Config) (*Host, error) { return open(c, nil) }

// open is Open with a hook that is called before each change.
func open(c Config, before func(string)) (*Host, error) {
	c, err := c.withDefaults()
	if err != nil {
		return nil, err
	}
	k, err := newKernel()
	if err != nil {
		return nil, err
	}
	k.before = before
	j, err := openJournal(c.StateFile)
	if err != nil {
		k.close()
		return nil, err
	}
	if len(j.entries) > 0 {
		c.Log.Info("taking over what a predecessor left", "changes", len(j.entries))
	}
	return &Host{cfg: c, kernel: k, journal: j, without: make(map[any]bool)}, nil
}

// Apply makes the host look like the settings, and undoes what earlier settings, or a killed
// predecessor, made beyond them. It is all or nothing: after an error the host is as before the call,
// except that a lockdown of the settings before, or of the predecessor, is never opened by it.
// The TUN must exist if the settings need one.
func (h *Host) Apply(ctx context.Context, s Settings) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return ErrClosed
	}
	if err := s.check(); err != nil {
		return err
	}
	v := newView(h.kernel)
	f, err := gather(v, h.cfg.Interface)
	if err != nil {
		return err
	}
	if f.link == nil && s.needTUN() {
		return fmt.Errorf("hostnet: interface %s does not exist", h.cfg.Interface)
	}
	if err := conflicts(v, h.cfg, s, f); err != nil {
		return err
	}
	s.Resolver = chooseResolver(h.kernel, h.cfg, s)
	resolver, err := planResolver(h.cfg, s, f)
	if err != nil {
		return err
	}
	clear(h.without)
	plan := append(planKernel(h.cfg, s, f), resolver...)
	if err := h.reconcileLocked(ctx, v, plan, true); err != nil {
		return err
	}
	h.settings = s
	h.cfg.Log.Info("host configured", "capture", s.Capture, "lockdown", s.Lockdown, "dns", s.DNS)
	return nil
}

// Block closes the host as the settings say before there is a TUN: the nftables set alone. Called at
// early boot, and followed by Release, it holds until a later process applies or closes.
func (h *Host) Block(ctx context.Context, s Settings) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return ErrClosed
	}
	if err := s.check(); err != nil {
		return err
	}
	v := newView(h.kernel)
	f, err := gather(v, h.cfg.Interface)
	if err != nil {
		return err
	}
	return h.reconcileLocked(ctx, v, []change{planFilter(h.cfg, s, f)}, false)
}

// OriginalResolvers returns the servers that the host asked before us, or would ask without us. A
// stub on this machine is replaced by the servers behind it. Never our own; none if none is known.
func (h *Host) OriginalResolvers(context.Context) ([]netip.Addr, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return nil, ErrClosed
	}
	content, err := h.originalLocked()
	if err != nil {
		return nil, err
	}
	index := 0
	if link, err := h.kernel.nl.LinkByName(h.cfg.Interface); err == nil {
		index = link.Attrs().Index
	}
	return originalResolvers(h.kernel, content, index, h.settings.DNS), nil
}

// Release gives the state file back and leaves the host as it is, for the next process to take over.
func (h *Host) Release() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return nil
	}
	h.closed = true
	h.kernel.close()
	return h.journal.close()
}

// Close undoes everything, lockdown included. What could not be undone is in the error and stays in
// the journal, for Cleanup to try again. It is idempotent.
func (h *Host) Close() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return nil
	}
	h.closed = true
	defer h.kernel.close()
	return errors.Join(undoJournal(h.kernel, h.journal, h.cfg.Log), h.journal.close())
}

// Cleanup undoes what a process that did not Close left behind, by its journal. It returns ErrInUse,
// wrapped, while that process lives. Nothing left behind is no error. log may be nil.
func Cleanup(stateFile string, log *slog.Logger) error {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	if !exists(stateFile) && !exists(stateFile+".lock") {
		return nil
	}
	k, err := newKernel()
	if err != nil {
		return err
	}
	defer k.close()
	j, err := openJournal(stateFile)
	if err != nil {
		return err
	}
	return errors.Join(undoJournal(k, j, log), j.close())
}

func undoJournal(k *kernel, j *journal, log *slog.Logger) error {
	if len(j.entries) == 0 {
		return nil
	}
	left, err := undoAll(k, j.entries, log)
	if err == nil {
		log.Info("host restored", "changes", len(j.entries))
	}
	return errors.Join(err, j.save(left))
}

// reconcileLocked makes what of the plan is missing, after it stands in the journal. With replace it
// then undoes what is in the journal and not in the plan. After an error what this pass added is
// undone again, and what it changed is as the plan before had it.
func (h *Host) reconcileLocked(ctx context.Context, v *view, plan []change, replace bool) error {
	before := h.journal.entries
	plan, missing := h.compareLocked(v, plan)
	if err := h.recordLocked(plan); err != nil {
		return err
	}
	for i, c := range missing {
		err := ctx.Err()
		if err == nil {
			err = h.makeLocked(c)
		}
		if err != nil {
			made := missing[:i]
			if !errors.Is(err, fs.ErrPermission) { // which is refused as a whole, and refuses the undo too
				made = missing[:i+1]
			}
			return errors.Join(fmt.Errorf("hostnet: %s: %w", c, err), h.rollbackLocked(before, made))
		}
	}
	if !replace {
		return nil
	}
	h.applied = plan
	if err := h.undoStaleLocked(plan); err != nil {
		h.cfg.Log.Warn("something of before is still in place, Watch tries again", "err", err)
	}
	return nil
}

// compareLocked returns the plan with what earlier changes remember, without what was there before us
// and what this kernel cannot bear, and those of it that are missing. What cannot be looked at counts
// as missing: making it says why.
func (h *Host) compareLocked(v *view, plan []change) (kept, missing []change) {
	for _, c := range plan {
		if h.without[c.key()] {
			continue
		}
		earlier := h.journal.find(c.key())
		if a, ok := c.(adopter); ok && earlier != nil {
			c = a.adopt(earlier)
		}
		there, err := c.present(v)
		if err != nil {
			h.cfg.Log.Debug("cannot look at the host", "change", c.String(), "err", err)
		}
		if there && earlier == nil && !bearsOurName(c) {
			continue
		}
		if !there {
			missing = append(missing, c)
		}
		kept = append(kept, c)
	}
	return kept, missing
}

// bearsOurName reports whether a change that is in place, but not in the journal, is still ours: the
// protocol of routes and rules and the name of the table tell, an address or a parameter does not.
func bearsOurName(c change) bool {
	switch c.stage() {
	case stageNft, stageRoute, stageRule:
		return true
	}
	return false
}

// recordLocked adds the plan to the journal, if anything is new.
func (h *Host) recordLocked(plan []change) error {
	entries := slices.Clone(h.journal.entries)
	dirty := false
	for _, c := range plan {
		at := slices.IndexFunc(entries, func(e entry) bool { return e.change().key() == c.key() })
		if at < 0 {
			entries = append(entries, c.entry())
			dirty = true
			continue
		}
		if r, ok := c.(*resolvConf); ok && !r.sameOriginal(entries[at].ResolvConf) {
			dirty = true
		}
		entries[at] = c.entry()
	}
	if !dirty {
		return nil
	}
	return h.journal.save(entries)
}

func (h *Host) makeLocked(c change) error {
	if h.kernel.before != nil {
		h.kernel.before("make " + c.String())
	}
	err := c.make(h.kernel)
	if b, ok := c.(bearer); ok && err != nil && b.bearable(err) {
		h.without[c.key()] = true
		h.cfg.Log.Warn("this system does not offer it, going on without", "change", c.String(), "err", err)
		return nil
	}
	return err
}

// rollbackLocked undoes what was made and is not in the journal of before, and makes again what was
// applied.
func (h *Host) rollbackLocked(before []entry, made []change) error {
	var added []entry
	for _, c := range made {
		if !inEntries(before, c.key()) {
			added = append(added, c.entry())
		}
	}
	left, err := undoAll(h.kernel, added, h.cfg.Log)
	err = errors.Join(err, h.journal.save(append(slices.Clone(before), left...)))
	v := newView(h.kernel)
	for _, c := range h.applied {
		there, presentErr := c.present(v)
		if presentErr == nil && !there {
			presentErr = h.makeLocked(c)
		}
		err = errors.Join(err, presentErr)
	}
	return err
}

// undoStaleLocked undoes what is in the journal and not in the plan.
func (h *Host) undoStaleLocked(plan []change) error {
	var current, stale []entry
	for _, e := range h.journal.entries {
		key := e.change().key()
		if slices.ContainsFunc(plan, func(c change) bool { return c.key() == key }) {
			current = append(current, e)
		} else {
			stale = append(stale, e)
		}
	}
	if len(stale) == 0 {
		return nil
	}
	left, err := undoAll(h.kernel, stale, h.cfg.Log)
	return errors.Join(err, h.journal.save(append(current, left...)))
}
