package openvpn

import (
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"penstock/router/transport"
	"penstock/router/transport/openvpn/internal/data"
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
			Help: "Control packets sent again because the acknowledgement did not come.",
		}, []string{"transport"}),
	}
	reg.MustRegister(m.negotiations, m.drops, m.retransmits)
	return m
}

func (m *Metrics) drop(transport string, reason data.Drop, n int) {
	if m != nil {
		m.drops.WithLabelValues(transport, string(reason)).Add(float64(n))
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

// meter counts for one transport: transport.Stats, which several goroutines add to, and metrics.
type meter struct {
	name    string
	metrics *Metrics
	began   time.Time // before all moments

	rx, tx                        atomic.Uint64
	lastRx, lastTx, lastHandshake moment
}

var _ data.Meter = (*meter)(nil)

// Received counts bytes that authenticated.
func (m *meter) Received(bytes int, now time.Time) {
	m.rx.Add(uint64(bytes))
	m.lastRx.set(m.began, now)
}

// Sent counts bytes that the socket took.
func (m *meter) Sent(bytes int, now time.Time) {
	m.tx.Add(uint64(bytes))
	m.lastTx.set(m.began, now)
}

// Drop counts packets that were dropped.
func (m *meter) Drop(why data.Drop, packets int) { m.metrics.drop(m.name, why, packets) }

func (m *meter) negotiated(now time.Time) {
	m.lastHandshake.set(m.began, now)
	m.metrics.negotiated(m.name)
}

func (m *meter) stats() transport.Stats {
	return transport.Stats{
		RxBytes: m.rx.Load(), TxBytes: m.tx.Load(),
		LastRx: m.lastRx.get(m.began), LastTx: m.lastTx.get(m.began), LastHandshake: m.lastHandshake.get(m.began),
	}
}

// moment is an atomic point on the monotonic clock, as the time since its meter began; 0: never. The wall clock may be set.
type moment struct{ since atomic.Int64 }

func (m *moment) set(began, t time.Time) { m.since.Store(int64(max(t.Sub(began), 1))) }

func (m *moment) get(began time.Time) time.Time {
	if since := m.since.Load(); since != 0 {
		return began.Add(time.Duration(since))
	}
	return time.Time{}
}
