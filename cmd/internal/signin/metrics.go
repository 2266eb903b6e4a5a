package signin

import "github.com/prometheus/client_golang/prometheus"

// result is how an attempt to sign in ended.
type result string

// Values of result.
const (
	resultOK          result = "ok"
	resultRefused     result = "refused"     // by the provider, or the user gave up
	resultInvalid     result = "invalid"     // what came back does not belong to what was begun here
	resultUnavailable result = "unavailable" // the provider could not be asked
	resultLimited     result = "limited"     // the peer has tried too often
)

// Metrics counts sign-ins.
type Metrics struct {
	results  *prometheus.CounterVec
	sessions prometheus.Gauge
}

// NewMetrics registers the metrics.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	m := &Metrics{
		results: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "penstock_sign_ins_total",
			Help: "Attempts to sign in by result: ok, refused by the provider, invalid, limited if a peer tries too often, or unavailable if the provider could not be asked.",
		}, []string{"result"}),
		sessions: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "penstock_sessions",
			Help: "Peers with which somebody has signed in.",
		}),
	}
	for _, r := range []result{resultOK, resultRefused, resultInvalid, resultUnavailable, resultLimited} {
		m.results.WithLabelValues(string(r))
	}
	reg.MustRegister(m.results, m.sessions)
	return m
}

func (m *Metrics) ended(r result) {
	if m != nil {
		m.results.WithLabelValues(string(r)).Inc()
	}
}

func (m *Metrics) count(sessions int) {
	if m != nil {
		m.sessions.Set(float64(sessions))
	}
}
