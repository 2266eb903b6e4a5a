package daemon

import (
	"runtime"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"penstock/cmd/internal/egress"
	"penstock/cmd/internal/lists"
	"penstock/dnsproxy"
	"penstock/router"
	"penstock/router/transport"
	"penstock/router/transport/openvpn"
	"penstock/stack"
)

// metrics holds the metrics of all packages and of the daemon itself.
type metrics struct {
	stack  *stack.Metrics
	router *router.Metrics
	egress egress.Metrics
	dns    *dnsproxy.Metrics
	lists  *lists.Metrics

	reloaded       prometheus.Gauge
	flowLogDropped prometheus.Counter
}

func newMetrics(reg *prometheus.Registry, d *Daemon) metrics {
	m := metrics{
		stack:  stack.NewMetrics(reg),
		router: router.NewMetrics(reg),
		dns:    dnsproxy.NewMetrics(reg),
		lists:  lists.NewMetrics(reg),
		flowLogDropped: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "penstock_flow_log_dropped_total",
			Help: "Records of finished flows that could not be written to the flow log.",
		}),
		reloaded: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "penstock_policy_reload_success",
			Help: "1 if the last reload succeeded, 0 if it was refused.",
		}),
	}
	m.egress = egress.Metrics{
		Stack: m.stack, Transport: transport.NewMetrics(reg), OpenVPN: openvpn.NewMetrics(reg), Reset: egress.NewResetMetric(reg),
	}
	build := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "penstock_build_info",
		Help: "Always 1. The labels say which build is running.",
	}, []string{"version", "goversion"})
	build.WithLabelValues(d.opts.Version, runtime.Version()).Set(1)
	m.reloaded.Set(1)
	reg.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		build, m.reloaded, m.flowLogDropped,
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "penstock_flows_active",
			Help: "Live flows.",
		}, func() float64 {
			if d.router == nil {
				return 0
			}
			return float64(d.router.Active())
		}),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "penstock_policy_generation",
			Help: "Number of the current policy. It grows with every change.",
		}, func() float64 {
			if d.live == nil || d.live.Now() == nil {
				return 0
			}
			return float64(d.live.Now().Number)
		}),
		stateCollector{d, prometheus.NewDesc("penstock_state", "1 for the current state of the process, 0 for the others.", []string{"state"}, nil)},
	)
	return m
}

// reloadEnded records the outcome of a reload.
func (m *metrics) reloadEnded(err error) {
	m.reloaded.Set(1)
	if err != nil {
		m.reloaded.Set(0)
	}
}

// stateCollector collects the state of the process at each scrape.
type stateCollector struct {
	d    *Daemon
	desc *prometheus.Desc
}

func (c stateCollector) Describe(ch chan<- *prometheus.Desc) { ch <- c.desc }

func (c stateCollector) Collect(ch chan<- prometheus.Metric) {
	now := transport.Connecting
	if c.d.status != nil {
		now = c.d.status.Overall().State
	}
	for _, s := range transport.States() {
		v := 0.0
		if s == now {
			v = 1
		}
		ch <- prometheus.MustNewConstMetric(c.desc, prometheus.GaugeValue, v, s.String())
	}
}
