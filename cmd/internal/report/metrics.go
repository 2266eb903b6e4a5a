package report

import (
	"strings"

	"github.com/prometheus/client_golang/prometheus"

	"penstock/cmd/internal/config"
	"penstock/cmd/internal/control"
	"penstock/cmd/internal/gateway"
	"penstock/router/transport"
)

// Collector collects the state of the process and of its peers at each scrape.
type Collector struct {
	process func() *Process // nil before there is one
	which   config.Metrics

	state, reloaded           *prometheus.Desc
	target                    *prometheus.Desc
	certificate, begins       *prometheus.Desc
	peers, badFiles           *prometheus.Desc
	handshake, received, sent *prometheus.Desc
	compat                    []*prometheus.Desc // sent, received, handshake

	overQuota, dropped, droppedBytes *prometheus.Desc
	refused                          *prometheus.Desc
	quotaUsed, quotaLimit            *prometheus.Desc
}

// NewCollector returns the Collector of a process that there may not be yet, with the series that a configuration asks for.
func NewCollector(process func() *Process, which config.Metrics) *Collector {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc(name, help, labels, nil)
	}
	c := &Collector{
		process:  process,
		which:    which,
		state:    desc("penstock_state", "1 for the current state of the process, 0 for the others.", "state"),
		reloaded: desc("penstock_policy_reload_success", "1 if the last reload succeeded, 0 if it was refused."),
		target:   desc("penstock_health_target_up", "1 if a health target was reached when it was last dialled, else 0.", "target"),

		certificate: desc("penstock_certificate_expiry_timestamp_seconds", "When a certificate in a file expires, in Unix time, by the section of the configuration that names it; 0 if the file cannot be read.", "use"),
		begins:      desc("penstock_certificate_not_before_timestamp_seconds", "From when a certificate in a file is valid, in Unix time, by the section of the configuration that names it; 0 if the file cannot be read.", "use"),

		peers:    desc("penstock_peers", "Peers of the gateway by state: active is a handshake within the last three minutes.", "state"),
		badFiles: desc("penstock_peers_bad_files", "Files of peers that have faults, so that their peers are as they were before, or left out."),

		handshake: desc("penstock_peer_last_handshake_timestamp_seconds", "When a peer's last handshake was, in Unix time. Needs metrics.peers.", "peer"),
		received:  desc("penstock_peer_received_bytes_total", "Bytes received from a peer. Needs metrics.peers.", "peer"),
		sent:      desc("penstock_peer_sent_bytes_total", "Bytes sent to a peer. Needs metrics.peers.", "peer"),

		overQuota:    desc("penstock_peers_over_quota", "Peers that have used up their quotas of this month."),
		dropped:      desc("penstock_rate_dropped_packets_total", "Packets that were dropped because they were above the rates of peers; up is from peers.", "direction"),
		droppedBytes: desc("penstock_rate_dropped_bytes_total", "Bytes that were dropped because they were above the rates of peers; up is from peers.", "direction"),
		refused:      desc("penstock_handshakes_refused_total", "Handshake messages that a gateway refused, by reason.", "reason"),
		quotaUsed:    desc("penstock_peer_quota_used_bytes", "What a peer has used of its quota in this month. Needs metrics.peers.", "peer"),
		quotaLimit:   desc("penstock_peer_quota_limit_bytes", "A peer's quota of a month. Needs metrics.peers.", "peer"),
	}
	if which.Compat != "" { // docs of prometheus_wireguard_exporter 3.6, without its options
		labels := []string{"interface", "public_key", "allowed_ips", "friendly_name"}
		c.compat = []*prometheus.Desc{
			desc("wireguard_sent_bytes_total", "Bytes sent to a peer. Needs metrics.compat.", labels...),
			desc("wireguard_received_bytes_total", "Bytes received from a peer. Needs metrics.compat.", labels...),
			desc("wireguard_latest_handshake_seconds", "When a peer's last handshake was, in Unix time; 0 if there was none. Needs metrics.compat.", labels...),
		}
	}
	return c
}

// Describe implements prometheus.Collector.
func (c *Collector) Describe(ch chan<- *prometheus.Desc) {
	for _, desc := range []*prometheus.Desc{
		c.state, c.reloaded, c.target, c.certificate, c.begins, c.peers, c.badFiles, c.handshake, c.received, c.sent,
		c.overQuota, c.dropped, c.droppedBytes, c.refused, c.quotaUsed, c.quotaLimit,
	} {
		ch <- desc
	}
	for _, desc := range c.compat {
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
	if p != nil {
		for _, f := range config.CertificateFiles(p.Live.Config()) {
			begins, expires := 0.0, 0.0
			if leaf, err := f.Leaf(); err == nil {
				begins, expires = float64(leaf.NotBefore.Unix()), float64(leaf.NotAfter.Unix())
			}
			ch <- prometheus.MustNewConstMetric(c.certificate, prometheus.GaugeValue, expires, f.Use)
			ch <- prometheus.MustNewConstMetric(c.begins, prometheus.GaugeValue, begins, f.Use)
		}
	}
	if p != nil && p.hasPeers() {
		c.collectPeers(&Peers{Live: p.Live, Gateway: p.Gateway, SignIn: p.SignIn}, ch)
	}
}

func (c *Collector) collectPeers(p *Peers, ch chan<- prometheus.Metric) {
	n := p.counts()
	for state, count := range map[string]int{"active": n.Active, "idle": n.Idle, "disabled": n.Disabled, "expired": n.Expired} {
		ch <- prometheus.MustNewConstMetric(c.peers, prometheus.GaugeValue, float64(count), state)
	}
	ch <- prometheus.MustNewConstMetric(c.badFiles, prometheus.GaugeValue, float64(len(n.Bad)))
	ch <- prometheus.MustNewConstMetric(c.overQuota, prometheus.GaugeValue, float64(n.OverQuota))
	for name, direction := range map[string]gateway.Direction{"up": gateway.Up, "down": gateway.Down} {
		packets, bytes := p.Gateway.Dropped(direction)
		ch <- prometheus.MustNewConstMetric(c.dropped, prometheus.CounterValue, float64(packets), name)
		ch <- prometheus.MustNewConstMetric(c.droppedBytes, prometheus.CounterValue, float64(bytes), name)
	}
	for reason, count := range p.refused() {
		ch <- prometheus.MustNewConstMetric(c.refused, prometheus.CounterValue, float64(count), reason)
	}
	if !c.which.Peers && c.compat == nil {
		return // with many peers the list takes long
	}
	for _, peer := range p.list() {
		c.collectCompat(peer, ch)
		if !c.which.Peers {
			continue
		}
		if !peer.LastHandshake.IsZero() {
			ch <- prometheus.MustNewConstMetric(c.handshake, prometheus.GaugeValue, float64(peer.LastHandshake.Unix()), peer.Name)
		}
		ch <- prometheus.MustNewConstMetric(c.received, prometheus.CounterValue, float64(peer.RxBytes), peer.Name)
		ch <- prometheus.MustNewConstMetric(c.sent, prometheus.CounterValue, float64(peer.TxBytes), peer.Name)
		if q := peer.Quota; q != nil {
			ch <- prometheus.MustNewConstMetric(c.quotaUsed, prometheus.GaugeValue, float64(q.UsedBytes), peer.Name)
			ch <- prometheus.MustNewConstMetric(c.quotaLimit, prometheus.GaugeValue, float64(q.LimitBytes), peer.Name)
		}
	}
}

// collectCompat sends the series of a peer under the names of the other exporter, which knows none without a tunnel.
func (c *Collector) collectCompat(peer control.PeerStatus, ch chan<- prometheus.Metric) {
	if c.compat == nil || peer.PublicKey == "" {
		return
	}
	labels := []string{"penstock", peer.PublicKey, strings.Join(peer.Addresses, ","), peer.Name}
	handshake := 0.0
	if !peer.LastHandshake.IsZero() {
		handshake = float64(peer.LastHandshake.Unix())
	}
	ch <- prometheus.MustNewConstMetric(c.compat[0], prometheus.CounterValue, float64(peer.TxBytes), labels...)
	ch <- prometheus.MustNewConstMetric(c.compat[1], prometheus.CounterValue, float64(peer.RxBytes), labels...)
	ch <- prometheus.MustNewConstMetric(c.compat[2], prometheus.GaugeValue, handshake, labels...)
}

func number(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
