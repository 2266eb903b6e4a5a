package transport

import "time"

// calls is a round of calls to the endpoints of a silent peer: the one in use first, the others after it.
type calls struct {
	made int       // in this round
	at   time.Time // of the last
}

// next returns which endpoint is to be called now, if one is. others is how many there are beside the one in use.
func (c *calls) next(t Timing, others int, now time.Time) (who int, due bool) {
	since := now.Sub(c.at)
	switch {
	case c.made > others:
		if since < t.CallAgain {
			return 0, false
		}
		c.made = 0
	case c.made == 1 && since < t.CallOthers:
		return 0, false
	}
	who = c.made
	c.made++
	c.at = now
	return who, true
}

// place is where a connected transport's peer is.
type place struct {
	endpoint string
	called   time.Time // when an endpoint was last called; zero: never
}

// callLife is how long an answer to a call may take.
const callLife = 5 * time.Second

// look returns where the peer was before, and whether it is elsewhere now because a call was answered there. A peer may also move
// by itself.
func (p *place) look(s Stats, now time.Time) (from string, moved bool) {
	from = p.endpoint
	p.endpoint = s.Endpoint
	return from, from != s.Endpoint && !p.called.IsZero() && now.Sub(p.called) < callLife
}

// call calls an endpoint of the peer.
func (s *supervisor) call(who int) {
	caller, ok := s.driver.(Caller)
	if !ok {
		return
	}
	if err := caller.Call(who); err != nil {
		s.Log.Debug("an endpoint was not called", "transport", s.Name, "err", err)
	}
}

// moved makes known that another endpoint has answered. What went through the old one is lost, so it counts as a reconnect.
func (s *supervisor) moved(from, to string) {
	s.Log.Warn("transport moved to another endpoint", "transport", s.Name, "from", from, "to", to)
	s.gone(ReasonMoved, nil)
	s.arrived()
}
