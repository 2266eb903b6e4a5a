package openvpn

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"

	"penstock/router/transport/openvpn/internal/datakey"
)

// Metrics count what happens inside sessions. A nil *Metrics counts nothing.
type Metrics struct {
	negotiations *prometheus.CounterVec
	drops        *prometheus.CounterVec
	retransmits  *prometheus.CounterVec
}

// NewMetrics registers the package's metrics with reg.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	m := &Metrics{
		negotiations: prometheus.NewCounterVec(prometheus.CounterOpts{
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
	reg.MustRegister(m.negotiations, m.drops, m.retransmits)
	return m
}

// Reasons for dropping a packet.
const (
	dropMalformed  = "malformed"
	dropControl    = "control"     // a control packet that is not the server's, or too many at once
	dropUnknownKey = "unknown_key" // a data packet for a key id not in use
	dropForged     = "authentication"
	dropReplay     = "replay"
	dropExhausted  = "key_exhausted"
	dropNotUp      = "not_up" // from the device, while there is no session
	dropInner      = "device" // the device did not take it
	dropLink       = "link"   // the outer socket did
)

func (m *Metrics) drop(transport, reason string, n int) {
	if m != nil {
		m.drops.WithLabelValues(transport, reason).Add(float64(n))
	}
}

func (m *Metrics) negotiated(transport string) {
	if m != nil {
		m.negotiations.WithLabelValues(transport).Inc()
	}
}

func (m *Metrics) retransmit(transport string) {
	if m != nil {
		m.retransmits.WithLabelValues(transport).Inc()
	}
}

func (s *session) drop(reason string) { s.client.cfg.Metrics.drop(s.client.cfg.Name, reason, 1) }

func (s *session) dropData(err error) {
	switch {
	case errors.Is(err, datakey.ErrReplay):
		s.drop(dropReplay)
	case errors.Is(err, datakey.ErrShort):
		s.drop(dropMalformed)
	default:
		s.drop(dropForged)
	}
}
