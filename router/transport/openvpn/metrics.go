package openvpn

import "github.com/prometheus/client_golang/prometheus"

// Metrics count what happens inside sessions. A nil *Metrics counts nothing.
type Metrics struct {
	renegotiations *prometheus.CounterVec
	drops          *prometheus.CounterVec
	retransmits    *prometheus.CounterVec
}

// NewMetrics registers the package's metrics with reg.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	m := &Metrics{
		renegotiations: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "penstock_openvpn_negotiations_total",
			Help: "Completed key negotiations, the first of each session included.",
		}, []string{"transport"}),
		drops: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "penstock_openvpn_drops_total",
			Help: "Packets dropped inside the OpenVPN driver, by reason.",
		}, []string{"transport", "reason"}),
		retransmits: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "penstock_openvpn_control_retransmits_total",
			Help: "Control packets sent again for want of an acknowledgement.",
		}, []string{"transport"}),
	}
	reg.MustRegister(m.renegotiations, m.drops, m.retransmits)
	return m
}
