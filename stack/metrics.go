package stack

import (
	"github.com/prometheus/client_golang/prometheus"

	"penstock/stack/packet"
)

// dropReason is why a packet or flow was not carried. The set is closed: it labels metrics.
type dropReason string

// Reasons of this package.
const (
	dropMalformed = dropReason(packet.Malformed)
	dropChecksum  = dropReason(packet.BadChecksum)
	dropAddress   = dropReason(packet.BadAddress)
	dropProtocol  = dropReason("protocol")
	dropSource    = dropReason("source") // of an address that is no client's, or not that of the peer that sent it
	dropCap       = dropReason("cap")
	dropQueue     = dropReason("queue")
	dropPanic     = dropReason("panic")
)

// Metrics counts what stacks read, write and drop. A nil *Metrics counts nothing.
type Metrics struct {
	drops *prometheus.CounterVec
	in    traffic
	out   traffic
	evict prometheus.Counter
}

// traffic counts one direction. Its counters are found once: a look-up by label for each packet would cost more than the
// counting.
type traffic struct{ packets, bytes prometheus.Counter }

func (t traffic) count(n int) {
	t.packets.Inc()
	t.bytes.Add(float64(n))
}

// NewMetrics makes the metrics and registers them with reg. One Metrics serves all stacks of a process.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	packets := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "penstock_stack_packets_total",
		Help: "Packets and super-packets that stacks read from and wrote to their links.",
	}, []string{"direction"})
	bytes := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "penstock_stack_bytes_total",
		Help: "Bytes that stacks read from and wrote to their links, IP headers included.",
	}, []string{"direction"})
	m := &Metrics{
		in:  traffic{packets.WithLabelValues("in"), bytes.WithLabelValues("in")},
		out: traffic{packets.WithLabelValues("out"), bytes.WithLabelValues("out")},
		drops: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "penstock_drops_total",
			Help: "Packets and flows that were not carried, by reason.",
		}, []string{"reason"}),
		evict: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "penstock_stack_evictions_total",
			Help: "Flows that were pushed out by newer ones.",
		}),
	}
	reg.MustRegister(m.drops, packets, bytes, m.evict)
	for _, r := range []dropReason{dropMalformed, dropChecksum, dropAddress, dropProtocol, dropSource, dropCap, dropQueue, dropPanic} {
		m.drops.WithLabelValues(string(r))
	}
	return m
}

// Drop counts one packet or flow that another part of the line did not carry. reason is from that part's closed set.
func (m *Metrics) Drop(reason string) { m.drop(dropReason(reason)) }

func (m *Metrics) drop(reason dropReason) {
	if m != nil {
		m.drops.WithLabelValues(string(reason)).Inc()
	}
}

func (m *Metrics) read(n int) {
	if m != nil {
		m.in.count(n)
	}
}

// Wrote counts a packet that went out.
func (m *Metrics) Wrote(n int) {
	if m != nil {
		m.out.count(n)
	}
}

// Evicted counts a flow that was pushed out by a newer one.
func (m *Metrics) Evicted() {
	if m != nil {
		m.evict.Inc()
	}
}
