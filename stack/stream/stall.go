package stream

import (
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
)

const (
	// stallAfter is how long written data may go without any answer before writes are held back: longer than delayed
	// ACKs and most round trips, short beside a retransmission timeout that backs off.
	stallAfter = 300 * time.Millisecond
	// stallLook is how often a held write looks whether it may go on.
	stallLook = 20 * time.Millisecond
)

// stall keeps a connection's retransmission timers alive while its path is dead. With RACK, gVisor stops the
// retransmission timer and starts the probe timer at every write, data sent or not (sender.postXmit): a writer that goes
// on in steps shorter than the probe timeout keeps both from ever firing, and the connection stays dead after the path is
// back. So writes are held once nothing has been heard for a while, until something is, or until the timeout has fired:
// from then on gVisor starts no probes. Seen with gVisor of 2026-09-05; to be undone when postXmit asks whether data was
// sent. Without RACK the timer is never stopped.
type stall struct {
	heard uint64    // segments received when last looked
	since time.Time // first write that nothing was heard after; zero: none
}

// hold says how long to wait before writing to ep: zero is not at all.
func (s *stall) hold(ep tcpip.Endpoint) time.Duration {
	if s.since.IsZero() {
		return 0
	}
	if n := heard(ep); n != s.heard {
		*s = stall{heard: n}
		return 0
	}
	if time.Since(s.since) < stallAfter {
		return 0
	}
	var info tcpip.TCPInfoOption
	if err := ep.GetSockOpt(&info); err != nil || info.CcState == tcpip.RTORecovery || info.State != tcpip.EndpointState(tcp.StateEstablished) {
		return 0
	}
	return stallLook
}

// wrote notes that data went into the send buffer.
func (s *stall) wrote(ep tcpip.Endpoint) {
	if s.since.IsZero() {
		*s = stall{heard: heard(ep), since: time.Now()}
	}
}

// heard is how many segments have come in on a connection.
func heard(ep tcpip.Endpoint) uint64 {
	stats, ok := ep.Stats().(*tcp.Stats)
	if !ok {
		return 0
	}
	return stats.SegmentsReceived.Value()
}
