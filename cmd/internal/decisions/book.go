package decisions

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"penstock/cmd/internal/config"
	"penstock/cmd/internal/control"
	"penstock/cmd/internal/edition"
	"penstock/policy"
	"penstock/router"
)

const (
	maxPause = time.Hour
	// leastKept is how much time must be left of a decision for it to be written.
	leastKept = time.Minute
	// look is how often the file is looked at.
	look = time.Second
)

// Flows is the table of live flows.
type Flows interface {
	Rejudge(facts func(*policy.Flow) bool, decide func(policy.Flow) policy.Verdict) []router.Change
	Kill(match func(router.Flow) bool) int
}

// Config is what a Book needs. All fields must be set, except Registry.
type Config struct {
	Live     *edition.Live
	Flows    Flows
	Log      *slog.Logger
	Registry prometheus.Registerer // nil: no metrics
}

// Book is the decisions of a running penstock. It implements control.DecisionBook.
type Book struct {
	Config

	file    *file // nil: none is kept
	changed chan struct{}

	told atomic.Pointer[state] // for those who only want to know, and do not wait for a file

	mu    sync.Mutex // guards below, and is held while the file is read or written
	state state
}

// state is what is decided. Its slices are never changed, only replaced.
type state struct {
	written []entry // in force, of the file
	memory  []entry // in force, and lost at a restart: pauses, what ends soon, and what could not be written
	fault   error   // of the file
}

func (s *state) all() []entry { return slices.Concat(s.written, s.memory) }

// entry is a decision and who made it.
type entry struct {
	policy.Decision
	by string
	// ends is Until by the clock that nobody sets, of what was decided since the start: a clock that is set back makes nothing last
	// longer. Zero: Until alone counts.
	ends time.Time
}

func (e entry) isOver(now time.Time) bool {
	return !e.Always && (!e.Until.After(now) || !e.ends.IsZero() && !e.ends.After(now))
}

// Open reads the managed file of the current configuration, and puts its decisions in force. A fault in the file is no error.
func Open(c Config) *Book {
	b := &Book{Config: c, changed: make(chan struct{}, 1)}
	if cfg := c.Live.Config(); cfg.Managed != "" {
		b.file = &file{path: cfg.Managed, state: cfg.StateDir}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.readLocked()
	b.useLocked(time.Now())
	if c.Registry != nil {
		c.Registry.MustRegister(
			gauge("penstock_decisions_bad_file", "1 if the managed file of decisions has a fault, so that nothing that it allows is allowed, else 0.", b.Trouble),
			gauge("penstock_filter_paused", "1 while the filter is paused, for everyone or for a peer, else 0.", b.Pauses),
		)
	}
	return b
}

// gauge is 1 while there is a text.
func gauge(name, help string, text func() string) prometheus.Collector {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 {
		if text() != "" {
			return 1
		}
		return 0
	})
}

// Run ends decisions when their time is over, and follows changes of the file, until ctx ends.
func (b *Book) Run(ctx context.Context) error {
	tick := time.NewTicker(look)
	defer tick.Stop()
	end := time.NewTimer(0)
	defer end.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		case <-b.changed:
		case <-end.C:
		}
		b.mu.Lock()
		b.followLocked()
		next := b.expireLocked(time.Now())
		b.mu.Unlock()
		wait := time.Hour // so that a change of the clock is noticed
		if !next.IsZero() {
			wait = min(wait, max(time.Until(next), 0))
		}
		end.Reset(wait)
	}
}

// followLocked puts in force what somebody has changed in the file by hand.
func (b *Book) followLocked() {
	if b.file.hasChanged() {
		b.readLocked()
		b.useLocked(time.Now())
	}
}

// readLocked takes over what the file holds now.
func (b *Book) readLocked() {
	if b.file == nil {
		return
	}
	list, err := b.file.read()
	switch {
	case err != nil && (b.state.fault == nil || b.state.fault.Error() != err.Error()):
		b.Log.Error("the file of decisions has a fault: its blocks stay as they were, and nothing that it allows is allowed", "err", err)
	case err == nil && b.state.fault != nil:
		b.Log.Info("the file of decisions is good again", "file", b.file.path, "decisions", len(list))
	}
	if b.state.fault = err; err == nil {
		b.adoptLocked(list)
		return
	}
	if b.state.written == nil {
		b.state.written = b.file.lastGood()
	}
	b.state.written = without(b.state.written, func(e entry) bool { return !e.Block })
}

// expireLocked removes decisions whose time is over. next is when the next one is; zero: never.
func (b *Book) expireLocked(now time.Time) (next time.Time) {
	over := false
	for _, e := range b.state.all() {
		switch {
		case e.Always:
		case e.isOver(now):
			over = true
			b.Log.Info("a decision is over", "decision", e.ID())
		case next.IsZero() || e.Until.Before(next):
			next = e.Until
		}
	}
	if over {
		b.useLocked(now)
	}
	return next
}

// without returns a copy of a list without some of its entries. It is not nil.
func without(list []entry, gone func(entry) bool) []entry {
	out := make([]entry, 0, len(list))
	for _, e := range list {
		if !gone(e) {
			out = append(out, e)
		}
	}
	return out
}

// useLocked puts the decisions in force whose time is not over, and resets the flows that were let pass and would now be refused.
// It returns how many there were.
func (b *Book) useLocked(now time.Time) (ended int) {
	over := func(e entry) bool { return e.isOver(now) }
	b.state.written, b.state.memory = without(b.state.written, over), without(b.state.memory, over)
	told := b.state
	b.told.Store(&told)
	var list []policy.Decision
	for _, e := range b.state.all() {
		list = append(list, e.Decision)
	}
	old := b.Live.Now().Policy.Decisions()
	if slices.Equal(old, list) {
		return 0
	}
	then := now // when all of the old ones were in force
	for _, d := range old {
		if !d.Always && !d.Until.After(now) && d.Until.Before(then.Add(time.Nanosecond)) {
			then = d.Until.Add(-time.Nanosecond)
		}
	}
	before := b.Live.SetDecisions(list)
	return b.end(before, then)
}

// end resets the live flows that a policy let pass at a time and the current one refuses. It returns how many there were.
func (b *Book) end(before *policy.Policy, then time.Time) int {
	now := b.Live.Now().Policy
	doomed := make(map[uint64]bool)
	changed := b.Flows.Rejudge(func(f *policy.Flow) bool {
		f.Now = b.Live.Conditions()
		return b.Live.Describe(f)
	}, now.Decide)
	for _, c := range changed {
		if c.Flow.Verdict.Action != policy.Forward || c.Now.Action == policy.Forward {
			continue
		}
		facts := c.Flow.Facts
		b.Live.Describe(&facts) // its peer may be in other groups by now
		facts.Sniffed, facts.Time, facts.Now = true, then, b.Live.Conditions()
		doomed[c.Flow.ID] = before.Decide(facts).Action == policy.Forward
	}
	n := b.Flows.Kill(func(f router.Flow) bool { return doomed[f.ID] })
	b.Log.Info("other decisions are in force", "decisions", len(now.Decisions()), "generation", now.Edition(), "ended", n)
	return n
}

// Trouble says what is wrong with the managed file, in one line; "" if nothing is.
func (b *Book) Trouble() string {
	if b == nil {
		return ""
	}
	fault := b.told.Load().fault
	if fault == nil {
		return ""
	}
	first, _, _ := strings.Cut(fault.Error(), "\n")
	return "the file of decisions has a fault, and nothing that it allows is allowed: " + first
}

// PausedUntil returns the end of the pause for everyone; zero: there is none.
func (b *Book) PausedUntil() (until time.Time) {
	for _, e := range b.pauses() {
		if e.Peer == "" {
			until = e.Until
		}
	}
	return until
}

// Pauses says until when the filter is paused, and for whom; "" if it is not.
func (b *Book) Pauses() string {
	var texts []string
	for _, e := range b.pauses() {
		text := "until " + e.Until.Local().Format("15:04")
		if e.Peer != "" {
			text = "for " + e.Peer + " " + text
		}
		texts = append(texts, text)
	}
	return strings.Join(texts, ", ")
}

func (b *Book) pauses() (list []entry) {
	if b == nil {
		return nil
	}
	for _, e := range b.told.Load().memory {
		if e.Filter && time.Now().Before(e.Until) {
			list = append(list, e)
		}
	}
	return list
}

// Decisions returns what is decided, oldest first.
func (b *Book) Decisions(context.Context) (control.Decisions, error) {
	cfg := b.Live.Config()
	now := b.told.Load()
	var out control.Decisions
	if b.file != nil {
		out.File = b.file.path
	}
	if now.fault != nil {
		out.Fault = now.fault.Error()
	}
	for i, e := range now.all() {
		d := control.Decision{
			ID: e.ID(), Do: "allow", Target: e.Target(), Peer: e.Peer, Made: e.Made, By: e.by,
			Kept: i < len(now.written), Note: missing(cfg, e.Decision),
		}
		if e.Block {
			d.Do = "block"
		}
		if !e.Always {
			d.Until = e.Until
		}
		out.Decisions = append(out.Decisions, d)
	}
	slices.SortStableFunc(out.Decisions, func(a, b control.Decision) int { return a.Made.Compare(b.Made) })
	return out, nil
}

// missing says what a decision is about that the configuration does not have; "" if it has all.
func missing(cfg *config.Config, d policy.Decision) string {
	if d.Category != "" && !slices.Contains(edition.CategoryNames(cfg), d.Category) {
		return fmt.Sprintf("there is no category %q: a rule must name it, or categories", d.Category)
	}
	if d.Peer != "" && !cfg.Peers.Any(func(p config.Peer) bool { return p.Name == d.Peer }) {
		return fmt.Sprintf("there is no peer %q", d.Peer)
	}
	return ""
}

// wish is a decision that somebody wants to make.
type wish struct {
	target, peer string
	block        bool
	lasts        time.Duration
	always, dry  bool
}

// made is what became of a wish.
type made struct {
	entry
	file, diff, warning string
	ended               int
}

// Allow lets something through that rules block by name or category, or pauses all such rules.
func (b *Book) Allow(ctx context.Context, q control.AllowQuery) (control.Allowed, error) {
	m, err := b.make(ctx, wish{q.Target, q.Peer, false, q.For, q.Always, q.DryRun})
	if err != nil {
		return control.Allowed{}, err
	}
	return control.Allowed{
		ID: m.ID(), Target: m.Target(), Peer: m.Peer, Until: m.Until, File: m.file, Diff: m.diff, Warning: m.warning,
	}, nil
}

// Block blocks something before any rule is asked.
func (b *Book) Block(ctx context.Context, q control.BlockQuery) (control.Blocked, error) {
	m, err := b.make(ctx, wish{q.Target, q.Peer, true, q.For, q.Always, q.DryRun})
	if err != nil {
		return control.Blocked{}, err
	}
	return control.Blocked{
		ID: m.ID(), Target: m.Target(), Peer: m.Peer, Until: m.Until, File: m.file, Diff: m.diff, Warning: m.warning, Ended: m.ended,
	}, nil
}

// decision returns what a wish means now.
func (b *Book) decision(w wish) (policy.Decision, error) {
	d := policy.Decision{Block: w.block, Peer: w.peer, Always: w.always, Made: time.Now().Truncate(time.Second)}
	switch {
	case w.always && w.lasts != 0:
		return d, errors.New("for a while or always? choose one")
	case !w.always && w.lasts <= 0:
		return d, errors.New("for how long? give a time, or always")
	case !w.always:
		d.Until = time.Now().Add(w.lasts).Round(0)
	}
	category, isCategory := strings.CutPrefix(w.target, "category:")
	switch {
	case w.target == "filter":
		d.Filter = true
		switch {
		case w.block:
			return d, errors.New("the filter can be paused, not blocked: name a host or a category")
		case w.always || w.lasts > maxPause:
			return d, fmt.Errorf("a pause lasts at most %.0f minutes: to allow something for longer, name it", maxPause.Minutes())
		}
	case isCategory:
		d.Category = category
	default:
		host, err := policy.CanonicalName(w.target)
		if err != nil {
			return d, err
		}
		d.Name = host
	}
	if text := missing(b.Live.Config(), d); text != "" {
		return d, errors.New(text)
	}
	return d, nil
}

func (b *Book) make(ctx context.Context, w wish) (made, error) {
	d, err := b.decision(w)
	if err != nil {
		return made{}, err
	}
	by := control.Caller(ctx)
	m := made{entry: entry{Decision: d, by: strings.ToValidUTF8(by[:min(len(by), config.MaxDecidedBy)], "")}}
	if !d.Always {
		m.ends = time.Now().Add(w.lasts)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if d.Always && b.file == nil {
		return m, errors.New("there is no file for decisions that last: set managed or state_dir in the configuration, and restart penstock")
	}
	b.followLocked()
	replaced := slices.ContainsFunc(b.state.written, m.replaces)
	keep := d.Always || !d.Filter && b.file != nil && w.lasts > leastKept
	if keep {
		m.Until = m.Until.Truncate(time.Second) // as it is written
	}
	stands := slices.IndexFunc(b.state.written, func(e entry) bool { return e.ID() == m.ID() && e.Always && !m.Always })
	if stands >= 0 { // it is so already, always
		keep = false
	}
	if keep || replaced {
		err := b.writeLocked(ctx, &m, keep, w.dry)
		switch {
		case err == nil:
		case d.Always, replaced, errors.Is(err, errFull):
			return m, err
		default: // it can still do what was asked, until a restart
			m.warning = "a restart ends it: " + err.Error()
			keep = false
		}
	}
	if stands >= 0 {
		m.entry, m.file = b.state.written[stands], b.file.path
	}
	if w.dry {
		return m, nil
	}
	b.state.memory = without(b.state.memory, m.replaces)
	if !keep && stands < 0 {
		if len(b.state.memory)+len(b.state.written) >= config.MaxDecisions {
			return m, errFull
		}
		b.state.memory = append(b.state.memory, m.entry)
	}
	m.ended = b.useLocked(time.Now())
	b.wake()
	b.Log.Info("decided", "decision", m.ID(), "always", m.Always, "until", m.Until, "by", m.by, "kept", keep, "generation", b.Live.Now().Number)
	return m, nil
}

// writeLocked removes from the file what a decision replaces, and adds it if it is to be kept.
func (b *Book) writeLocked(ctx context.Context, m *made, keep, dry bool) error {
	c, err := b.file.change(ctx, dry, func(list []entry) (remove func(entry) bool, add []entry, err error) {
		now := time.Now()
		remove = func(e entry) bool { return m.replaces(e) || !e.Always && !e.Until.After(now) }
		if !keep {
			return remove, nil, nil
		}
		if len(without(list, remove))+len(b.state.memory) >= config.MaxDecisions {
			return nil, nil, errFull
		}
		return remove, []entry{m.entry}, nil
	})
	if err != nil {
		return err
	}
	m.diff = c.diff
	if keep {
		m.file = b.file.path
	}
	if !dry {
		b.adoptLocked(c.list, m.entry)
	}
	return nil
}

// adoptLocked takes over what the file holds, and when those of it end that were known already or are made now.
func (b *Book) adoptLocked(list []entry, made ...entry) {
	known := map[string]entry{}
	for _, e := range slices.Concat(b.state.written, made) {
		if !e.Always {
			known[e.ID()] = e
		}
	}
	for i, e := range list {
		if k := known[e.ID()]; !e.Always && k.Until.Equal(e.Until) {
			list[i].ends = k.ends
		}
	}
	b.state.written, b.state.fault = list, nil
}

func (b *Book) wake() {
	select {
	case b.changed <- struct{}{}:
	default:
	}
}

// errFull is returned beyond the most decisions.
var errFull = fmt.Errorf("there are %d decisions, and there may be no more: remove some with penstock decisions rm", config.MaxDecisions)

// replaces reports whether a decision that is made now takes the place of another one. One that ends leaves what is decided for
// always, which counts again then.
func (e entry) replaces(other entry) bool {
	return e.Target() == other.Target() && e.Peer == other.Peer && (e.Always || !other.Always)
}

// RemoveDecision takes a decision back.
func (b *Book) RemoveDecision(ctx context.Context, q control.DecisionRemoval) (control.DecisionRemoved, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.followLocked()
	e, err := b.find(q.ID)
	if err != nil {
		return control.DecisionRemoved{}, err
	}
	out := control.DecisionRemoved{ID: e.ID()}
	is := func(other entry) bool { return other.ID() == e.ID() && other.Always == e.Always }
	if slices.ContainsFunc(b.state.written, is) {
		c, err := b.file.change(ctx, q.DryRun, func([]entry) (func(entry) bool, []entry, error) { return is, nil, nil })
		if err != nil {
			return out, err
		}
		out.File, out.Diff = b.file.path, c.diff
		if !q.DryRun {
			b.adoptLocked(c.list)
		}
	}
	if q.DryRun {
		return out, nil
	}
	b.state.memory = without(b.state.memory, is)
	out.Ended = b.useLocked(time.Now())
	b.wake()
	b.Log.Info("decision removed", "decision", out.ID, "by", control.Caller(ctx), "generation", b.Live.Now().Number)
	return out, nil
}

// find returns the decision with an ID, or the only one about a target.
func (b *Book) find(id string) (entry, error) {
	var about []entry
	host, _ := policy.CanonicalName(id)
	for _, e := range b.state.all() {
		if e.ID() == id {
			return e, nil
		}
		if e.Target() == id || e.Name != "" && e.Name == host {
			about = append(about, e)
		}
	}
	switch len(about) {
	case 0:
		return entry{}, fmt.Errorf("there is no decision %q: see penstock decisions", id)
	case 1:
		return about[0], nil
	}
	var ids []string
	for _, e := range about {
		ids = append(ids, e.ID())
	}
	return entry{}, fmt.Errorf("there are several decisions about %s: name one of %s", id, strings.Join(ids, ", "))
}
