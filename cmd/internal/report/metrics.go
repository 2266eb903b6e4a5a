package report

import (
	"github.com/prometheus/client_golang/prometheus"

	"penstock/router/transport"
)

// Collector collects the state of the process and of its peers at each scrape.
type Collector struct {
	process func() *Process // nil before there is one
	each    bool            // peers by their names too

	state, reloaded           *prometheus.Desc
	target                    *prometheus.Desc
	peers, badFiles           *prometheus.Desc
	handshake, received, sent *prometheus.Desc
}

// NewCollector returns the Collector of a process that there may not be yet. With each it has series for each peer.
func NewCollector(process func() *Process, each bool) *Collector {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc(name, help, labels, nil)
	}
	return &Collector{
		process:  process,
		each:     each,
		state:    desc("penstock_state", "1 for the current state of the process, 0 for the others.", "state"),
		reloaded: desc("penstock_policy_reload_success", "1 if the last reload succeeded, 0 if it was refused."),
		target:   desc("penstock_health_target_up", "1 if a health target was reached when it was last dialled, else 0.", "target"),

		peers:    desc("penstock_peers", "Peers of the gateway by state: active is a handshake within the last three minutes.", "state"),
		badFiles: desc("penstock_peers_bad_files", "Files of peers that have faults, so that their peers are as they were before, or left out."),

		handshake: desc("penstock_peer_last_handshake_timestamp_seconds", "When a peer's last handshake was, in Unix time. Needs metrics.peers.", "peer"),
		received:  desc("penstock_peer_received_bytes_total", "Bytes received from a peer. Needs metrics.peers.", "peer"),
		sent:      desc("penstock_peer_sent_bytes_total", "Bytes sent to a peer. Needs metrics.peers.", "peer"),
	}
}

// Describe implements prometheus.Collector.
func (c *Collector) Describe(ch chan<- *prometheus.Desc) {
	for _, desc := range []*prometheus.Desc{c.state, c.reloaded, c.target, c.peers, c.badFiles, c.handshake, c.received, c.sent} {
		ch <- desc
	}
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
	if p != nil && p.Health != nil {
		for _, t := range p.Health.Last() {
			ch <- prometheus.MustNewConstMetric(c.target, prometheus.GaugeValue, number(t.Err == nil), t.Name)
		}
	}
	if p != nil && p.Gateway != nil {
		c.collectPeers(&Peers{p.Live, p.Gateway, p.SignIn}, ch)
	}
}

func (c *Collector) collectPeers(p *Peers, ch chan<- prometheus.Metric) {
	list := p.list()
	n := p.counts(list)
	for state, count := range map[string]int{"active": n.Active, "idle": n.Idle, "disabled": n.Disabled, "expired": n.Expired} {
		ch <- prometheus.MustNewConstMetric(c.peers, prometheus.GaugeValue, float64(count), state)
	}
	ch <- prometheus.MustNewConstMetric(c.badFiles, prometheus.GaugeValue, float64(len(n.Bad)))
	if !c.each {
		return
	}
	for _, peer := range list {
		if !peer.LastHandshake.IsZero() {
			ch <- prometheus.MustNewConstMetric(c.handshake, prometheus.GaugeValue, float64(peer.LastHandshake.Unix()), peer.Name)
		}
		ch <- prometheus.MustNewConstMetric(c.received, prometheus.CounterValue, float64(peer.RxBytes), peer.Name)
		ch <- prometheus.MustNewConstMetric(c.sent, prometheus.CounterValue, float64(peer.TxBytes), peer.Name)
	}
}

func number(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
