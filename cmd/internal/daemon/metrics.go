package daemon

import (
	"runtime"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"penstock/dnsproxy"
	"penstock/router"
	"penstock/router/transport"
	"penstock/router/transport/openvpn"
	"penstock/stack"
)

// metrics is every package's metrics, and those of the whole.
type metrics struct {
	stack     *stack.Metrics
	router    *router.Metrics
	transport *transport.Metrics
	openvpn   *openvpn.Metrics
	dns       *dnsproxy.Metrics

	entries     *prometheus.GaugeVec
	listSuccess *prometheus.GaugeVec
	listFailed  prometheus.Counter
	reloaded    prometheus.Gauge
}

func newMetrics(reg *prometheus.Registry, d *Daemon) metrics {
	m := metrics{
		stack:     stack.NewMetrics(reg),
		router:    router.NewMetrics(reg),
		transport: transport.NewMetrics(reg),
		openvpn:   openvpn.NewMetrics(reg),
		dns:       dnsproxy.NewMetrics(reg),
		entries: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "penstock_list_entries",
			Help: "Entries of a category's lists as they were read.",
		}, []string{"category"}),
		listSuccess: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "penstock_list_last_success_timestamp_seconds",
			Help: "When all of a category's lists were last read without a fault, in seconds since 1970.",
		}, []string{"category"}),
		listFailed: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "penstock_list_failures_total",
			Help: "Lists that could not be read.",
		}),
		reloaded: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "penstock_policy_reload_success",
			Help: "1 if the last reload came into force, 0 if it was refused.",
		}),
	}
	build := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "penstock_build_info",
		Help: "Always 1; the labels say what runs.",
	}, []string{"version", "goversion"})
	build.WithLabelValues(d.opts.Version, runtime.Version()).Set(1)
	m.reloaded.Set(1)
	reg.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		build, m.entries, m.listSuccess, m.listFailed, m.reloaded,
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
			Help: "Number of the policy in force; it grows with every change.",
		}, func() float64 {
			if d.rules == nil {
				return 0
			}
			return float64(d.rules.generation())
		}),
		stateCollector{d, prometheus.NewDesc("penstock_state", "1 for the state that the process is in.", []string{"state"}, nil)},
	)
	return m
}

// lists notes how reading the lists went.
func (m metrics) lists(status []listStatus) {
	m.entries.Reset()
	failed := make(map[string]bool)
	for _, s := range status {
		m.entries.WithLabelValues(s.Category).Add(float64(s.Entries))
		if s.Err != nil {
			failed[s.Category] = true
			m.listFailed.Inc()
		}
	}
	now := float64(time.Now().Unix())
	for _, s := range status {
		if !failed[s.Category] {
			m.listSuccess.WithLabelValues(s.Category).Set(now)
		}
	}
}

// stateCollector tells the state of the process when it is asked.
type stateCollector struct {
	d    *Daemon
	desc *prometheus.Desc
}

func (c stateCollector) Describe(ch chan<- *prometheus.Desc) { ch <- c.desc }

func (c stateCollector) Collect(ch chan<- prometheus.Metric) {
	now := transport.Connecting
	if c.d.egress != nil {
		now = c.d.overall().State
	}
	for _, s := range transport.States() {
		v := 0.0
		if s == now {
			v = 1
		}
		ch <- prometheus.MustNewConstMetric(c.desc, prometheus.GaugeValue, v, s.String())
	}
}
