package dnsproxy

import (
	"crypto/tls"
	"errors"
	"log/slog"
	"sync"
	"time"
)

const (
	firstTimeout = time.Second           // before the next attempt, while nothing is known about an upstream
	minHedge     = 50 * time.Millisecond // below, a second question would cost more than it saves
	downAfter    = 3                     // failures in a row
	minBackoff   = time.Second
	maxBackoff   = 30 * time.Second
)

// upstream is one resolver and what is known of its health. It is up, or down after downAfter failures in a row; from down one
// query at a time goes there when the back-off is over (half open), and its answer makes the upstream up again.
type upstream struct {
	protocol
	name string
	log  *slog.Logger

	mu        sync.Mutex // guards below
	rtt       time.Duration
	deviation time.Duration
	failures  int       // in a row
	retry     time.Time // while down: when the next query may try
}

// newUpstream makes the upstream that t describes. It opens nothing.
func (s *Server) newUpstream(t target) *upstream {
	r := &reach{endpoint: t.at, via: t.Via, dialer: s.cfg.Dialer, addrs: t.Bootstrap, resolve: s.cfg.Resolve, refuse: s.leadsBack}
	return &upstream{name: t.Name, log: s.cfg.Log, protocol: s.protocol(r)}
}

// errLoop says that a query would come back, or has come back, to this server.
var errLoop = errors.New("leads back to this server")

func (s *Server) protocol(r *reach) protocol {
	config := &tls.Config{ServerName: r.host, RootCAs: s.cfg.RootCAs}
	config.ClientSessionCache = tls.NewLRUClientSessionCache(4) // connections are closed when idle and made again often
	spawn := s.tasks.spawn
	switch r.scheme {
	case "https":
		return newHTTPSProtocol(r, config)
	case "h3":
		return newH3Protocol(r, config, spawn)
	case "quic":
		return newDoQProtocol(r, config, spawn)
	case "tls":
		config.NextProtos = []string{"dot"} // RFC 7858 has no ALPN, IANA registered this one since
		return newStreamProtocol(r, config, spawn)
	case "tcp":
		return newStreamProtocol(r, nil, spawn)
	}
	return &udpProtocol{reach: r, stream: newStreamProtocol(r, nil, spawn), metrics: s.cfg.Metrics}
}

// succeeded notes an answer after some time.
func (u *upstream) succeeded(after time.Duration) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.failures >= downAfter {
		u.log.Info("dns upstream up", "upstream", u.name)
	}
	u.failures = 0
	u.observeLocked(after)
}

// outrun notes that another upstream was faster: this one needs longer than it was given, or is not there at all.
func (u *upstream) outrun(after time.Duration) {
	if after >= firstTimeout {
		u.failed()
		return
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if after > u.rtt {
		u.observeLocked(after)
	}
}

func (u *upstream) failed() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.failures++
	u.retry = time.Now().Add(u.backoffLocked())
	if u.failures == downAfter {
		u.log.Warn("dns upstream down", "upstream", u.name)
	}
}

// observeLocked is RFC 6298's estimate: the mean and the mean deviation of the round trip.
func (u *upstream) observeLocked(rtt time.Duration) {
	if u.rtt == 0 {
		u.rtt, u.deviation = rtt, rtt/2
		return
	}
	u.deviation += ((u.rtt - rtt).Abs() - u.deviation) / 4
	u.rtt += (rtt - u.rtt) / 8
}

func (u *upstream) backoffLocked() time.Duration {
	over := min(max(u.failures-downAfter, 0), 5)
	return min(minBackoff<<over, maxBackoff)
}

// hedge is how long an answer takes at most in nineteen of twenty cases: after that the next upstream is worth asking too.
func (u *upstream) hedge() time.Duration {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.rtt == 0 {
		return firstTimeout
	}
	return min(max(u.rtt+3*u.deviation, minHedge), firstTimeout)
}

// takes says whether a query may go to the upstream in its turn. Down, it takes one per back-off.
func (u *upstream) takes(now time.Time) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.failures < downAfter {
		return true
	}
	if now.Before(u.retry) {
		return false
	}
	u.retry = now.Add(u.backoffLocked())
	return true
}

// reset forgets connections and health: what was found out on one network says nothing of another.
func (u *upstream) reset() {
	u.protocol.reset()
	u.mu.Lock()
	defer u.mu.Unlock()
	u.rtt, u.deviation, u.failures, u.retry = 0, 0, 0, time.Time{}
}

func (u *upstream) average() time.Duration {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.rtt
}
