package transport

import "github.com/prometheus/client_golang/prometheus"

// Metrics counts and shows the state of transports. A nil *Metrics does nothing.
type Metrics struct {
	up         *prometheus.GaugeVec
	states     *prometheus.GaugeVec
	lastRx     *prometheus.GaugeVec
	reconnects *prometheus.CounterVec
}

// NewMetrics makes the metrics and registers them with reg.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	m := &Metrics{
		up: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "penstock_transport_up",
			Help: "1 while the transport is connected: bytes were received through it.",
		}, []string{"transport"}),
		states: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "penstock_transport_state",
			Help: "1 for the state that the transport is in.",
		}, []string{"transport", "state"}),
		lastRx: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "penstock_transport_last_rx_timestamp_seconds",
			Help: "When the transport last received an authenticated packet, in seconds since 1970.",
		}, []string{"transport"}),
		reconnects: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "penstock_transport_reconnects_total",
			Help: "Losses of a connected transport, by reason.",
		}, []string{"transport", "reason"}),
	}
	reg.MustRegister(m.up, m.states, m.lastRx, m.reconnects)
	return m
}

func (m *Metrics) state(h *Health) {
	if m == nil {
		return
	}
	for _, s := range States() {
		v := 0.0
		if s == h.State {
			v = 1
		}
		m.states.WithLabelValues(h.Name, s.String()).Set(v)
		if s == Connected {
			m.up.WithLabelValues(h.Name).Set(v)
		}
	}
	if !h.Stats.LastRx.IsZero() {
		m.lastRx.WithLabelValues(h.Name).Set(float64(h.Stats.LastRx.UnixMilli()) / 1000)
	}
}

func (m *Metrics) reconnect(name string, reason Reason) {
	if m != nil {
		m.reconnects.WithLabelValues(name, string(reason)).Inc()
	}
}
