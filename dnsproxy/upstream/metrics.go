package upstream

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics counts what upstreams do. A nil *Metrics counts nothing.
type Metrics struct {
	seconds  *prometheus.HistogramVec
	failures *prometheus.CounterVec
	mismatch prometheus.Counter
}

// NewMetrics registers the metrics of upstreams with reg. It panics if they are registered already, as reg.MustRegister does.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	m := &Metrics{
		mismatch: prometheus.NewCounter(prometheus.CounterOpts{Name: "penstock_dns_mismatches_total", Help: "Datagrams from upstreams that answer no query."}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "penstock_dns_seconds", Help: "Time until an upstream answered.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5}, NativeHistogramBucketFactor: 1.1,
		}, []string{"upstream"}),
		failures: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "penstock_dns_upstream_failures_total", Help: "Queries that an upstream did not answer, or answered with a failure.",
		}, []string{"upstream"}),
	}
	reg.MustRegister(m.seconds, m.failures, m.mismatch)
	return m
}

func (m *Metrics) mismatched() {
	if m != nil {
		m.mismatch.Inc()
	}
}

func (m *Metrics) answered(upstream string, after time.Duration) {
	if m != nil {
		m.seconds.WithLabelValues(upstream).Observe(after.Seconds())
	}
}

func (m *Metrics) failed(upstream string) {
	if m != nil {
		m.failures.WithLabelValues(upstream).Inc()
	}
}
