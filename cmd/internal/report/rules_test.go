package report

import (
	"strings"
	"testing"

	"penstock/policy"
)

func TestRulesAreShownInTheWordsOfTheConfiguration(t *testing.T) {
	w := newWorld(t, strings.Replace(text, "  - {name: rest,", "  - {name: never, match: {cidr: [10.0.0.0/8], port: ['22', '80'], mismatch: true}, do: {via: best}}\n  - {name: rest,", 1))
	rules, err := w.policy.Rules(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range rules.Rules {
		got = append(got, r.Name+": "+r.Match+" -> "+r.Do)
		if wantShadow := r.Name == "home" || r.Name == "never"; (r.ShadowedBy != "") != wantShadow {
			t.Errorf("%s is shadowed: got %q, want %v", r.Name, r.ShadowedBy, wantShadow)
		}
		if r.Name != "dns" && !strings.Contains(r.Position, "p.yaml:") {
			t.Errorf("%s: got place %q", r.Name, r.Position)
		}
	}
	want := []string{
		"dns: port 53, protocol tcp udp -> dns",
		"no-bets: category bets -> block",
		"night: domain games.example, schedule 22:00-06:00 -> block",
		"wiki: domain wiki.corp.example -> direct",
		"files: domain files.example, seen_in sni -> via corp",
		"staff: domain staff.example, not (group staff) -> drop",
		"lan: cidr private -> block",
		"home: cidr 192.168.0.0/16 -> direct",
		"never: cidr 10.0.0.0/8, port 22 80, mismatch true -> via best",
		"rest:  -> direct",
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if rules.Generation != 1 {
		t.Errorf("edition: got %d, want 1", rules.Generation)
	}
}

func TestTheConfigurationsOwnTestsAreJudgedAgain(t *testing.T) {
	w := newWorld(t, text+"tests:\n  - {from: ana, to: casino.example, expect: block}\n  - {to: files.example, expect: {via: corp}}\n")
	rules, err := w.policy.Rules(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(rules.Tests) != 2 {
		t.Fatalf("got %+v, want two", rules.Tests)
	}
	if got := rules.Tests[0]; got.From != "ana" || got.To != "casino.example" || got.Expect != "block" || got.Got != "block" || got.Rule != "no-bets" || got.Error != "" || !strings.Contains(got.Position, "p.yaml:") {
		t.Errorf("got %+v", got)
	}
	if got := rules.Tests[1]; got.From != "" || got.Expect != "via corp" || got.Got != "via corp" || got.Error != "" {
		t.Errorf("got %+v", got)
	}
	w.policy.Live.SetDecisions([]policy.Decision{{Name: "casino.example", Always: true}})
	if rules, err = w.policy.Rules(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := rules.Tests[0]; got.Got != "direct" || !strings.Contains(got.Error, "test from ana to casino.example") {
		t.Errorf("after somebody allowed it: got %+v", got)
	}
}

func TestLists(t *testing.T) {
	w := newWorld(t, strings.Replace(text, "bets: {lists: [{file: bets.txt}]}", "bets: {on_missing: allow, lists: [{file: bets.txt}, {url: 'https://lists.example/bets.txt'}]}", 1))
	list, err := w.lists.Lists(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(list) != 2 {
		t.Fatalf("got %+v, want two lists", list)
	}
	if l := list[0]; l.Category != "bets" || !strings.HasSuffix(l.List, "bets.txt") || l.Entries != 2 || l.Error != "" {
		t.Errorf("a file: got %+v", l)
	}
	if l := list[1]; l.List != "https://lists.example/bets.txt" || l.Error == "" || !l.Updated.IsZero() {
		t.Errorf("a subscription that was never fetched: got %+v", l)
	}
	if hits, err := w.lists.ListLookup(t.Context(), "203.0.113.66"); err != nil || len(hits) != 1 || hits[0].Line != 3 {
		t.Errorf("an address: got %+v, %v, want line 3", hits, err)
	}
	hits, err := w.lists.ListLookup(t.Context(), "WWW.casino.example")
	if err != nil || len(hits) != 1 || hits[0].Line != 2 || hits[0].Category != "bets" || hits[0].Allow {
		t.Errorf("a name on a list: got %+v, %v", hits, err)
	}
	if hits, err := w.lists.ListLookup(t.Context(), "site.example"); err != nil || hits == nil || len(hits) != 0 {
		t.Errorf("a name on no list: got %v, %v, want an empty list", hits, err)
	}
	if _, err := w.lists.ListLookup(t.Context(), "a b"); err == nil {
		t.Error("an invalid name was looked up")
	}
	if st, err := w.status.Status(t.Context()); err != nil || !strings.Contains(st.Verdict, ", lists missing: 1") {
		t.Errorf("status: got %q, %v", st.Verdict, err)
	}
}

func TestPeers(t *testing.T) {
	w := newWorld(t, text)
	peers, err := w.peers.Peers(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, p := range peers {
		got = append(got, strings.TrimSpace(p.Name+" "+strings.Join(p.Addresses, " ")+" "+strings.Join(p.Groups, " ")))
		if p.Disabled != (p.Name == "eve") || !p.LastHandshake.IsZero() || p.Endpoint != "" || p.RxBytes != 0 {
			t.Errorf("got %+v, want no session, and eve disabled", p)
		}
	}
	if got, want := strings.Join(got, ", "), "ana 10.99.0.2/32 staff, bob 10.99.0.3/32 guests, eve 10.99.0.4/32"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
