package openvpn

import (
	"time"

	"penstock/router/transport"
)

const (
	suspectWait  = 5 * time.Second // for an answer, after the server's host said that the port is closed
	suspectProbe = time.Second
)

// liveness decides when the server is to hear from us and when it is given up.
type liveness struct {
	ping, restart time.Duration
	suspect       time.Time // the port was reported closed; zero: not
	probeAt       time.Time
}

// newLiveness takes what the server pushed, then what the profile says, then our own defaults: a session without
// liveness would look up for ever.
func newLiveness(p *pushed, t timers) liveness {
	l := liveness{ping: defaultPing, restart: defaultPingRestart}
	for _, v := range []time.Duration{t.ping, p.ping} {
		if v > 0 {
			l.ping = v
		}
	}
	for _, v := range []time.Duration{t.pingRestart, p.pingRestart} {
		if v > 0 {
			l.restart = v
		}
	}
	return l
}

// checkAlive sends pings and probes that are due. Its error ends the session.
func (s *session) checkAlive(now time.Time) error {
	l := &s.liveness
	heard := s.heard.get(s.start)
	if s.refused.Swap(false) && l.suspect.IsZero() {
		l.suspect, l.probeAt = now, now
	}
	if heard.After(l.suspect) {
		l.suspect = time.Time{}
	}
	gone := !l.suspect.IsZero() && now.After(l.suspect.Add(suspectWait))
	if gone || !now.Before(heard.Add(l.restart)) {
		stats := s.client.counters.stats()
		return transport.ErrKeepaliveTimeout{Transport: s.client.cfg.Name, LastReceived: stats.LastRx, LastSent: stats.LastTx}
	}
	if !l.suspect.IsZero() && !now.Before(l.probeAt) {
		l.probeAt = now.Add(suspectProbe)
		s.probe()
	}
	if !now.Before(s.spoke.get(s.start).Add(l.ping)) {
		s.sendSpecial(pingMagic)
	}
	return nil
}

// next is when checkAlive has something to do.
func (l *liveness) next(s *session) time.Time {
	next := s.heard.get(s.start).Add(l.restart)
	if t := s.spoke.get(s.start).Add(l.ping); t.Before(next) {
		next = t
	}
	if !l.suspect.IsZero() && l.probeAt.Before(next) {
		next = l.probeAt
	}
	return next
}

// probe sends what a living server answers: a request on the data channel, which also tells it of a new address of
// ours, and a control packet it has acknowledged before.
func (s *session) probe() {
	s.sendSpecial(occRequest)
	if s.current == nil {
		return
	}
	if out, ok := s.current.stream.Repeat(); ok {
		_ = s.transmit(s.current, out)
	}
}
