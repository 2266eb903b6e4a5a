package stack

import (
	"context"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
)

const (
	// longestSilence is how long a peer may leave sent data without an ACK at most, however long a flow may be idle.
	longestSilence = 10 * time.Minute
	// leastSilence is how long a peer that pauses must answer nothing before it has vanished: three probes of its window, see tune.
	leastSilence = 3 * maxRTO
	// keepAlives is how many keep-alives in a row go unanswered until a peer has vanished. One alone is lost for many reasons.
	keepAlives = 4
	// pausesOften is how often pauses are looked at in the time after which a peer has vanished, and pausesApart how often at most.
	pausesOften = 10
	pausesApart = 100 * time.Millisecond
)

// pauses are the TCP connections whose peers take nothing for now. A peer that closes its window and answers each probe of it pauses,
// and lives as long as it likes (RFC 9293, 3.8.6.1): a pager, a stopped film, a slow reader of a database's answer. gVisor's user
// timeout ends it all the same, and ends an idle connection that has lost one keep-alive. So a connection has none but while it waits
// for an ACK and its peer answers nothing.
//
// gVisor does not show the window. A connection probes one if its retransmission timer fires and nothing is sent again.
type pauses struct {
	s    *Stack
	wake chan struct{}                       // of capacity 1: there is a connection
	seen map[stack.TransportEndpoint]waiting // of the goroutine that runs
}

// waiting is what was seen of a connection whose retransmission timer has fired, and that waits for an ACK since.
type waiting struct {
	received, resent uint64 // segments until then
	answered         int64  // when the peer was last seen to answer a probe
	lifted           bool   // there is no user timeout, because the peer answers
	closed           bool   // by us
}

func newPauses(s *Stack) pauses { return pauses{s: s, wake: make(chan struct{}, 1)} }

// userTimeout is how long data may wait for an ACK.
func (l *Limits) userTimeout() time.Duration { return min(l.KeepaliveIdle, longestSilence) }

// begun notes that there is a connection to look at.
func (p *pauses) begun() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// run looks at the connections as long as there are any.
func (p *pauses) run(ctx context.Context) {
	for {
		select {
		case <-p.wake:
		case <-ctx.Done():
			return
		}
		every := max(p.s.limits.userTimeout()/pausesOften, pausesApart)
		for some := true; some; {
			select {
			case <-time.After(every):
				some = p.look(p.s.now())
			case <-ctx.Done():
				return
			}
		}
	}
}

// look looks at all connections, and reports whether there are any.
func (p *pauses) look(now int64) bool {
	list := p.s.net.RegisteredEndpoints()
	var seen map[stack.TransportEndpoint]waiting
	for _, e := range list {
		ep, ok := e.(tcpip.Endpoint)
		if !ok {
			continue
		}
		w, ok := see(ep)
		if !ok {
			continue
		}
		was, known := p.seen[e]
		if known {
			w = w.since(was, now, p.s.limits.userTimeout())
		}
		if !known || w.lifted != was.lifted {
			p.limit(ep, !w.lifted)
		}
		if seen == nil {
			seen = make(map[stack.TransportEndpoint]waiting)
		}
		seen[e] = w
	}
	for e, was := range p.seen {
		if _, waits := seen[e]; !was.lifted && !waits {
			p.limit(e.(tcpip.Endpoint), false)
		}
	}
	p.seen = seen
	return len(list) > 0
}

// see reports whether a connection waits for an ACK after its retransmission timer has fired. Most never have: they are told without
// their lock.
func see(ep tcpip.Endpoint) (waiting, bool) {
	stats, ok := ep.Stats().(*tcp.Stats)
	if !ok || stats.SendErrors.Timeouts.Value() == 0 {
		return waiting{}, false
	}
	var info tcpip.TCPInfoOption
	if err := ep.GetSockOpt(&info); err != nil || info.CcState == tcpip.Open {
		return waiting{}, false
	}
	return waiting{
		received: stats.SegmentsReceived.Value(), resent: stats.SendErrors.Retransmits.Value(),
		closed: !ep.SocketOptions().GetKeepAlive(), // see stream.Conn.Close
	}, true
}

// since goes on from what was seen before. A connection that we have closed is in no table and counts for no client: it keeps its
// memory for no longer than the user timeout after that, whatever its peer answers.
func (w waiting) since(was waiting, now int64, patience time.Duration) waiting {
	w.answered, w.lifted = was.answered, was.lifted
	switch {
	case w.resent != was.resent: // no probes: data is lost
		w.lifted = false
	case w.received != was.received && !w.closed:
		w.answered, w.lifted = now, true
	case now-w.answered >= int64(max(patience, leastSilence)):
		w.lifted = false
	}
	return w
}

// limit gives a connection a user timeout, or takes it away.
func (p *pauses) limit(ep tcpip.Endpoint, limited bool) {
	var timeout tcpip.TCPUserTimeoutOption
	if limited {
		timeout = tcpip.TCPUserTimeoutOption(p.s.limits.userTimeout())
	}
	if err := ep.SetSockOpt(&timeout); err != nil {
		p.s.log.Debug("a TCP option was refused", "stack", p.s.name, "err", err.String())
	}
}
