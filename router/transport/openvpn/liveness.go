package openvpn

import (
	"fmt"
	"time"

	"penstock/router/transport"
	"penstock/router/transport/openvpn/internal/data"
	"penstock/router/transport/openvpn/internal/push"
	"penstock/router/transport/openvpn/profile"
)

const (
	defaultPing        = 10 * time.Second
	defaultPingRestart = time.Minute

	suspectWait  = 5 * time.Second // for an answer, after the server's host said that the port is closed
	suspectProbe = time.Second
)

// liveness decides when the server is to hear from us and when it is given up.
type liveness struct {
	ping, restart time.Duration
	pinged        time.Time // when a ping was last due, sent or not: a busy or stalled link takes none
	suspect       time.Time // the port was reported closed; zero: it was not
	probeAt       time.Time
}

// newLiveness takes what the server pushed, then what the profile says, then our own defaults: a session without
// liveness would look up for ever.
func newLiveness(o *push.Options, t profile.Timers) liveness {
	l := liveness{ping: defaultPing, restart: defaultPingRestart}
	for _, v := range []time.Duration{t.Ping, o.Ping} {
		if v > 0 {
			l.ping = v
		}
	}
	for _, v := range []time.Duration{t.PingRestart, o.PingRestart} {
		if v > 0 {
			l.restart = v
		}
	}
	return l
}

// due is what is due.
type due struct {
	dead, probe, ping bool
	next              time.Time // when to look again, at the latest
}

// check looks at the signs of life. refused says that the server's host just said that nobody listens.
func (l *liveness) check(now, heard, spoke time.Time, refused bool) (d due) {
	if refused && l.suspect.IsZero() {
		l.suspect, l.probeAt = now, now
	}
	if heard.After(l.suspect) {
		l.suspect = time.Time{}
	}
	silent := heard.Add(l.restart)
	d.dead = !now.Before(silent) || !l.suspect.IsZero() && now.After(l.suspect.Add(suspectWait))
	if !l.suspect.IsZero() {
		if d.probe = !now.Before(l.probeAt); d.probe {
			l.probeAt = now.Add(suspectProbe)
		}
		d.next = l.probeAt
	}
	if l.pinged.After(spoke) {
		spoke = l.pinged
	}
	if d.ping = !now.Before(spoke.Add(l.ping)); d.ping {
		l.pinged, spoke = now, now
	}
	d.next = soonest(d.next, silent, spoke.Add(l.ping))
	return d
}

// checkAlive sends pings and probes that are due. Its error ends the session.
func (s *session) checkAlive(now time.Time) (next time.Time, err error) {
	signs := &s.data.Signs
	if err := signs.Puzzled(); err != nil {
		return next, blocked(fmt.Errorf("the server's packets cannot be read: %w", err))
	}
	d := s.liveness.check(now, signs.Heard(), signs.Spoke(), signs.Refused())
	if d.dead {
		stats := s.client.meter.stats()
		return next, transport.ErrKeepaliveTimeout{Transport: s.client.cfg.Name, LastReceived: stats.LastRx, LastSent: stats.LastTx}
	}
	if d.probe {
		s.probe()
	}
	if d.ping {
		s.data.SendSpecial(data.Ping)
	}
	return d.next, nil
}
