package fleet

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics counts what a node does.
type metrics struct {
	takenOver prometheus.Counter
	handed    *prometheus.CounterVec
	offered   prometheus.Counter
	refusals  prometheus.Counter
	forged    prometheus.Counter
}

func newMetrics(n *Node) metrics {
	m := metrics{
		takenOver: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "penstock_fleet_peers_taken_over_total", Help: "Peers of other gateways that this one called to take them over.",
		}),
		handed: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "penstock_fleet_peers_handed_over_total",
			Help: "Sessions that this gateway dropped in favour of others, because it was drained or unfit, it had more peers, or the peer had a later handshake elsewhere.",
		}, []string{"reason"}),
		offered: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "penstock_fleet_peers_offered_total", Help: "Peers that had just come and were offered to a gateway with fewer. Those that it could not call stayed.",
		}),
		refusals: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "penstock_fleet_bundles_refused_total", Help: "Bundles that were not put in force.",
		}),
		forged: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "penstock_fleet_joins_refused_total", Help: "Joins in the store that are forged, damaged, or second ones to an invitation.",
		}),
	}
	for _, reason := range []string{Draining, Unfit, "load", "later"} {
		m.handed.WithLabelValues(reason)
	}
	gauge := func(name, help string, value func() float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help, ConstLabels: prometheus.Labels{"site": n.site}}, value)
	}
	is := func(so func() bool) func() float64 {
		return func() float64 {
			if so() {
				return 1
			}
			return 0
		}
	}
	n.Registry.MustRegister(m.takenOver, m.handed, m.offered, m.refusals, m.forged,
		gauge("penstock_fleet_peers", "Peers with a session with this gateway.", func() float64 {
			n.mu.Lock()
			defer n.mu.Unlock()
			return float64(len(n.own))
		}),
		gauge("penstock_fleet_connected", "1 if the store of the fleet can be used.", is(n.Connected)),
		gauge("penstock_fleet_bundle_refused", "1 if the newest bundle that the store has told of was not put in force.", is(n.refuses)),
		gauge("penstock_fleet_generation", "Generation of the bundle in force.", func() float64 { return float64(n.Live().Fleet.Generation) }),
		gauge("penstock_fleet_gateways", "Gateways in the bundle.", func() float64 { return float64(len(n.Live().Site.Gateways)) }),
		gauge("penstock_fleet_gateways_serving", "Gateways of the site that serve, as this one sees them.", func() float64 {
			return float64(len(n.see(time.Now()).takers))
		}),
	)
	return m
}

// refuses reports whether the newest bundle that the store has told of was not put in force.
func (n *Node) refuses() bool { return n.bundles.last().err != nil }

func (m metrics) taken(peers int) { m.takenOver.Add(float64(peers)) }

func (m metrics) handedOver(reason string) { m.handed.WithLabelValues(reason).Inc() }
