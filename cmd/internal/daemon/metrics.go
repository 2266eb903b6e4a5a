package daemon

import (
	"runtime"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"penstock/cmd/internal/egress"
	"penstock/cmd/internal/lists"
	"penstock/cmd/internal/report"
	"penstock/cmd/internal/signin"
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
	signIn *signin.Metrics
}

func newMetrics(reg *prometheus.Registry, d *Daemon) metrics {
	m := metrics{
		stack:  stack.NewMetrics(reg),
		router: router.NewMetrics(reg),
		dns:    dnsproxy.NewMetrics(reg),
		lists:  lists.NewMetrics(reg),
		signIn: signin.NewMetrics(reg),
	}
	m.egress = egress.Metrics{
		Stack: m.stack, Transport: transport.NewMetrics(reg), OpenVPN: openvpn.NewMetrics(reg), Reset: egress.NewResetMetric(reg),
	}
	build := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "penstock_build_info",
		Help: "Always 1. The labels say which build is running.",
	}, []string{"version", "goversion"})
	build.WithLabelValues(d.opts.Version, runtime.Version()).Set(1)
	reg.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		build,
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "penstock_flows_active",
			Help: "Live flows.",
		}, func() float64 { return float64(d.router.Active()) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "penstock_policy_generation",
			Help: "Number of the current policy. It grows with every change.",
		}, func() float64 { return float64(d.live.Now().Number) }),
		report.NewCollector(d.process.Load, d.began.Metrics),
	)
	return m
}
