package hostnet

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"penstock/router/hostnet/direct"
	"penstock/router/hostnet/firewall"
	"penstock/router/hostnet/resolver"
)

// Host is the host side of one penstock, from Open to Close. Its methods may be called concurrently.
type Host struct {
	cfg    Config
	kernel *kernel

	mu       sync.Mutex // guards below
	journal  *journal
	settings Settings
	applied  []change             // nil before Apply
	index    int                  // of the TUN that applied is about; 0 if it is about none, or that is gone
	overlap  *direct.OverlapError // that was reported last; nil: none
	without  lacks
	others   others
	failing  map[stage]string // what could not be put back, and why
	usual    unannounced      // as it was when Watch last looked at everything
	closed   bool

	Forwarding *Forwarding // what Settings.Forward has come to
}

// Open takes the state file, or returns ErrInUse, wrapped, if another process has it. It changes nothing. What a killed
// predecessor left stays in place, so that nothing leaks until Apply takes it over. Close without Apply undoes it.
func Open(c Config) (*Host, error) { return open(c, nil) }

// open is Open with a hook that runs before each change.
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
	j, err := openOrSalvage(c.StateFile, k, c.Log, c.Gateway)
	if err != nil {
		k.close()
		return nil, err
	}
	if c.Gateway {
		j.closed = nil
	}
	if len(j.entries) > 0 {
		c.Log.Info("taking over the changes of a penstock that did not stop properly", "changes", len(j.entries))
	}
	return &Host{cfg: c, kernel: k, journal: j, without: make(map[any]bool), failing: make(map[stage]string), Forwarding: &Forwarding{tun: c.Interface, beside: c.Beside, mark: c.Mark}}, nil
}

// Apply configures the host as the settings say, and undoes what earlier settings or a killed predecessor made beyond
// them. It is all or nothing: after an error the host is as before the call, except that Apply never opens an earlier
// lockdown. The TUN must exist if the settings need one; it may be another one than before.
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
	if err := takenByOthers(v, h.cfg, s, f, h.journal.entries); err != nil {
		return err
	}
	h.others.update(v, h.cfg, &f)
	s.Resolver = chooseResolver(h.kernel, h.cfg, s)
	ofResolver, err := planResolver(h.cfg, s, f)
	if err != nil {
		return err
	}
	clear(h.without)
	before, closed := h.journal.closed, closureOf(h.cfg, s)
	if closed != nil {
		if err := h.journal.setClosed(closed); err != nil {
			return err
		}
	}
	plan := append(planKernel(h.cfg, s, f, h.journal.entries), ofResolver...)
	if err := h.reconcileLocked(ctx, v, plan, true); err != nil {
		err = errors.Join(err, h.journal.setClosed(before))
		if before != nil && h.applied == nil { // Block or an earlier process closed the host: rollback does not put that table back
			_, closeErr := keepClosed(h.kernel, h.journal)
			err = errors.Join(err, closeErr)
		}
		return err
	}
	if closed == nil { // last, so that a lockdown is never lifted by settings that fail
		if err := h.journal.setClosed(nil); err != nil {
			return err
		}
	}
	h.settings, h.index, h.usual = s, 0, unannounced{} // Watch looks at everything once
	if f.link != nil && s.needTUN() {
		h.index = f.link.Index
	}
	if err := h.Forwarding.see(v, s, f, h.index != 0); err != nil {
		h.cfg.Log.Warn("cannot see all of how the host forwards", "err", err)
	}
	h.overlapLocked(findOverlap(s, f))
	failed := make(map[stage]error)
	if err := h.blindLocked(); err != nil {
		failed[stageResolver] = err
	}
	h.tellLocked(failed, nil)
	h.cfg.Log.Info("host configured", "capture", s.Capture, "lockdown", s.Lockdown, "dns", s.DNS, "forward", s.Forward)
	return nil
}

// Overlap returns how a network of the TUN overlaps one that the host is connected to at the moment, as an
// *direct.OverlapError, or nil. It looks at the addresses of the last Apply.
func (h *Host) Overlap(context.Context) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return ErrClosed
	}
	f, err := gather(newView(h.kernel), h.cfg.Interface)
	if err != nil {
		return err
	}
	if o := findOverlap(h.settings, f); o != nil {
		return o
	}
	return nil
}

// overlapLocked reports an overlap if it is another one than before.
func (h *Host) overlapLocked(now *direct.OverlapError) {
	before := h.overlap
	if now == before || now != nil && before != nil && now.Own == before.Own && now.Network == before.Network && now.Interface == before.Interface {
		return
	}
	h.overlap = now
	if h.cfg.Overlap != nil {
		h.cfg.Overlap(now)
	}
}

// Block closes the host as the settings say before there is a TUN, with the nftables table alone. Called at early boot and
// followed by Release, it holds until a later process applies. It fails if another penstock carries the host's packets, which the
// table would stop.
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
	if err := besideAnother(v, h.cfg, h.journal.entries); err != nil {
		return err
	}
	table := planFilter(h.cfg, s, f)
	if closed := closureOf(h.cfg, s); closed != nil {
		if err := h.journal.setClosed(closed); err != nil {
			// Such as on a full disk. The host closes all the same: salvage finds the table by its name.
			return errors.Join(err, table.make(h.kernel))
		}
	}
	return h.reconcileLocked(ctx, v, []change{table}, false)
}

// Release gives up the state file and leaves the host as it is, for the next process to take over.
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

// Closed reports whether lockdown is in force.
func (h *Host) Closed() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.journal.closed != nil
}

// Close undoes everything, but under lockdown it leaves the host closed: see Lift. What could not be undone is in the error and
// stays in the journal, so that Cleanup can try again. It is idempotent.
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

// Cleanup undoes what a process that did not Close left behind, as its journal says, but under lockdown it leaves the host
// closed. It reports whether it is. It returns ErrInUse, wrapped, while that process lives, and nil if nothing was left behind.
// log may be nil.
func Cleanup(stateFile string, log *slog.Logger) (closed bool, err error) {
	err = withJournal(stateFile, log, false, func(k *kernel, j *journal, log *slog.Logger) error {
		closed = j.closed != nil
		return undoJournal(k, j, log)
	})
	return closed, err
}

// Restore closes the host again if lockdown was in force when this or an earlier boot last changed it, and reports whether it
// was. It is for early boot: it needs no configuration, and no state file that can be written. It returns ErrInUse, wrapped, while
// a penstock runs. log may be nil.
func Restore(stateFile string, log *slog.Logger) (closed bool, err error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	err = withJournal(stateFile, log, false, func(k *kernel, j *journal, _ *slog.Logger) error {
		if j.closed == nil {
			return nil
		}
		closed = true
		_, err := keepClosed(k, j)
		return err
	})
	if err == nil || errors.Is(err, ErrInUse) {
		return closed, err
	}
	c := lastClosure(stateFile)
	if c == nil {
		return false, err
	}
	if failed := seal(c); failed != nil {
		return false, errors.Join(err, failed)
	}
	log.Error("the state file cannot be used: the host is closed all the same", "err", err)
	return true, nil
}

// Seal closes the host as the settings say, with the nftables table alone, although the state file cannot be used: with a full or
// read-only disk, for example. No state file knows of that table. A later Apply takes it over. It does nothing where another
// penstock carries the host's packets: that one closes the host, if it should be closed.
func Seal(c Config, s Settings) error {
	c, err := c.withDefaults()
	if err != nil {
		return err
	}
	closed := closureOf(c, s)
	if closed == nil {
		return nil
	}
	k, err := newKernel()
	if err != nil {
		return err
	}
	defer k.close()
	if besideAnother(newView(k), c, nil) != nil {
		return nil
	}
	_, err = closed.put(k)
	return err
}

// seal puts the table that closes the host into the kernel.
func seal(c *closure) error {
	k, err := newKernel()
	if err != nil {
		return err
	}
	defer k.close()
	_, err = c.put(k)
	return err
}

// Lift ends lockdown, and undoes everything that a process left behind. It reports whether lockdown was in force. It returns
// ErrInUse, wrapped, while a penstock runs. log may be nil.
func Lift(stateFile string, log *slog.Logger) (closed bool, err error) {
	err = withJournal(stateFile, log, false, func(k *kernel, j *journal, log *slog.Logger) error {
		closed = j.closed != nil
		if err := j.setClosed(nil); err != nil {
			return err
		}
		return undoJournal(k, j, log)
	})
	return closed, err
}

// CleanupForwarding is Cleanup for the state file of a Host with Config.Gateway. It needs no state file: it also undoes what the tables
// in the kernel show of a penstock that does not run.
func CleanupForwarding(stateFile string, log *slog.Logger) error {
	return withJournal(stateFile, log, true, func(k *kernel, j *journal, log *slog.Logger) error {
		if err := j.setClosed(nil); err != nil { // an earlier version may have taken a damaged file for that of a closed laptop
			return err
		}
		return undoJournal(k, j, log)
	})
}

// IsClosed reports whether lockdown is in force: recorded is what the state file says, and table is the nftables table that closes
// the host, "" if there is none. It does not need the lock.
func IsClosed(stateFile string) (recorded bool, table string, err error) {
	j := &journal{path: stateFile}
	if err := j.load(); err != nil {
		return false, "", err
	}
	tables, err := firewall.Tables()
	if err != nil {
		return false, "", fmt.Errorf("hostnet: list nftables: %w", err)
	}
	for _, t := range tables {
		if t.Lockdown {
			table = t.Name
		}
	}
	return j.closed != nil, table, nil
}

// withJournal calls f with the journal of a state file, if there is one, or if salvageOwn, with gateway salvageForwarding, finds something.
func withJournal(stateFile string, log *slog.Logger, gateway bool, f func(*kernel, *journal, *slog.Logger) error) error {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	lost := !exists(stateFile) && !exists(stateFile+".lock")
	k, err := newKernel()
	if err != nil {
		return err
	}
	defer k.close()
	if lost {
		var found []entry
		if gateway {
			found, err = salvageForwarding(newView(k))
		} else {
			found, _, err = salvageOwn(newView(k), stateFile, slog.New(slog.DiscardHandler))
		}
		if errors.Is(err, fs.ErrPermission) || err == nil && len(found) == 0 {
			return nil
		}
		if err == nil {
			err = os.MkdirAll(filepath.Dir(stateFile), 0o700)
		}
		if err != nil {
			return err
		}
	}
	j, err := openOrSalvage(stateFile, k, log, gateway)
	if err != nil {
		return err
	}
	return errors.Join(f(k, j, log), j.close())
}

// undoJournal undoes all changes. Under lockdown the table that closes the host takes the place of the one that also let the
// TUN's packets through, before the rest is undone.
func undoJournal(k *kernel, j *journal, log *slog.Logger) error {
	entries := j.entries
	if j.closed != nil {
		table, err := keepClosed(k, j)
		if err != nil {
			return err
		}
		entries = slices.DeleteFunc(slices.Clone(j.entries), func(e entry) bool { return e.change().key() == table.key() })
	}
	if len(entries) == 0 {
		return nil
	}
	left, err := undoAll(k, entries, log)
	if err == nil {
		log.Info("host restored", "changes", len(entries))
	}
	kept := slices.DeleteFunc(slices.Clone(j.entries), func(e entry) bool { return inEntries(entries, e.change().key()) })
	return errors.Join(err, j.save(append(kept, left...)))
}

// keepClosed puts the table that closes the host, as the journal says, into the kernel and into the journal.
func keepClosed(k *kernel, j *journal) (*nftTable, error) {
	table, err := j.closed.put(k)
	if err != nil || inEntries(j.entries, table.key()) {
		return table, err
	}
	return table, j.save(append(slices.Clone(j.entries), entryOf(table)))
}

// reconcileLocked writes the plan to the journal and makes what is missing of it. With replace it then undoes what is in
// the journal and not in the plan. After an error it undoes what it added and restores what it changed.
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
			if !errors.Is(err, fs.ErrPermission) { // a permission is refused as a whole, and for the undo too
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
		h.cfg.Log.Warn("an earlier change could not be undone: Watch tries again", "err", err)
	}
	return nil
}

// compareLocked returns what to keep of the plan, and what of that is missing. It leaves out what was there before us and
// what this host does not offer, and adds what earlier changes remember. What cannot be looked at counts as missing: making
// it says why.
func (h *Host) compareLocked(v *view, plan []change) (kept, missing []change) {
	known := indexOf(h.journal.entries)
	for _, c := range plan {
		key := c.key()
		if h.without.has(c) {
			continue
		}
		var earlier change
		if at, ok := known[key]; ok {
			earlier = h.journal.entries[at].change()
		}
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

// lacks are changes that this host does not offer, by their keys. They are true for those that it may offer later.
type lacks map[any]bool

// has reports whether the host does not offer a change. It forgets that of a resolver file that has been made writable since.
func (l lacks) has(c change) bool {
	later, lacking := l[c.key()]
	if r, ok := c.(*resolvConf); ok && later && resolver.IsWritable(r.Path) {
		delete(l, c.key())
		return false
	}
	return lacking
}

// bearsOurName reports whether a change that is in place but not in the journal must be ours: routes and rules have our
// protocol and the table has our name, but an address or a sysctl could be anyone's.
func bearsOurName(c change) bool {
	switch c.stage() {
	case stageNft, stageRoute, stageRule:
		return true
	}
	return false
}

// recordLocked adds the plan to the journal if anything in it is new.
func (h *Host) recordLocked(plan []change) error {
	entries := slices.Clone(h.journal.entries)
	known := indexOf(entries)
	dirty := false
	for _, c := range plan {
		key := c.key()
		at, ok := known[key]
		if !ok {
			known[key] = len(entries)
			entries = append(entries, entryOf(c))
			dirty = true
			continue
		}
		if r, ok := c.(*resolvConf); ok && !r.SameOriginal(entries[at].ResolvConf) {
			dirty = true
		}
		entries[at] = entryOf(c)
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
	d, ok := c.(dispenser)
	if !ok || err == nil || !d.dispensable(err) {
		return err
	}
	r, isResolver := c.(*resolvConf)
	h.without[c.key()] = isResolver && !resolver.IsWritable(r.Path) // else what refuses it does not show in the file
	warning := fmt.Errorf("this host does not offer %s: %w: penstock goes on without it", c, err)
	if isResolver {
		warning = r.warning(err)
	}
	if h.cfg.Warning != nil {
		h.cfg.Warning(warning)
	}
	return nil
}

// rollbackLocked undoes what was made and was not in the journal before, and makes again what was applied before.
func (h *Host) rollbackLocked(before []entry, made []change) error {
	var added []entry
	for _, c := range made {
		if !inEntries(before, c.key()) {
			added = append(added, entryOf(c))
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

// undoStaleLocked undoes what is in the journal but not in the plan.
func (h *Host) undoStaleLocked(plan []change) error {
	planned := make(map[any]bool, len(plan))
	for _, c := range plan {
		planned[c.key()] = true
	}
	var current, stale []entry
	for _, e := range h.journal.entries {
		if planned[e.change().key()] {
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
