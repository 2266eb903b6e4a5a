package lists

import (
	"github.com/prometheus/client_golang/prometheus"
)

// Metrics counts entries and failures. A nil *Metrics counts nothing.
type Metrics struct {
	entries  *prometheus.GaugeVec
	success  *prometheus.GaugeVec
	failures prometheus.Counter
}

// NewMetrics makes the metrics and registers them with reg.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	m := &Metrics{
		entries: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "penstock_list_entries",
			Help: "Entries of a category's lists that are in force.",
		}, []string{"category"}),
		success: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "penstock_list_last_success_timestamp_seconds",
			Help: "When the last of a category's lists was last read or found unchanged; 0 if one never was.",
		}, []string{"category"}),
		failures: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "penstock_list_failures_total",
			Help: "Lists that could not be read, fetched or believed.",
		}),
	}
	reg.MustRegister(m.entries, m.success, m.failures)
	return m
}

func (m *Metrics) failed() {
	if m != nil {
		m.failures.Inc()
	}
}

// show sets the metrics to the Content in force.
func (m *Metrics) show(l *Lists, c *Content) {
	if m == nil {
		return
	}
	m.entries.Reset()
	m.success.Reset()
	now := float64(l.Clock().Unix())
	oldest := make(map[string]float64)
	for _, s := range l.Status(c) {
		m.entries.WithLabelValues(s.Category).Add(float64(s.Entries))
		at := now // files and built-in lists are never stale
		switch {
		case s.Checked.After(l.Clock()): // the clock was wrong then, or is now: an alert should not wait until it has passed
			at = 0
		case !s.Checked.IsZero():
			at = float64(s.Checked.Unix())
		case s.Err != nil:
			at = 0
		}
		if old, ok := oldest[s.Category]; !ok || at < old {
			oldest[s.Category] = at
		}
	}
	for category, at := range oldest {
		m.success.WithLabelValues(category).Set(at)
	}
}
