package openvpn

import (
	"testing"

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
