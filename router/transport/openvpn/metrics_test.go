package openvpn

import (
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"penstock/router/transport/openvpn/internal/data"
)

func TestMetricsAreWellFormed(t *testing.T) {
	reg := prometheus.NewRegistry()
	m := NewMetrics(reg)
	m.drop("corp", data.DropReplay, 2)
	m.negotiated("corp")
	m.retransmit("corp")
	problems, err := testutil.GatherAndLint(reg)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
	if got := testutil.ToFloat64(m.drops.WithLabelValues("corp", string(data.DropReplay))); got != 2 {
		t.Errorf("drops: got %v, want 2", got)
	}
}

func TestNilMetricsCountNothing(t *testing.T) {
	var m *Metrics
	m.drop("corp", data.DropReplay, 1)
	m.negotiated("corp")
	m.retransmit("corp")
}

// TestTheClockMayBeSet: times keep their monotonic reading, so that setting the clock does not turn a server that has just
// answered into one that was silent for years.
func TestTheClockMayBeSet(t *testing.T) {
	m := meter{began: time.Now()}
	if s := m.stats(); !s.LastRx.IsZero() || !s.LastTx.IsZero() || !s.LastHandshake.IsZero() {
		t.Errorf("before anything happened: got %+v, want zero times", s)
	}
	now := m.began.Add(time.Minute)
	m.Received(1, now)
	m.Sent(1, m.began)
	m.negotiated(now)
	s := m.stats()
	for name, at := range map[string]time.Time{"received": s.LastRx, "sent": s.LastTx, "negotiated": s.LastHandshake} {
		if at.IsZero() || !strings.Contains(at.String(), " m=") {
			t.Errorf("%s: got %v, want a time with a monotonic reading", name, at)
		}
	}
	if !s.LastRx.Equal(now) {
		t.Errorf("received: got %v, want %v", s.LastRx, now)
	}
}
