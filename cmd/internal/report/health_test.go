package report

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"penstock/cmd/internal/config"
	"penstock/cmd/internal/health"
)

func TestATargetIsReachedByTheRules(t *testing.T) {
	w := newWorld(t, text)
	for _, row := range []struct{ name, target, want string }{
		{"an address that may be reached directly", "203.0.113.9:80", ""},
		{"a name that is resolved", "site.example:443", ""},
		{"a name that a rule allows at a private address", "wiki.corp.example:443", ""},
		{"what a rule refuses", "192.168.1.1:80", "rule lan refuses it"},
		{"what a list blocks", "casino.example:443", "rule no-bets refuses it"},
		{"what a rule allows some peers only", "staff.example:443", "rule staff refuses it"},
		{"a name that does not exist", "none.example:443", "there is no address for none.example:443"},
		{"no target", "nonsense", "nonsense"},
	} {
		err := w.policy.Reach(t.Context(), row.target)
		if row.want == "" && err != nil || row.want != "" && (err == nil || !strings.Contains(err.Error(), row.want)) {
			t.Errorf("%s: got %v, want %q", row.name, err, row.want)
		}
	}
}

func TestATargetThroughATransportThatIsDown(t *testing.T) {
	for _, row := range []struct {
		name, do string
		reached  bool
	}{
		{"without another way", "{via: corp}", false},
		{"with another way", "{via: corp, fallback: direct}", true},
	} {
		w := newWorld(t, strings.Replace(text, "do: direct}\n", "do: direct}\n  - {name: far, match: {cidr: 203.0.113.0/24}, do: "+row.do+"}\n", 1))
		if err := w.policy.Reach(t.Context(), "203.0.113.9:80"); (err == nil) != row.reached || err != nil && !w.egress.IsNotUp(err) {
			t.Errorf("%s: got %v, want reached %v", row.name, err, row.reached)
		}
	}
}

// TestTargetsDecideWhetherPenstockIsReady has a gateway that uses no transport.
func TestTargetsDecideWhetherPenstockIsReady(t *testing.T) {
	w := newWorld(t, strings.Replace(text, "  - {name: files, match: {domain: files.example, seen_in: [sni]}, do: {via: corp, fallback: direct}}\n", "", 1))
	for _, row := range []struct {
		target, verdict, want string
		up                    int
	}{
		{"203.0.113.9:80", "connected, filter on", "", 1},
		{"192.168.1.1:80", "degraded: health target 192.168.1.1:80 is not reached: rule lan refuses it; connected", "rule lan refuses it", 0},
	} {
		looked := make(chan struct{})
		w.status.Health = health.New(health.Config{
			Targets: func() []string { return []string{row.target} }, Dial: w.policy.Reach, Changed: func() { close(looked) }, Log: slog.New(slog.DiscardHandler),
		})
		if err := w.status.Ready(); err == nil {
			t.Errorf("%s: ready before it has been dialled", row.target)
		}
		ctx, cancel := context.WithCancel(t.Context())
		over := make(chan error, 1)
		go func() { over <- w.status.Health.Run(ctx) }()
		<-looked
		cancel()
		if err := <-over; err != nil {
			t.Fatal(err)
		}
		got := ""
		if err := w.status.Ready(); err != nil {
			got = err.Error()
		}
		if (got == "") != (row.want == "") || !strings.Contains(got, row.want) {
			t.Errorf("%s: ready: got %q, want %q", row.target, got, row.want)
		}
		st, err := w.status.Status(t.Context())
		if err != nil || !strings.HasPrefix(st.Verdict, row.verdict) || st.Degraded != (row.up == 0) || len(st.Health) != 1 || st.Health[0].Reached != (row.up == 1) {
			t.Errorf("%s: status: got %q, degraded %v, %+v, %v; want %q", row.target, st.Verdict, st.Degraded, st.Health, err, row.verdict)
		}
		want := fmt.Sprintf("# HELP penstock_health_target_up 1 if a health target was reached when it was last dialled, else 0.\n"+
			"# TYPE penstock_health_target_up gauge\npenstock_health_target_up{target=%q} %d\n", row.target, row.up)
		c := NewCollector(func() *Process { return w.status }, config.Metrics{})
		if err := testutil.CollectAndCompare(c, strings.NewReader(want), "penstock_health_target_up"); err != nil {
			t.Error(err)
		}
	}
}
