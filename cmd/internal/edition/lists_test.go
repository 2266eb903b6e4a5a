package edition

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"penstock/cmd/internal/lists"
	"penstock/policy/blocklist"
)

func TestOnlyListsThatRulesUseAreRead(t *testing.T) {
	cfg := load(t, onLaptop+"categories:\n"+
		"  bets: {on_missing: fail, lists: [{url: 'https://lists.example/bets.txt', refresh: 2h, via: corp, format: hosts}], allow: [{file: bets.txt}]}\n"+
		"  games: {on_missing: allow, lists: [{file: bets.txt}]}\n"+
		"  unused: {lists: [{file: bets.txt}]}\n"+
		"transports: {corp: {wireguard: {config: corp.conf}}}\n"+
		"dns: {enforce: true, split: [{domains: ['*.corp.example', lab.example], upstream: {address: 10.0.0.1}}]}\n"+
		"rules: [{name: a, match: {category: bets, not: {category: games}}, do: block}, {name: b, match: {category: [bets, ads]}, do: block}, {name: rest, do: direct}]\n")
	got := make(map[string]lists.Category)
	var names []string
	for _, c := range categoriesOf(cfg) {
		got[c.Name] = c
		names = append(names, c.Name)
	}
	if want := "ads bets doh games"; strings.Join(names, " ") != want {
		t.Errorf("got %v, want %s: each once, within a not too, and doh for dns.enforce", names, want)
	}
	bets := got["bets"]
	if bets.OnMissing != lists.Fail || got["games"].OnMissing != lists.Allow || got["ads"].OnMissing != lists.Await {
		t.Errorf("on_missing: got %v, %v and %v", bets.OnMissing, got["games"].OnMissing, got["ads"].OnMissing)
	}
	if len(bets.Sources) != 2 || len(got["ads"].Sources) != 0 {
		t.Fatalf("got %+v and %+v, want two sources, and the built-in list", bets.Sources, got["ads"].Sources)
	}
	hosts, _ := blocklist.ParseFormat("hosts")
	if s := bets.Sources[0]; s.URL != "https://lists.example/bets.txt" || s.Refresh != 2*time.Hour || s.Via != "corp" || s.Format != hosts || s.Allow {
		t.Errorf("a subscription: got %+v", s)
	}
	if s := bets.Sources[1]; s.File != filepath.Join(filepath.Dir(cfg.Path), "bets.txt") || !s.Allow {
		t.Errorf("a file of exceptions: got %+v", s)
	}
	if own := bets.Sources[0].NeverBlock; !slices.Equal(own, []string{"corp.example", "lab.example"}) {
		t.Errorf("a list must not block %v, want the company's own domains", own)
	}
	if names := CategoryNames(cfg); !slices.IsSorted(names) || !slices.Contains(names, "unused") || !slices.Contains(names, "ads") {
		t.Errorf("categories that allow may name: got %v, want those of the configuration and the built-in ones", names)
	}
}
