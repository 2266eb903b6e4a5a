package dnsproxy

import (
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

func TestMetrics(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	m := NewMetrics(reg)
	up := newResolver(t, "www.example. 300 IN A 203.0.113.1")
	s := newServer(t, Settings{Upstreams: []Upstream{named("main", up)}}, func(s *setup) { s.Metrics = m }, judged(blocks(map[string]string{"casino.example": "gambling"})))
	ask(t, s, "www.example", "A")
	ask(t, s, "www.example", "A")
	ask(t, s, "casino.example", "A")
	s.tidy()
	for want, r := range map[float64]result{1: resultForwarded, 0: resultFailed} {
		if got := testutil.ToFloat64(m.queries[r]); got != want {
			t.Errorf("queries %s: got %v, want %v", r, got, want)
		}
	}
	for _, r := range []result{resultCached, resultBlocked} {
		if got := testutil.ToFloat64(m.queries[r]); got != 1 {
			t.Errorf("queries %s: got %v, want 1", r, got)
		}
	}
	if hits, misses, entries, names := testutil.ToFloat64(m.hits), testutil.ToFloat64(m.misses), testutil.ToFloat64(m.entries), testutil.ToFloat64(m.names); hits != 1 || misses != 1 || entries != 1 || names != 1 {
		t.Errorf("hits, misses, entries, names: got %v %v %v %v, want 1 each", hits, misses, entries, names)
	}
	problems, err := testutil.GatherAndLint(reg)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}
