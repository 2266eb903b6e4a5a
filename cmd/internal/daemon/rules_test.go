package daemon

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"penstock/cmd/internal/config"
	"penstock/cmd/internal/lists"
	"penstock/policy"
)

// configured loads a configuration whose category bets is a file that can be edited.
func configured(t *testing.T, rules string) (*config.Config, string) {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{
		"bets.txt": "casino.example\n",
		"p.yaml": "listen: {tun: {routes: manual, dns: manual}}\ncategories: {bets: {lists: [{file: bets.txt}]}}\n" +
			"dns: {enforce: true, upstreams: [{address: 192.0.2.53}]}\nrules:\n" + rules + "  - {name: rest, do: direct}\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cfg, err := config.Load(filepath.Join(dir, "p.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	return cfg, filepath.Join(dir, "bets.txt")
}

func compiled(t *testing.T, cfg *config.Config) *rules {
	t.Helper()
	r, err := newRules(t.Context(), cfg, lists.Config{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// to is a flow to a name, read to its end.
func to(host string) policy.Flow {
	f, err := (&policy.Test{To: "https://" + host}).Flow(nil)
	if err != nil {
		panic(err) // of a test
	}
	f.Time = time.Now()
	return f
}

const noBets = "  - {name: no-bets, match: {category: bets}, do: block}\n"

func TestAFormerPolicyIsAskedAsItWas(t *testing.T) {
	cfg, file := configured(t, noBets)
	r := compiled(t, cfg)
	then := r.generation()
	if err := os.WriteFile(file, []byte("other.example\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	p, content, err := r.compile(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	r.put(p, content)
	old, ok := r.edition(then)
	if !ok || old.policy.Decide(to("casino.example")).Rule != "no-bets" {
		t.Errorf("policy %d: got %v, want it to block as it did", then, ok)
	}
	if got := r.decide(to("casino.example")).Rule; got != "rest" {
		t.Errorf("policy now: got rule %s, want rest", got)
	}
}

func TestFormerPoliciesAreBounded(t *testing.T) {
	cfg, _ := configured(t, noBets)
	r := compiled(t, cfg)
	for range 3 * maxFormer {
		now := r.now.Load()
		r.put(now.policy, now.lists)
	}
	if got := len(r.former); got != maxFormer {
		t.Errorf("former policies: got %d, want %d", got, maxFormer)
	}
	if _, ok := r.edition(r.generation() - maxFormer); !ok {
		t.Error("the oldest that is kept: got none")
	}
	if _, ok := r.edition(1); ok {
		t.Error("policy 1 is remembered, want it forgotten")
	}
}

func TestAnExceptionEndsAndTheNumberGrows(t *testing.T) {
	cfg, _ := configured(t, noBets)
	r := compiled(t, cfg)
	until := time.Now().Add(time.Hour)
	r.except(policy.Exception{Name: "casino.example", Until: until})
	if got := r.decide(to("casino.example")).Rule; got != "rest" {
		t.Errorf("while it is excepted: got rule %s, want rest", got)
	}
	if over, next := r.expire(until.Add(-time.Minute)); len(over) != 0 || !next.Equal(until) {
		t.Errorf("before its end: got %v over, the next at %v", over, next)
	}
	before := r.generation()
	if over, next := r.expire(until); len(over) != 1 || !next.IsZero() {
		t.Errorf("at its end: got %v over, the next at %v", over, next)
	}
	if got := r.decide(to("casino.example")).Rule; got != "no-bets" {
		t.Errorf("afterwards: got rule %s, want no-bets", got)
	}
	if got := r.generation(); got != before+1 {
		t.Errorf("generation: got %d, want %d", got, before+1)
	}
}

func TestNewerListsDoNotReplaceThoseOfAnotherPolicy(t *testing.T) {
	cfg, _ := configured(t, noBets)
	r := compiled(t, cfg)
	old := r.now.Load().lists
	p, content, err := r.compile(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	r.put(p, content)
	if r.replaceLists(old, old) {
		t.Error("lists read for the policy before were brought into force")
	}
	if !r.replaceLists(content, old) {
		t.Error("lists read for the policy in force were not")
	}
}

func TestEnforcedDNSClosesOtherResolvers(t *testing.T) {
	cfg, _ := configured(t, noBets)
	r := compiled(t, cfg)
	rows := []struct{ name, to, rule string }{
		{"a resolver known by name", "https://dns.google", "no-other-resolver"},
		{"a resolver known by address", "https://8.8.8.8", "no-other-resolver"},
		{"a resolver known by an IPv6 address", "https://[2620:fe::fe]", "no-other-resolver"},
		{"the same over HTTP/3", "quic://1.1.1.1", "no-other-resolver"},
		{"DNS over TLS to anybody", "tcp://192.0.2.1:853", "no-encrypted-dns"},
		{"DNS over QUIC to anybody", "udp://192.0.2.1:853", "no-encrypted-dns"},
		{"plain DNS, which is captured", "dns://8.8.8.8", "dns"},
		{"anything else", "https://public.example", "rest"},
	}
	for _, row := range rows {
		f, err := (&policy.Test{To: row.to}).Flow(nil)
		if err != nil {
			t.Fatal(err)
		}
		if got := r.decide(f).Rule; got != row.rule {
			t.Errorf("%s: got rule %s, want %s", row.name, got, row.rule)
		}
	}
	var shown []string
	for _, rule := range r.current().Rules() {
		shown = append(shown, rule.Name)
	}
	if got, want := strings.Join(shown, " "), "dns no-other-resolver no-encrypted-dns no-bets rest"; got != want {
		t.Errorf("rules: got %s, want %s", got, want)
	}
}
