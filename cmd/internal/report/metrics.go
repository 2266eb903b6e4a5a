package report

import (
	"github.com/prometheus/client_golang/prometheus"

	"penstock/router/transport"
)

// Collector collects the state of the process at each scrape.
type Collector struct {
	process func() *Process // nil before there is one

	state, reloaded *prometheus.Desc
}

// NewCollector returns the Collector of a process that there may not be yet.
func NewCollector(process func() *Process) *Collector {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc(name, help, labels, nil)
	}
	return &Collector{
		process:  process,
		state:    desc("penstock_state", "1 for the current state of the process, 0 for the others.", "state"),
		reloaded: desc("penstock_policy_reload_success", "1 if the last reload succeeded, 0 if it was refused."),
	}
}

// Describe implements prometheus.Collector.
func (c *Collector) Describe(ch chan<- *prometheus.Desc) {
	ch <- c.state
	ch <- c.reloaded
}

// Collect implements prometheus.Collector.
func (c *Collector) Collect(ch chan<- prometheus.Metric) {
	p := c.process()
	now, reloaded := transport.Connecting, true
	if p != nil {
		now, reloaded = p.Overall().State, p.reloadError() == ""
	}
	for _, s := range transport.States() {
		ch <- prometheus.MustNewConstMetric(c.state, prometheus.GaugeValue, number(s == now), s.String())
	}
	ch <- prometheus.MustNewConstMetric(c.reloaded, prometheus.GaugeValue, number(reloaded))
}

func number(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
