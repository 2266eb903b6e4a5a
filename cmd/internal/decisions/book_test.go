package decisions

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"penstock/cmd/internal/config"
	"penstock/cmd/internal/control"
	"penstock/cmd/internal/edition"
	"penstock/cmd/internal/lists"
	"penstock/policy"
	"penstock/router"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// table is a table of live flows.
type table struct {
	mu    sync.Mutex
	flows []router.Flow
}

func (t *table) Rejudge(facts func(*policy.Flow) bool, decide func(policy.Flow) policy.Verdict) (changed []router.Change) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, f := range t.flows {
		now := f.Facts
		now.Time, now.Sniffed = time.Now(), true
		facts(&now)
		if v := decide(now); v.Action != f.Verdict.Action || v.Egress != f.Verdict.Egress {
			changed = append(changed, router.Change{Flow: f, Now: v})
		}
	}
	return changed
}

func (t *table) Kill(match func(router.Flow) bool) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	before := len(t.flows)
	t.flows = slices.DeleteFunc(t.flows, match)
	return before - len(t.flows)
}

// live returns the hosts of the flows that are left.
func (t *table) live() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	var hosts []string
	for _, f := range t.flows {
		hosts = append(hosts, f.Facts.Names[0].Host)
	}
	return strings.Join(hosts, " ")
}

// place is a penstock in a folder.
type place struct {
	dir   string
	live  *edition.Live
	flows *table
	book  *Book
}

const text = `listen: {tun: {name: pen0, state_file: host.json}, proxy: {address: 127.0.0.1:1}}
peers: [{name: ana, proxy_password: {file: ana.password}}]
categories: {bets: {lists: [{file: bets.txt}]}}
dns: {upstreams: [{address: 192.0.2.53}]}
rules:
  - {name: no-bets, match: {category: bets}, do: block}
  - {name: no-lan, match: {cidr: private}, do: block}
  - {name: rest, do: direct}
`

func newPlace(t *testing.T) *place {
	t.Helper()
	p := &place{dir: t.TempDir()}
	for name, text := range map[string]string{"p.yaml": text, "bets.txt": "casino.example\nslots.example\n", "ana.password": "correct-horse\n"} {
		p.write(t, name, text)
	}
	p.start(t)
	return p
}

func (p *place) write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(p.dir, name), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func (p *place) file() string { return filepath.Join(p.dir, "decisions.yaml") }

func (p *place) read(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile(p.file())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return string(b)
}

// start starts it anew, without any memory.
func (p *place) start(t *testing.T) {
	t.Helper()
	cfg, err := config.Load(filepath.Join(p.dir, "p.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	p.live = edition.NewLive(lists.Config{Dir: p.dir})
	e, err := p.live.Compile(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	p.live.Use(e)
	p.flows = new(table)
	p.book = Open(Config{Live: p.live, Flows: p.flows, Log: slog.New(slog.DiscardHandler)})
}

// look does what Run does every second.
func (p *place) look() { p.lookAt(time.Now()) }

func (p *place) lookAt(now time.Time) {
	p.book.mu.Lock()
	defer p.book.mu.Unlock()
	p.book.followLocked()
	p.book.expireLocked(now)
}

func facts(host, peer string) policy.Flow {
	return policy.Flow{Network: policy.TCP, Peer: peer, Dst: netip.MustParseAddrPort("203.0.113.5:443"), Time: time.Now(), Sniffed: true, Names: []policy.Name{{Host: host, From: policy.FromDNS}}}
}

// reaches reports whether flows to a host pass.
func (p *place) reaches(host string) bool {
	return p.live.Decide(facts(host, "")).Action == policy.Forward
}

func (p *place) want(t *testing.T, when string, hosts map[string]bool) {
	t.Helper()
	for host, want := range hosts {
		if got := p.reaches(host); got != want {
			t.Errorf("%s: %s passes: got %v, want %v", when, host, got, want)
		}
	}
}

func (p *place) allow(t *testing.T, q control.AllowQuery) control.Allowed {
	t.Helper()
	a, err := p.book.Allow(control.As(t.Context(), "console", true), q)
	if err != nil {
		t.Fatalf("%+v: %v", q, err)
	}
	return a
}

func (p *place) block(t *testing.T, q control.BlockQuery) control.Blocked {
	t.Helper()
	b, err := p.book.Block(t.Context(), q)
	if err != nil {
		t.Fatalf("%+v: %v", q, err)
	}
	return b
}

func (p *place) ids(t *testing.T) string {
	t.Helper()
	d, err := p.book.Decisions(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var list []string
	for _, one := range d.Decisions {
		list = append(list, one.ID)
	}
	return strings.Join(list, " ")
}

func TestWhatSurvivesARestart(t *testing.T) {
	p := newPlace(t)
	if p.read(t) != "" {
		t.Error("there is a file before there is a decision")
	}
	p.allow(t, control.AllowQuery{Target: "Casino.example", Always: true})
	p.block(t, control.BlockQuery{Target: "shop.example", For: time.Hour})
	p.block(t, control.BlockQuery{Target: "short.example", For: time.Minute})
	p.allow(t, control.AllowQuery{Target: "filter", For: time.Hour})
	p.want(t, "while all are in force", map[string]bool{"casino.example": true, "slots.example": true, "shop.example": true})
	if got := p.book.PausedUntil(); time.Until(got) < 50*time.Minute || !strings.HasPrefix(p.book.Pauses(), "until ") {
		t.Errorf("paused until %v, %q", got, p.book.Pauses())
	}
	p.start(t)
	if got, want := p.ids(t), "allow:casino.example block:shop.example"; got != want {
		t.Errorf("after a restart: got %s, want %s", got, want)
	}
	p.want(t, "after a restart", map[string]bool{"casino.example": true, "slots.example": false, "shop.example": false, "short.example": true})
	d, _ := p.book.Decisions(t.Context())
	if one := d.Decisions[0]; one.By != "console" || time.Since(one.Made) > time.Hour || !one.Until.IsZero() || !one.Kept || d.File != p.file() {
		t.Errorf("got %+v of %s", one, d.File)
	}
}

func TestADecisionReplacesTheOneBefore(t *testing.T) {
	p := newPlace(t)
	for _, step := range []struct {
		block, always bool
		lasts         time.Duration
		want          string
		reached       bool
	}{
		{true, true, 0, "block:x.example", false},
		{false, false, time.Hour, "block:x.example allow:x.example", true},
		{false, false, time.Second * 30, "block:x.example allow:x.example", true},
		{true, false, time.Hour, "block:x.example", false}, // it is so always
		{false, true, 0, "allow:x.example", true},
		{true, false, 30 * time.Second, "allow:x.example block:x.example", false},
		{false, false, time.Hour, "allow:x.example", true},
		{true, true, 0, "block:x.example", false},
	} {
		if step.block {
			p.block(t, control.BlockQuery{Target: "x.example", Always: step.always, For: step.lasts})
		} else {
			p.allow(t, control.AllowQuery{Target: "x.example", Always: step.always, For: step.lasts})
		}
		if got := p.ids(t); got != step.want || p.reaches("x.example") != step.reached {
			t.Fatalf("%+v: got %s, it passes %v", step, got, p.reaches("x.example"))
		}
	}
}

func TestWhatIsRefused(t *testing.T) {
	p := newPlace(t)
	ctx := t.Context()
	for _, row := range []struct {
		name string
		q    control.AllowQuery
		want string
	}{
		{"a category that there is not", control.AllowQuery{Target: "category:betting", For: time.Hour}, `there is no category "betting"`},
		{"a name that is none", control.AllowQuery{Target: "a b", For: time.Hour}, "a b"},
		{"a peer that there is not", control.AllowQuery{Target: "casino.example", Peer: "dan", For: time.Hour}, `there is no peer "dan"`},
		{"no time", control.AllowQuery{Target: "casino.example"}, "for how long?"},
		{"a time that is over", control.AllowQuery{Target: "casino.example", For: -time.Hour}, "for how long?"},
		{"both", control.AllowQuery{Target: "casino.example", For: time.Hour, Always: true}, "choose one"},
		{"a long pause", control.AllowQuery{Target: "filter", For: time.Hour + 1}, "at most 60 minutes"},
		{"an endless pause", control.AllowQuery{Target: "filter", Always: true}, "at most 60 minutes"},
	} {
		if _, err := p.book.Allow(ctx, row.q); err == nil || !strings.Contains(err.Error(), row.want) {
			t.Errorf("%s: got %v, want %q", row.name, err, row.want)
		}
	}
	if _, err := p.book.Block(ctx, control.BlockQuery{Target: "filter", For: time.Hour}); err == nil {
		t.Error("the filter was blocked")
	}
	if _, err := p.book.RemoveDecision(ctx, control.DecisionRemoval{ID: "x.example"}); err == nil || !strings.Contains(err.Error(), `there is no decision "x.example"`) {
		t.Errorf("got %v", err)
	}
	if p.ids(t) != "" || p.live.Now().Number != 1 || p.read(t) != "" {
		t.Errorf("refused orders left %q, edition %d", p.ids(t), p.live.Now().Number)
	}
	p.book.file = nil
	if _, err := p.book.Allow(ctx, control.AllowQuery{Target: "casino.example", Always: true}); err == nil || !strings.Contains(err.Error(), "set managed") {
		t.Errorf("without a file: got %v", err)
	}
	p.allow(t, control.AllowQuery{Target: "casino.example", For: time.Hour})
	p.want(t, "without a file", map[string]bool{"casino.example": true})
}

func TestADryRunChangesNothing(t *testing.T) {
	p := newPlace(t)
	a := p.allow(t, control.AllowQuery{Target: "casino.example", Always: true, DryRun: true})
	if !strings.HasPrefix(a.Diff, "--- /dev/null\n+++ "+p.file()+"\n") || !strings.Contains(a.Diff, "\n+  - {allow: \"casino.example\", made: ") || a.File != p.file() {
		t.Errorf("got %+v", a)
	}
	entries, _ := os.ReadDir(p.dir)
	if len(entries) != 3 || p.reaches("casino.example") {
		t.Errorf("it left %v, and casino.example passes: %v", entries, p.reaches("casino.example"))
	}
	p.allow(t, control.AllowQuery{Target: "casino.example", Always: true})
	before := p.read(t)
	r, err := p.book.RemoveDecision(t.Context(), control.DecisionRemoval{ID: "CASINO.example", DryRun: true})
	if err != nil || !strings.Contains(r.Diff, "\n-  - {allow: \"casino.example\"") || p.read(t) != before || !p.reaches("casino.example") {
		t.Errorf("got %+v, %v", r, err)
	}
}

func TestFlowsThatADecisionLetPassEndWithIt(t *testing.T) {
	p := newPlace(t)
	open := func(hosts ...string) {
		p.flows.flows = nil
		for i, host := range hosts {
			f := facts(host, "")
			p.flows.flows = append(p.flows.flows, router.Flow{ID: uint64(i), Facts: f, Verdict: p.live.Decide(f)})
		}
	}
	open("a.example", "www.a.example", "b.example")
	if b := p.block(t, control.BlockQuery{Target: "a.example", Always: true}); b.Ended != 2 || p.flows.live() != "b.example" {
		t.Errorf("a block: ended %d, left %s", b.Ended, p.flows.live())
	}
	p.allow(t, control.AllowQuery{Target: "casino.example", For: time.Hour})
	open("casino.example", "b.example")
	if r, err := p.book.RemoveDecision(t.Context(), control.DecisionRemoval{ID: "allow:casino.example"}); err != nil || r.Ended != 1 || p.flows.live() != "b.example" {
		t.Errorf("an allow that is taken back: %+v, %v, left %s", r, err, p.flows.live())
	}
	p.allow(t, control.AllowQuery{Target: "filter", For: time.Hour})
	p.flows.flows = nil
	for i, host := range []string{"slots.example", "a.example", "b.example"} {
		p.flows.flows = append(p.flows.flows, router.Flow{ID: uint64(i), Facts: facts(host, ""), Verdict: policy.Verdict{Action: policy.Forward, Egress: "direct"}})
	}
	denied := router.Flow{ID: 9, Facts: facts("slots.example", "")} // refused in any case
	p.flows.flows = append(p.flows.flows, denied)
	p.lookAt(time.Now().Add(time.Hour))
	if got := p.flows.live(); got != "b.example slots.example" || p.book.Pauses() != "" {
		t.Errorf("after a pause: left %s, paused %q", got, p.book.Pauses())
	}
}

func TestAClockThatIsSetBackMakesNoPauseLonger(t *testing.T) {
	p := newPlace(t)
	p.allow(t, control.AllowQuery{Target: "filter", For: 10 * time.Minute})
	p.book.mu.Lock()
	p.book.state.memory[0].Until = p.book.state.memory[0].Until.Add(24 * time.Hour) // as by a clock that is a day behind
	p.book.useLocked(time.Now())
	p.book.mu.Unlock()
	p.lookAt(time.Now().Add(9 * time.Minute))
	p.want(t, "during the pause", map[string]bool{"casino.example": true})
	p.lookAt(time.Now().Add(11 * time.Minute))
	p.want(t, "after the pause", map[string]bool{"casino.example": false})
}

func TestAClockThatIsSetBackMakesNothingInTheFileLonger(t *testing.T) {
	p := newPlace(t)
	p.allow(t, control.AllowQuery{Target: "casino.example", For: 10 * time.Minute})
	p.write(t, "decisions.yaml", p.read(t)+"  - {block: shop.example}\n")
	p.look() // reads the file anew
	p.book.mu.Lock()
	for i := range p.book.state.written {
		if e := &p.book.state.written[i]; !e.Always {
			e.Until = e.Until.Add(24 * time.Hour) // as by a clock that is a day behind
		}
	}
	p.book.useLocked(time.Now())
	p.book.mu.Unlock()
	p.lookAt(time.Now().Add(9 * time.Minute))
	p.want(t, "before its end", map[string]bool{"casino.example": true, "shop.example": false})
	p.lookAt(time.Now().Add(11 * time.Minute))
	p.want(t, "after its end", map[string]bool{"casino.example": false, "shop.example": false})
}

func TestRunEndsDecisionsAndFollowsTheFile(t *testing.T) {
	p := newPlace(t)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- p.book.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	until := func(what string, holds func() bool) {
		t.Helper()
		for end := time.Now().Add(20 * time.Second); !holds(); time.Sleep(10 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("%s: not after 20 s", what)
			}
		}
	}
	p.allow(t, control.AllowQuery{Target: "casino.example", For: 50 * time.Millisecond})
	until("the decision is over", func() bool { return p.ids(t) == "" && len(p.live.Now().Policy.Decisions()) == 0 })
	p.write(t, "decisions.yaml", "decisions:\n  - {block: shop.example}\n")
	until("the file is read", func() bool { return !p.reaches("shop.example") })
	if err := os.Remove(p.file()); err != nil {
		t.Fatal(err)
	}
	until("the file is gone", func() bool { return p.reaches("shop.example") })
}

func TestEditsByHandAndCommentsStay(t *testing.T) {
	p := newPlace(t)
	p.write(t, "decisions.yaml", "# mine\ndecisions: # all of them\n- allow: casino.example\n  by: me # with love\n# below\n")
	p.look()
	p.want(t, "written by hand", map[string]bool{"casino.example": true})
	p.write(t, "decisions.yaml", p.read(t)+"# and more\n") // nobody has looked since
	p.block(t, control.BlockQuery{Target: "shop.example", Always: true, Peer: "ana"})
	got := p.read(t)
	want := "# mine\ndecisions: # all of them\n- allow: casino.example\n  by: me # with love\n- {block: \"shop.example\", peer: \"ana\", made: "
	if !strings.HasPrefix(got, want) || !strings.HasSuffix(got, "\"}\n# below\n# and more\n") {
		t.Errorf("got\n%s", got)
	}
	for _, id := range []string{"casino.example", "block:shop.example@ana"} {
		if _, err := p.book.RemoveDecision(t.Context(), control.DecisionRemoval{ID: id}); err != nil {
			t.Fatal(err)
		}
	}
	if got, want := p.read(t), "# mine\ndecisions: [] # all of them\n# below\n# and more\n"; got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	p.allow(t, control.AllowQuery{Target: "slots.example", Always: true})
	p.want(t, "after an empty list", map[string]bool{"casino.example": false, "slots.example": true})
}

func TestAFileWithAFaultOpensNothingAndIsLeftAsItIs(t *testing.T) {
	p := newPlace(t)
	p.allow(t, control.AllowQuery{Target: "casino.example", Always: true})
	p.block(t, control.BlockQuery{Target: "shop.example", Always: true})
	good := p.read(t)
	bad := strings.Replace(good, "{block: \"shop", "{blok: \"shop", 1)
	p.write(t, "decisions.yaml", bad)
	for _, when := range []string{"with a fault", "after a restart with it"} {
		p.look()
		p.want(t, when, map[string]bool{"casino.example": false, "shop.example": false, "site.example": true})
		if got, want := p.book.Trouble(), p.file()+":9:6: unknown key \"blok\": did you mean \"block\"?"; !strings.HasSuffix(got, want) {
			t.Errorf("%s: got %q, want %q", when, got, want)
		}
		for _, q := range []control.AllowQuery{{Target: "slots.example", Always: true}, {Target: "slots.example", Always: true, DryRun: true}} {
			if _, err := p.book.Allow(t.Context(), q); err == nil || !strings.Contains(err.Error(), "left as it is: mend it") {
				t.Errorf("%s: got %v", when, err)
			}
		}
		a := p.allow(t, control.AllowQuery{Target: "slots.example", For: time.Hour})
		if !p.reaches("slots.example") || !strings.Contains(a.Warning, "a restart ends it: ") || a.File != "" {
			t.Errorf("%s: for a while: got %+v", when, a)
		}
		if _, err := p.book.RemoveDecision(t.Context(), control.DecisionRemoval{ID: "shop.example"}); err == nil {
			t.Errorf("%s: a block of the file was taken back", when)
		}
		if p.read(t) != bad {
			t.Fatalf("%s: the file is not as it was:\n%s", when, p.read(t))
		}
		p.start(t)
	}
	p.write(t, "decisions.yaml", good)
	p.look()
	p.want(t, "when it is mended", map[string]bool{"casino.example": true, "shop.example": false})
	if p.book.Trouble() != "" {
		t.Errorf("got %q", p.book.Trouble())
	}
	p.write(t, "decisions.yaml", "")
	p.look()
	p.want(t, "an empty file", map[string]bool{"casino.example": false, "shop.example": false})
	if runsAsRoot := os.Geteuid() == 0; runsAsRoot {
		p.write(t, "decisions.yaml", good)
		if err := os.Chmod(p.file(), 0o666); err != nil {
			t.Fatal(err)
		}
		p.look()
		p.want(t, "a file that anybody may write", map[string]bool{"casino.example": false, "shop.example": false})
	}
}

func TestTwentyAtOnceAreAllWritten(t *testing.T) {
	p := newPlace(t)
	other := &place{dir: p.dir} // another process with the same file
	other.start(t)
	var wg sync.WaitGroup
	for i := range 20 {
		book := []*Book{p.book, other.book}[i%2]
		wg.Go(func() {
			if _, err := book.Allow(t.Context(), control.AllowQuery{Target: fmt.Sprintf("site%d.example", i), Always: true}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := strings.Count(p.read(t), "{allow: \"site"); n != 20 {
		t.Errorf("got %d of 20 in\n%s", n, p.read(t))
	}
	p.look()
	if n := len(strings.Fields(p.ids(t))); n != 20 {
		t.Errorf("got %d of 20 in force", n)
	}
	if rest, _ := filepath.Glob(filepath.Join(p.dir, ".penstock-*")); len(rest) > 0 {
		t.Errorf("left behind: %v", rest)
	}
}

func TestSomebodyWhoWritesMeanwhileLosesNothing(t *testing.T) {
	p := newPlace(t)
	p.write(t, "decisions.yaml", "decisions:\n  - {block: a.example}\n")
	calls := 0
	c, err := p.book.file.change(t.Context(), false, func(list []entry) (func(entry) bool, []entry, error) {
		if calls++; calls == 1 { // the editor saves between reading and writing
			p.write(t, "decisions.yaml", "decisions:\n  - {block: a.example}\n  - {block: b.example}\n")
		}
		return func(entry) bool { return false }, []entry{{Decision: policy.Decision{Name: "c.example", Always: true}}}, nil
	})
	if err != nil || calls != 2 || len(c.list) != 3 || strings.Count(p.read(t), "block: b.example") != 1 {
		t.Errorf("got %+v, %v after %d tries:\n%s", c.list, err, calls, p.read(t))
	}
}

func TestThereAreNoMoreThanAThousand(t *testing.T) {
	p := newPlace(t)
	var b strings.Builder
	b.WriteString("decisions:\n")
	for i := range config.MaxDecisions {
		fmt.Fprintf(&b, "  - {block: site%d.example}\n", i)
	}
	p.write(t, "decisions.yaml", b.String())
	p.look()
	for _, q := range []control.BlockQuery{{Target: "more.example", Always: true}, {Target: "more.example", For: time.Hour}, {Target: "more.example", For: time.Second}} {
		if _, err := p.book.Block(t.Context(), q); err == nil || !strings.Contains(err.Error(), "there are 1000 decisions") {
			t.Errorf("%+v: got %v", q, err)
		}
	}
	p.allow(t, control.AllowQuery{Target: "site7.example", Always: true}) // in the place of another
	p.want(t, "of a thousand", map[string]bool{"site7.example": true, "www.site999.example": false, "site8.example": false})
	p.write(t, "decisions.yaml", b.String()+"  - {block: more.example}\n")
	p.look()
	if got := p.book.Trouble(); !strings.Contains(got, "decisions.yaml:1002:5: there are 1001 decisions, and there may be 1000") {
		t.Errorf("got %q", got)
	}
}
