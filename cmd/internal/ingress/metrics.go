package ingress

import "github.com/prometheus/client_golang/prometheus"

// metrics counts what happens at the port. A nil *metrics counts nothing.
type metrics struct {
	connections prometheus.Gauge
	logins      *prometheus.CounterVec
	refused     *prometheus.CounterVec
}

// How logins end.
const (
	loginAccepted = "accepted"
	loginWrong    = "wrong"
	loginLimited  = "limited" // not looked at, because too many before were wrong
)

// Why a connection is closed before it could ask for anything.
const (
	refusedCrowded   = "crowded"   // there are too many
	refusedShare     = "share"     // its source or its client has too many
	refusedHandshake = "handshake" // it is too slow, or speaks something else
)

// newMetrics registers the metrics of the port with reg. It panics if they are registered already, as reg.MustRegister does.
func newMetrics(reg prometheus.Registerer) *metrics {
	m := &metrics{
		connections: prometheus.NewGauge(prometheus.GaugeOpts{Name: "penstock_proxy_connections", Help: "Open connections to listen.proxy."}),
		logins: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "penstock_proxy_logins_total", Help: "Logins at listen.proxy by the way they ended, one for each connection that succeeds.",
		}, []string{"result"}),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "penstock_proxy_connections_refused_total", Help: "Connections to listen.proxy that were closed before they could ask for anything.",
		}, []string{"reason"}),
	}
	for _, result := range []string{loginAccepted, loginWrong, loginLimited} {
		m.logins.WithLabelValues(result)
	}
	for _, reason := range []string{refusedCrowded, refusedShare, refusedHandshake} {
		m.refused.WithLabelValues(reason)
	}
	reg.MustRegister(m.connections, m.logins, m.refused)
	return m
}

func (m *metrics) open(n int) {
	if m != nil {
		m.connections.Set(float64(n))
	}
}

func (m *metrics) login(result string) {
	if m != nil {
		m.logins.WithLabelValues(result).Inc()
	}
}

func (m *metrics) refuse(reason string) {
	if m != nil {
		m.refused.WithLabelValues(reason).Inc()
	}
}
