package edition

import (
	"context"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"penstock/policy"
	"penstock/router/clients"
)

func TestAFormerEditionIsAskedAsItWas(t *testing.T) {
	dir := t.TempDir()
	l := newLive(t, loadIn(t, dir, onLaptop+bets+noBets))
	then := l.Now().Number
	write(t, filepath.Join(dir, "bets.txt"), "other.example\n")
	l.Use(compile(t, l, loadIn(t, dir, onLaptop+bets+noBets)))
	old, ok := l.Edition(then)
	if !ok || old.Policy.Decide(to(t, "https://casino.example")).Rule != "no-bets" {
		t.Errorf("edition %d: got %v, want it to block as it did", then, ok)
	}
	if got := l.Decide(to(t, "https://casino.example")).Rule; got != "rest" {
		t.Errorf("now: got rule %s, want rest", got)
	}
	if now, ok := l.Edition(then + 1); !ok || now != l.Now() {
		t.Error("the current edition is not found by its number")
	}
}

func TestFormerEditionsAreBounded(t *testing.T) {
	l := newLive(t, load(t, onLaptop+bets+noBets))
	for range 3 * maxFormer {
		l.Use(l.Now())
	}
	if got := len(l.former); got != maxFormer {
		t.Errorf("former editions: got %d, want %d", got, maxFormer)
	}
	if _, ok := l.Edition(l.Now().Number - maxFormer); !ok {
		t.Error("the oldest that is kept: got none")
	}
	if _, ok := l.Edition(1); ok {
		t.Error("edition 1 is remembered, want it forgotten")
	}
}

func TestVerdictsCarryTheNumberOfTheirEdition(t *testing.T) {
	l := newLive(t, load(t, onLaptop+rest))
	for want := uint64(1); want < 4; want++ {
		if got := l.Decide(to(t, "https://a.example")).Edition; got != want {
			t.Errorf("flow: got edition %d, want %d", got, want)
		}
		f := policy.Flow{Names: []policy.Name{{Host: "a.example", From: policy.FromQuestion}}}
		if got := l.DecideName(f).Edition; got != want {
			t.Errorf("question: got edition %d, want %d", got, want)
		}
		l.Use(l.Now())
	}
	e := compile(t, l, load(t, onLaptop+rest))
	if l.Use(e); e.Number != 0 {
		t.Errorf("Use numbered the edition that it was given, %d: want a copy", e.Number)
	}
}

func TestDecisionsOutliveAReloadAndTheNumberGrows(t *testing.T) {
	l := newLive(t, load(t, onLaptop+bets+noBets))
	casino := to(t, "https://casino.example")
	before := l.Now()
	if old := l.SetDecisions([]policy.Decision{{Name: "casino.example", Until: time.Now().Add(time.Hour)}}); old != before.Policy {
		t.Error("the policy before was another one")
	}
	if got := l.Decide(casino).Rule; got != "rest" {
		t.Errorf("while it is allowed: got rule %s, want rest", got)
	}
	if got := l.Now().Number; got != before.Number+1 {
		t.Errorf("number: got %d, want %d", got, before.Number+1)
	}
	l.Use(compile(t, l, load(t, onLaptop+bets+noBets)))
	if got := l.Decide(casino).Rule; got != "rest" {
		t.Errorf("after a reload: got rule %s, want rest", got)
	}
	l.SetDecisions(nil)
	if got := l.Decide(casino).Rule; got != "no-bets" {
		t.Errorf("afterwards: got rule %s, want no-bets", got)
	}
}

func TestNewerListsDoNotReplaceThoseOfAnotherEdition(t *testing.T) {
	dir := t.TempDir()
	l := newLive(t, loadIn(t, dir, onLaptop+bets+noBets))
	old := l.Now().Lists
	l.SetDecisions([]policy.Decision{{Name: "shop.example", Always: true}, {Block: true, Name: "other.example", Always: true}})
	l.Use(compile(t, l, loadIn(t, dir, onLaptop+bets+noBets)))
	if l.replaceLists(old, old) {
		t.Error("lists read for the previous edition were put in force")
	}
	before := l.Now()
	write(t, filepath.Join(dir, "bets.txt"), "other.example\nshop.example\n")
	newer := compile(t, l, loadIn(t, dir, onLaptop+bets+noBets)).Lists
	if !l.replaceLists(before.Lists, newer) {
		t.Fatal("lists read for the current edition were not put in force")
	}
	for host, want := range map[string]string{"casino.example": "rest", "other.example": "decision", "shop.example": "rest"} {
		if got := l.Decide(to(t, "https://"+host)).Rule; got != want {
			t.Errorf("%s: got rule %s, want %s", host, got, want)
		}
	}
	if now := l.Now(); now.Number != before.Number+1 || now.Config != before.Config || now.Clients != before.Clients {
		t.Error("newer lists are not a new edition with everything else unchanged")
	}
}

func TestConditions(t *testing.T) {
	l := newLive(t, load(t, onLaptop+"transports: {corp: {wireguard: {config: corp.conf}}}\nrules: [{name: rest, do: {via: corp, trusted: direct}}]\n"))
	trust := func(c *policy.Conditions) { c.Trusted = true }
	flow := to(t, "https://a.example")
	if got := l.Decide(flow); got.Egress != "corp" || got.Cause != policy.ByRule {
		t.Errorf("before: got %s by %v", got.Egress, got.Cause)
	}
	if !l.SetConditions(trust) {
		t.Error("a change is not reported")
	}
	if got := l.Decide(flow); got.Egress != "direct" || got.Cause != policy.ByTrusted {
		t.Errorf("on a trusted network: got %s by %v", got.Egress, got.Cause)
	}
	if l.SetConditions(trust) {
		t.Error("no change is reported as one: live flows would be judged again for nothing")
	}
	portal := func(c *policy.Conditions) {
		c.Portal = &policy.Portal{Host: "login.hotel.example", Local: []netip.Prefix{netip.MustParsePrefix("192.168.1.0/24")}}
	}
	if !l.SetConditions(portal) || l.SetConditions(portal) {
		t.Error("an open portal is not reported as a change exactly once")
	}
	if !l.SetConditions(func(c *policy.Conditions) { c.Portal = nil }) {
		t.Error("a portal that closes is not reported as a change")
	}
	l.Use(l.Now())
	if !l.Conditions().Trusted {
		t.Error("a new edition changed the conditions")
	}
}

// TestEditionsComeIntoForceWhole judges flows while editions that block and editions that forward alternate. A verdict of one
// with the number of another would be half a reload.
func TestEditionsComeIntoForceWhole(t *testing.T) {
	dir := t.TempDir()
	l := newLive(t, loadIn(t, dir, onLaptop+rest)) // odd numbers forward
	forwards := l.Now()
	blocks := compile(t, l, loadIn(t, dir, onLaptop+"rules: [{name: rest, do: block}]\n"))
	flow := to(t, "https://a.example")
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			last := uint64(0)
			for ctx.Err() == nil {
				v := l.Decide(flow)
				if v.Edition < last {
					t.Errorf("edition %d judged after edition %d", v.Edition, last)
					return
				}
				if last = v.Edition; (v.Action == policy.Forward) != (v.Edition%2 == 1) {
					t.Errorf("edition %d: got %v", v.Edition, v.Action)
					return
				}
				f := policy.Flow{Client: clients.Machine}
				l.Describe(&f)
				l.Key(netip.MustParseAddr("192.0.2.1"))
				l.Edition(v.Edition)
				l.SetConditions(func(c *policy.Conditions) { c.Trusted = v.Edition%2 == 0 })
			}
		})
	}
	for i := range 200 {
		next := blocks
		if i%2 == 1 {
			next = forwards
		}
		if gone := l.Use(next); len(gone) != 0 {
			t.Errorf("got removed clients, but there were none: %v", gone)
		}
	}
	cancel()
	wg.Wait()
	if got := l.Now().Number; got != 201 {
		t.Errorf("got edition %d after 200 changes of the first", got)
	}
}

func TestChangesNameTheSectionsAndWhatNeedsARestart(t *testing.T) {
	const base = onLaptop + bets + "dns: {upstreams: [{address: 192.0.2.53}]}\n" + noBets
	for _, row := range []struct{ name, text, changed, restart string }{
		{"nothing is new", base, "", ""},
		{"a comment is not", base + "# a comment\n", "", ""},
		{"nor is another place", "\n# a comment\n" + base, "", ""},
		{"rules are in force at once", onLaptop + bets + "dns: {upstreams: [{address: 192.0.2.53}]}\n" + rest, "rules", ""},
		{"so is DNS", strings.Replace(base, "192.0.2.53", "192.0.2.54", 1), "dns", ""},
		{"limits are not", base + "limits: {dials: 5}\n", "limits", "limits"},
		{"nor is an authority", strings.Replace(base, onLaptop, "acme: {agree: true}\nlisten: {wireguard: {address: 10.99.0.1/24, private_key: {file: server.key}}, enrol: {url: \"https://a.example\", acme: true}}\n", 1),
			"listen acme state_dir managed", "listen acme state_dir managed"}, // state_dir follows listen.tun
		{"nor is a transport", base + "transports: {corp: {wireguard: {config: corp.conf}}}\n", "transports", "transports"},
		{"on_demand that was not set at the start needs a restart", base + "on_demand: [{then: connect}]\n", "on_demand", "on_demand"},
	} {
		dir := t.TempDir()
		old, cfg := loadIn(t, dir, base), loadIn(t, dir, row.text)
		changed, restart := Changes(old, cfg)
		if got := strings.Join(changed, " "); got != row.changed {
			t.Errorf("%s: changed: got %q, want %q", row.name, got, row.changed)
		}
		if got := strings.Join(restart, " "); got != row.restart {
			t.Errorf("%s: restart: got %q, want %q", row.name, got, row.restart)
		}
	}
}

func TestListDir(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("XDG_CACHE_HOME", dir)
	t.Setenv("HOME", dir)
	owns := load(t, "listen: {tun: {state_file: state/host.json}}\n"+rest)
	if got, want := ListDir(owns, true), filepath.Join(filepath.Dir(owns.Path), "state", "lists"); got != want {
		t.Errorf("a laptop: got %q, want %q", got, want)
	}
	if got := ListDir(owns, false); got != "" {
		t.Errorf("a laptop that leaves the host alone and subscribes to nothing: got %q, want nothing", got)
	}
	subscribes := "categories: {bets: {lists: [{url: 'https://lists.example/bets.txt'}]}}\n" + rest
	one, other := ListDir(load(t, atGateway+subscribes), false), ListDir(load(t, atGateway+subscribes), false)
	if one == other || !strings.Contains(one, "penstock") {
		t.Errorf("two configurations keep their lists in %q and %q: want a directory for each", one, other)
	}
	file := filepath.Join(t.TempDir(), "bets.txt")
	if err := os.WriteFile(file, []byte("casino.example\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	files := load(t, atGateway+"categories: {bets: {lists: [{file: "+file+"}]}}\n"+rest)
	if got, want := ListDir(files, false), filepath.Join(files.StateDir, "lists"); got != want {
		t.Errorf("a gateway with a list in a file: got %q, want %q for its last good version", got, want)
	}
}
