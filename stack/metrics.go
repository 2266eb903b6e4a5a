package stack

import "github.com/prometheus/client_golang/prometheus"

// Metrics counts what stacks read, write and drop. A nil *Metrics counts nothing.
type Metrics struct {
	drops   *prometheus.CounterVec
	packets *prometheus.CounterVec
	bytes   *prometheus.CounterVec
	evict   prometheus.Counter
}

// NewMetrics makes the metrics and registers them with reg. One Metrics serves all stacks of a process.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	m := &Metrics{
		drops: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "penstock_drops_total",
			Help: "Packets and flows that were not carried, by reason.",
		}, []string{"reason"}),
		packets: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "penstock_stack_packets_total",
			Help: "Packets and super-packets that stacks read from and wrote to their links.",
		}, []string{"direction"}),
		bytes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "penstock_stack_bytes_total",
			Help: "Bytes that stacks read from and wrote to their links, IP headers included.",
		}, []string{"direction"}),
		evict: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "penstock_stack_evictions_total",
			Help: "Datagram flows that were pushed out by newer ones.",
		}),
	}
	reg.MustRegister(m.drops, m.packets, m.bytes, m.evict)
	for _, r := range []DropReason{dropMalformed, dropChecksum, dropAddress, dropProtocol, dropCap, dropQueue, dropPanic} {
		m.drops.WithLabelValues(string(r))
	}
	return m
}

// Drop counts one packet or flow that another part of the line did not carry. reason is from that part's closed set.
func (m *Metrics) Drop(reason string) { m.drop(DropReason(reason)) }

func (m *Metrics) drop(reason DropReason) {
	if m != nil {
		m.drops.WithLabelValues(string(reason)).Inc()
	}
}

func (m *Metrics) read(n int) {
	if m != nil {
		m.packets.WithLabelValues("in").Inc()
		m.bytes.WithLabelValues("in").Add(float64(n))
	}
}

func (m *Metrics) wrote(n int) {
	if m != nil {
		m.packets.WithLabelValues("out").Inc()
		m.bytes.WithLabelValues("out").Add(float64(n))
	}
}

func (m *Metrics) evicted() {
	if m != nil {
		m.evict.Inc()
	}
}
