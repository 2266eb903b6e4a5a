package ingress

import "github.com/prometheus/client_golang/prometheus"

// metrics counts what happens at the port. A nil *metrics counts nothing.
type metrics struct {
	connections prometheus.Gauge
	logins      *prometheus.CounterVec
	refused     *prometheus.CounterVec
	lost        *prometheus.CounterVec
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

// Why a datagram is lost.
const (
	lostSource    = "source"    // another program than the client has sent it
	lostFragment  = "fragment"  // it is a part of one
	lostMalformed = "malformed" // it says not, or wrongly, where it goes
	lostRate      = "rate"      // the client exceeds its rate
	lostCrowded   = "crowded"   // the client has too many flows
	lostQueue     = "queue"     // it came faster than its flow carries
	lostRefused   = "refused"   // its flow was refused, or could not be dialled
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
	m.lost = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "penstock_proxy_datagrams_dropped_total", Help: "Datagrams of clients of listen.proxy that were dropped.",
	}, []string{"reason"})
	for _, reason := range []string{lostSource, lostFragment, lostMalformed, lostRate, lostCrowded, lostQueue, lostRefused} {
		m.lost.WithLabelValues(reason)
	}
	for _, result := range []string{loginAccepted, loginWrong, loginLimited} {
		m.logins.WithLabelValues(result)
	}
	for _, reason := range []string{refusedCrowded, refusedShare, refusedHandshake} {
		m.refused.WithLabelValues(reason)
	}
	reg.MustRegister(m.connections, m.logins, m.refused, m.lost)
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

func (m *metrics) lose(reason string) {
	if m != nil {
		m.lost.WithLabelValues(reason).Inc()
	}
}
