package router

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"penstock/policy"
)

// Metrics counts flows. A nil *Metrics counts nothing.
type Metrics struct {
	flows    *prometheus.CounterVec
	bytes    *prometheus.CounterVec
	dialTime prometheus.Histogram
	dialErrs *prometheus.CounterVec
	names    *prometheus.CounterVec
	blocks   *prometheus.CounterVec
	paths    *prometheus.CounterVec
}

// NewMetrics makes the metrics and registers them with reg.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	m := &Metrics{
		flows: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "penstock_flows_total",
			Help: "Finished flows, by protocol, verdict and deciding rule.",
		}, []string{"proto", "verdict", "rule"}),
		bytes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "penstock_bytes_total",
			Help: "Payload bytes of finished flows. tx is from the client, rx is to the client.",
		}, []string{"direction", "verdict"}),
		dialTime: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:                        "penstock_dial_seconds",
			Help:                        "Duration of successful dials.",
			Buckets:                     []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10},
			NativeHistogramBucketFactor: 1.1,
		}),
		dialErrs: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "penstock_dial_errors_total",
			Help: "Failed dials, by reason.",
		}, []string{"reason"}),
		names: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "penstock_name_source_total",
			Help: "Names read in flows, by source.",
		}, []string{"source"}),
		blocks: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "penstock_category_blocks_total",
			Help: "Flows and DNS questions blocked because of a category, by category and layer.",
		}, []string{"category", "layer"}),
	}
	m.paths = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "penstock_flows_carried_total",
		Help: "Finished flows that were carried, by datapath: terminated, forwarded, or inline (forwarded and judged in line).",
	}, []string{"datapath"})
	reg.MustRegister(m.flows, m.bytes, m.dialTime, m.dialErrs, m.names, m.blocks, m.paths)
	for _, reason := range []string{"refused", "timeout", "unreachable", "resources", "not_up", "other"} {
		m.dialErrs.WithLabelValues(reason)
	}
	for p := range pathLabels {
		m.paths.WithLabelValues(pathLabels[p])
	}
	return m
}

// pathLabels are the values of Path as labels.
var pathLabels = [...]string{Terminated: "terminated", Forwarded: "forwarded", Inline: "inline"}

// Blocked counts a block because of a category. layer is "flow" or "dns".
func (m *Metrics) Blocked(category, layer string) {
	if m != nil && category != "" {
		m.blocks.WithLabelValues(category, layer).Inc()
	}
}

func (m *Metrics) ended(f *Flow) {
	if m == nil {
		return
	}
	verdict := verdictWord(f.Verdict.Action)
	m.flows.WithLabelValues(f.Facts.Network.String(), verdict, f.Verdict.Rule).Inc()
	if f.Verdict.Action == policy.Forward {
		m.paths.WithLabelValues(pathLabels[f.Path]).Inc()
		m.bytes.WithLabelValues("tx", verdict).Add(float64(f.TxBytes))
		m.bytes.WithLabelValues("rx", verdict).Add(float64(f.RxBytes))
		return
	}
	m.Blocked(f.Verdict.Category, "flow")
}

func (m *Metrics) dialled(d time.Duration) {
	if m != nil {
		m.dialTime.Observe(d.Seconds())
	}
}

func (m *Metrics) dialFailed(reason string) {
	if m != nil {
		m.dialErrs.WithLabelValues(reason).Inc()
	}
}

func (m *Metrics) nameFrom(s policy.Source) {
	if m != nil {
		m.names.WithLabelValues(s.String()).Inc()
	}
}

// verdictWord returns an action as rules write it: "block" for policy.Refuse.
func verdictWord(a policy.Action) string {
	if a == policy.Refuse {
		return "block"
	}
	return a.String()
}
