package report

import (
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"penstock/cmd/internal/control"
	"penstock/cmd/internal/decisions"
	"penstock/policy"
)

func TestCallsThatWouldTurnAVerdict(t *testing.T) {
	w := newWorld(t, text)
	always := func(d policy.Decision) policy.Decision { d.Always = true; return d }
	for _, row := range []struct {
		name      string
		decisions []policy.Decision
		q         control.ExplainQuery
		want      string
	}{
		{"what a rule blocks can be allowed", nil, control.ExplainQuery{Target: "casino.example"},
			"allow casino.example: direct by rule rest, allow category:bets: direct by rule rest"},
		{"for one peer, too", nil, control.ExplainQuery{Target: "casino.example", From: "ana"},
			"allow casino.example: direct by rule rest, allow casino.example ana: direct by rule rest, allow category:bets: direct by rule rest, allow category:bets ana: direct by rule rest"},
		{"what passes can be blocked", nil, control.ExplainQuery{Target: "site.example"}, "block site.example: block by rule decision"},
		{"what is blocked by address cannot be allowed", nil, control.ExplainQuery{Target: "tcp://192.168.1.9:22"}, ""},
		{"nor what the guard refuses", nil, control.ExplainQuery{Target: "tcp://198.51.100.1:22", From: "ana"}, ""},
		{"a block can be taken back", []policy.Decision{always(policy.Decision{Block: true, Name: "site.example"})}, control.ExplainQuery{Target: "site.example"},
			"remove block:site.example: direct by rule rest, allow site.example: direct by rule rest"},
		{"an allow can be taken back", []policy.Decision{always(policy.Decision{Name: "casino.example"}), always(policy.Decision{Name: "site.example"})}, control.ExplainQuery{Target: "casino.example"},
			"remove allow:casino.example: block by rule no-bets, block casino.example: block by rule decision"},
		{"a pause can be ended", []policy.Decision{{Filter: true, Until: time.Now().Add(time.Hour)}}, control.ExplainQuery{Target: "casino.example"},
			"remove allow:filter: block by rule no-bets"}, // a block would not count before it is over
	} {
		w.live.SetDecisions(row.decisions)
		x, err := w.policy.Explain(t.Context(), row.q)
		if err != nil {
			t.Fatal(err)
		}
		lifted := "rule no-bets would block it, but a decision or a pause lifts the rule"
		if slices.Contains(x.Notes, lifted) != (x.Verdict == "direct" && row.q.Target == "casino.example") {
			t.Errorf("%s: got notes %q", row.name, x.Notes)
		}
		var got []string
		for _, c := range x.Changes {
			got = append(got, strings.TrimSpace(fmt.Sprintf("%s %s %s", c.Call, c.Target, c.Peer))+": "+c.Text)
		}
		if got := strings.Join(got, ", "); got != row.want {
			t.Errorf("%s:\ngot  %s\nwant %s", row.name, got, row.want)
		}
	}
}

func TestStatusSaysWhatIsDecided(t *testing.T) {
	w := newWorld(t, text)
	book := decisions.Open(decisions.Config{Live: w.live, Flows: w.flows.Router, Log: slog.New(slog.DiscardHandler)})
	w.status.Decisions = book
	for _, q := range []control.AllowQuery{{Target: "filter", For: time.Hour, Peer: "ana"}, {Target: "filter", For: time.Minute}} {
		if _, err := book.Allow(t.Context(), q); err != nil {
			t.Fatal(err)
		}
	}
	st, err := w.status.Status(t.Context())
	if left := time.Until(st.PausedUntil); err != nil || left <= 0 || left > time.Minute || !strings.Contains(st.Verdict, ", filter paused for ana until ") || !strings.Contains(st.Verdict, ", until ") {
		t.Errorf("got %q, %v, %v", st.Verdict, st.PausedUntil, err)
	}
	w.write(t, "decisions.yaml", "decisions: 7\n")
	w.status.Decisions = decisions.Open(decisions.Config{Live: w.live, Flows: w.flows.Router, Log: slog.New(slog.DiscardHandler)})
	st, err = w.status.Status(t.Context())
	if err != nil || !st.Degraded || !strings.HasPrefix(st.Verdict, "degraded: the file of decisions has a fault, and nothing that it allows is allowed: ") || !strings.Contains(st.Verdict, "decisions.yaml:1:12: decisions[0] is a number") ||
		!strings.Contains(st.Verdict, ", filter on") || !st.PausedUntil.IsZero() {
		t.Errorf("with a fault: got %+v, %v", st, err)
	}
}
