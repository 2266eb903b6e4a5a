package dnsproxy

import (
	"github.com/prometheus/client_golang/prometheus"

	"penstock/dnsproxy/upstream"
)

// result says how a query ended; it is the label of penstock_dns_queries_total.
type result uint8

const (
	resultDropped   result = iota // silence: not a query, off the tunnel, or a rule that drops
	resultMalformed               // FORMERR, NOTIMP or BADVERS
	resultLocal                   // special names and types, answered without an upstream
	resultBlocked
	resultCached
	resultForwarded  // answered by an upstream
	resultStale      // the upstream failed and an expired answer was used
	resultFailed     // SERVFAIL
	resultLimited    // the client asks too fast
	resultOverloaded // too many queries wait already
	resultCount
)

var resultNames = [resultCount]string{"dropped", "malformed", "local", "blocked", "cached", "forwarded", "stale", "failed", "limited", "overloaded"}

func (r result) String() string { return resultNames[r] }

// protocol is an encrypted way in; it is the label of penstock_dns_encrypted_queries_total.
type protocol uint8

const (
	protocolHTTPS protocol = iota
	protocolTLS
	protocolCount
)

var protocolNames = [protocolCount]string{"https", "tls"}

// Refusal is why a client over TLS was turned away; it is the label of penstock_dns_encrypted_refused_total.
type Refusal uint8

// Refusals.
const (
	RefusedToken       Refusal = iota // it is not known
	RefusedGuessing                   // its address has sent too many unknown tokens
	RefusedConnections                // too many connections
	RefusedHandshake                  // TLS failed or took too long
	RefusedRequest                    // HTTP without a query that RFC 8484 has
	refusalCount
)

var refusalNames = [refusalCount]string{"token", "guessing", "connections", "handshake", "request"}

// Metrics counts what a server does. A nil *Metrics counts nothing.
type Metrics struct {
	queries  [resultCount]prometheus.Counter
	hits     prometheus.Counter
	misses   prometheus.Counter
	entries  prometheus.Gauge
	bytes    prometheus.Gauge
	names    prometheus.Gauge
	inFlight prometheus.Gauge
	turned   prometheus.Counter
	private  [protocolCount]prometheus.Counter
	refused  [refusalCount]prometheus.Counter
	upstream *upstream.Metrics
}

// NewMetrics registers the metrics of a server with reg. It panics if they are registered already, as reg.MustRegister does.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	queries := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "penstock_dns_queries_total", Help: "DNS queries of clients by the way they ended.",
	}, []string{"result"})
	private := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "penstock_dns_encrypted_queries_total", Help: "DNS queries of clients that came encrypted.",
	}, []string{"protocol"})
	refused := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "penstock_dns_encrypted_refused_total", Help: "Connections and requests of encrypted DNS that were turned away.",
	}, []string{"reason"})
	m := &Metrics{
		hits:     prometheus.NewCounter(prometheus.CounterOpts{Name: "penstock_dns_cache_hits_total", Help: "DNS queries answered from the cache."}),
		misses:   prometheus.NewCounter(prometheus.CounterOpts{Name: "penstock_dns_cache_misses_total", Help: "DNS queries that the cache had no fresh answer for."}),
		entries:  prometheus.NewGauge(prometheus.GaugeOpts{Name: "penstock_dns_cache_entries", Help: "Answers in the DNS cache."}),
		bytes:    prometheus.NewGauge(prometheus.GaugeOpts{Name: "penstock_dns_cache_bytes", Help: "Memory that the DNS cache accounts for."}),
		names:    prometheus.NewGauge(prometheus.GaugeOpts{Name: "penstock_dns_names", Help: "Pairs of client and address with names for flows."}),
		inFlight: prometheus.NewGauge(prometheus.GaugeOpts{Name: "penstock_dns_in_flight", Help: "DNS queries that wait for an upstream."}),
		turned:   prometheus.NewCounter(prometheus.CounterOpts{Name: "penstock_dns_connections_refused_total", Help: "TCP connections of DNS clients refused because there were too many."}),
		upstream: upstream.NewMetrics(reg),
	}
	for r := range m.queries {
		m.queries[r] = queries.WithLabelValues(resultNames[r])
	}
	for p := range m.private {
		m.private[p] = private.WithLabelValues(protocolNames[p])
	}
	for r := range m.refused {
		m.refused[r] = refused.WithLabelValues(refusalNames[r])
	}
	reg.MustRegister(queries, private, refused, m.hits, m.misses, m.entries, m.bytes, m.names, m.inFlight, m.turned)
	return m
}

func (m *Metrics) query(r result) {
	if m != nil {
		m.queries[r].Inc()
	}
}

func (m *Metrics) cache(hit bool) {
	switch {
	case m == nil:
	case hit:
		m.hits.Inc()
	default:
		m.misses.Inc()
	}
}

func (m *Metrics) sizes(entries, bytes, names int) {
	if m == nil {
		return
	}
	m.entries.Set(float64(entries))
	m.bytes.Set(float64(bytes))
	m.names.Set(float64(names))
}

func (m *Metrics) flying(delta float64) {
	if m != nil {
		m.inFlight.Add(delta)
	}
}

func (m *Metrics) turnedAway() {
	if m != nil {
		m.turned.Inc()
	}
}

func (m *Metrics) privately(p protocol) {
	if m != nil {
		m.private[p].Inc()
	}
}

// PrivateRefused counts a client over TLS that was turned away.
func (m *Metrics) PrivateRefused(r Refusal) {
	if m != nil {
		m.refused[r].Inc()
	}
}

func (m *Metrics) upstreams() *upstream.Metrics {
	if m == nil {
		return nil
	}
	return m.upstream
}
