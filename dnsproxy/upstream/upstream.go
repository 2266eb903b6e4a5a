package upstream

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net/netip"
	"sync"
	"time"
)

const (
	firstTimeout = time.Second           // before the next attempt, while nothing is known about an upstream
	minHedge     = 50 * time.Millisecond // a shorter wait would cost more queries than it saves time
	downAfter    = 3                     // failures in a row
	minBackoff   = time.Second
	maxBackoff   = 30 * time.Second
	plainFor     = 15 * time.Minute // before an upstream that did not know EDNS is asked with it again
)

// Upstream is one resolver and its health. It is down after downAfter failures in a row. While it is down, one query per back-off
// goes there (half open); an answer makes it up again.
type Upstream struct {
	protocol    protocol
	unencrypted bool // asked over UDP or TCP
	name        string
	log         *slog.Logger
	metrics     *Metrics

	mu        sync.Mutex // guards below
	rtt       time.Duration
	deviation time.Duration
	failures  int       // in a row
	retry     time.Time // while down: when the next query may try
	plain     time.Time // until when it is asked without EDNS
}

// New returns the upstream that t describes. It opens nothing.
func New(cfg Config, t Target) *Upstream {
	if cfg.Refuse == nil {
		cfg.Refuse = func(netip.AddrPort) bool { return false }
	}
	return &Upstream{
		name: t.Name, log: cfg.Log, metrics: cfg.Metrics,
		unencrypted: t.at.scheme == "udp" || t.at.scheme == "tcp",
		protocol:    newProtocol(&reach{cfg: &cfg, endpoint: t.at, via: t.Via, addrs: t.Bootstrap}),
	}
}

func newProtocol(r *reach) protocol {
	config := &tls.Config{ServerName: r.host, RootCAs: r.cfg.RootCAs}
	config.ClientSessionCache = tls.NewLRUClientSessionCache(4) // connections are closed when idle and made again often
	switch r.scheme {
	case "https":
		return newHTTPSProtocol(r, config)
	case "h3":
		return newH3Protocol(r, config)
	case "quic":
		return newDoQProtocol(r, config)
	case "tls":
		config.NextProtos = []string{"dot"} // RFC 7858 has no ALPN, IANA registered this one since
		return newStreamProtocol(r, config)
	case "tcp":
		return newStreamProtocol(r, nil)
	}
	return &udpProtocol{reach: r, stream: newStreamProtocol(r, nil)}
}

// Tidy closes connections that have been idle for long.
func (u *Upstream) Tidy() { u.protocol.tidy() }

// Reconnect makes the next query open a new connection, and forgets the upstream's health, which may be different on another
// network. Queries in flight keep their connections.
func (u *Upstream) Reconnect() {
	u.protocol.reset()
	u.mu.Lock()
	defer u.mu.Unlock()
	u.rtt, u.deviation, u.failures, u.retry, u.plain = 0, 0, 0, time.Time{}, time.Time{}
}

// isPlain reports whether the upstream is to be asked without EDNS.
func (u *Upstream) isPlain(now time.Time) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return now.Before(u.plain)
}

// foundPlain notes that the upstream does not know EDNS.
func (u *Upstream) foundPlain(now time.Time) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.plain = now.Add(plainFor)
	u.log.Debug("dns upstream does not know EDNS", "upstream", u.name)
}

// Retire closes connections as soon as no query waits on them, now and in future.
func (u *Upstream) Retire() { u.protocol.retire() }

// note records how an attempt to ask the upstream ended.
func (u *Upstream) note(ctx context.Context, err error, after time.Duration) {
	var answered *Failure
	switch cause := context.Cause(ctx); {
	case err == nil:
		u.succeeded(after)
		u.metrics.answered(u.name, after)
	case errors.As(err, &answered): // it is alive, even if it has no answer
		u.succeeded(after)
		u.metrics.answered(u.name, after)
		u.metrics.failed(u.name)
	case errors.Is(cause, errOutrun):
		u.outrun(after)
	case errors.Is(cause, context.Canceled): // nobody waits for the answer any more
	default:
		u.failed()
		u.metrics.failed(u.name)
	}
}

// succeeded records an answer and how long it took.
func (u *Upstream) succeeded(after time.Duration) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.failures >= downAfter {
		u.log.Info("dns upstream up", "upstream", u.name)
	}
	u.failures = 0
	u.observeLocked(after)
}

// outrun records that another upstream was faster. After a second without an answer this one counts as silent.
func (u *Upstream) outrun(after time.Duration) {
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

func (u *Upstream) failed() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.failures++
	u.retry = time.Now().Add(u.backoffLocked())
	if u.failures == downAfter {
		u.log.Warn("dns upstream down", "upstream", u.name)
	}
}

// observeLocked is RFC 6298's estimate: the mean and the mean deviation of the round trip.
func (u *Upstream) observeLocked(rtt time.Duration) {
	if u.rtt == 0 {
		u.rtt, u.deviation = rtt, rtt/2
		return
	}
	u.deviation += ((u.rtt - rtt).Abs() - u.deviation) / 4
	u.rtt += (rtt - u.rtt) / 8
}

func (u *Upstream) backoffLocked() time.Duration {
	over := min(max(u.failures-downAfter, 0), 5)
	return min(minBackoff<<over, maxBackoff)
}

// hedge is how long 95 % of the answers take at most. After that it is worth asking the next upstream too.
func (u *Upstream) hedge() time.Duration {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.rtt == 0 {
		return firstTimeout
	}
	return min(max(u.rtt+3*u.deviation, minHedge), firstTimeout)
}

// takes reports whether a query may go to the upstream in its turn. While it is down, it takes one per back-off.
func (u *Upstream) takes(now time.Time) bool {
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

func (u *Upstream) average() time.Duration {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.rtt
}
