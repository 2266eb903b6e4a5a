package acme

import "github.com/prometheus/client_golang/prometheus"

// metrics are of certificates, by the page that they are for.
type metrics struct{ expiry, renewal *prometheus.GaugeVec }

func newMetrics(reg prometheus.Registerer) metrics {
	gauge := func(name, help string) *prometheus.GaugeVec {
		return prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: name, Help: help}, []string{"site"})
	}
	m := metrics{
		expiry:  gauge("penstock_acme_certificate_expiry_timestamp_seconds", "When the certificate from the authority expires, by the section of the configuration that it is for; 0 while there is none."),
		renewal: gauge("penstock_acme_certificate_renewal_timestamp_seconds", "When the certificate from the authority is to be renewed, by the section of the configuration that it is for; 0 while there is none."),
	}
	if reg != nil {
		reg.MustRegister(m.expiry, m.renewal)
	}
	return m
}

// show shows the certificate of a host.
func (m metrics) show(h *host) {
	var expiry, renewal float64
	if h.cert != nil {
		expiry, renewal = float64(h.cert.Leaf.NotAfter.Unix()), float64(h.renewal().Unix())
	}
	for _, site := range h.sites {
		m.expiry.WithLabelValues(site).Set(expiry)
		m.renewal.WithLabelValues(site).Set(renewal)
	}
}

// forget removes pages that want no certificate any more.
func (m metrics) forget(sites []string) {
	for _, site := range sites {
		m.expiry.DeleteLabelValues(site)
		m.renewal.DeleteLabelValues(site)
	}
}
