package stack

import (
	"fmt"
	"math"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"

	"penstock/stack/datagram"
)

// gsoMax is how large super-packets may be, bytes. On a TUN they fill a write. On a tunnel the burst that one becomes is
// bounded: 64 KiB overran the encrypting pipeline and took half again the processor time, 16 KiB and 32 KiB carried a
// tenth less (2026-11, two cores, a busy machine).
func gsoMax(lossless bool) int {
	if lossless {
		return 65535
	}
	return 24 << 10
}

// Limits bound what hostile traffic can cost. A zero field takes the default that its comment names.
//
// Dials, TCPFlows and UDPFlows are shared by the clients: one may have a whole table to itself, but once it is full, a
// client with less than its share takes a place from the client with most, which loses its longest silent flow. The
// shares are two thirds of Dials, half of TCPFlows and UDPPerClient of UDPFlows.
type Limits struct {
	Dials          int           // TCP flows not accepted yet, or whose handshake has not ended; default 4096
	TCPFlows       int           // accepted TCP flows; default 16384
	Handshake      time.Duration // a client that does not finish the handshake of a TCP flow is forgotten; default 20 s
	UDPFlows       int           // datagram and echo flows; default 8192
	UDPPerClient   int           // of them for one client; default a quarter of UDPFlows
	UDPIdle        time.Duration // a datagram flow without packets either way ends; default 2 min (RFC 4787 REQ-5), at most 30 s if nobody has answered
	UDPIdleShort   time.Duration // the same for echoes, for ports of one question and one answer, and after nothing but ICMP errors; default 10 s
	UDPIdleQUIC    time.Duration // the same for port 443; default 30 s
	UDPQueue       int           // bytes that wait for one datagram flow's reader; default 1 MiB
	TCPBuffer      int           // bytes of receive and of send buffer a flow starts with; default 1 MiB
	TCPBufferMax   int           // bytes either buffer may grow to; default 6 MiB
	KeepaliveIdle  time.Duration // silence before the first TCP keep-alive, and how long data may wait for an ACK, at most 10 min; default 5 min
	KeepaliveEvery time.Duration // between keep-alives; default 75 s
}

func (l Limits) withDefaults() Limits {
	def := func(v *int, d int) {
		if *v == 0 {
			*v = d
		}
	}
	defTime := func(v *time.Duration, d time.Duration) {
		if *v == 0 {
			*v = d
		}
	}
	def(&l.Dials, 4096)
	def(&l.TCPFlows, 16384)
	def(&l.UDPFlows, 8192)
	def(&l.UDPPerClient, l.UDPFlows/4)
	defTime(&l.Handshake, 20*time.Second)
	defTime(&l.UDPIdle, 2*time.Minute)
	defTime(&l.UDPIdleShort, 10*time.Second)
	defTime(&l.UDPIdleQUIC, 30*time.Second)
	def(&l.UDPQueue, 1<<20)
	def(&l.TCPBuffer, 1<<20)
	def(&l.TCPBufferMax, 6<<20)
	defTime(&l.KeepaliveIdle, 5*time.Minute)
	defTime(&l.KeepaliveEvery, 75*time.Second)
	return l
}

// flowBegins is how many datagram flows may be judged and dialled at once, and how many TCP flows judged. Of a flood of 10,000 a second all
// that two cores can judge in a tenth of a second have room.
const flowBegins = 1024

// datagrams are the limits of datagram flows.
func (l *Limits) datagrams() datagram.Limits {
	return datagram.Limits{
		Flows: l.UDPFlows, PerClient: l.UDPPerClient, Begins: flowBegins, Queue: l.UDPQueue,
		Idle: l.UDPIdle, IdleShort: l.UDPIdleShort, IdleQUIC: l.UDPIdleQUIC,
	}
}

// maxRTO is the longest time between two retransmissions, or two probes of a closed window.
const maxRTO = 3 * time.Second

// tune sets gVisor's TCP options. Re-measure all of them when gVisor is raised.
func (s *Stack) tune(lossless bool) error {
	sack := tcpip.TCPSACKEnabled(true)
	moderate := tcpip.TCPModerateReceiveBufferOption(true)
	send := tcpip.TCPSendBufferSizeRangeOption{Min: tcp.MinBufferSize, Default: s.limits.TCPBuffer, Max: s.limits.TCPBufferMax}
	receive := tcpip.TCPReceiveBufferSizeRangeOption{Min: tcp.MinBufferSize, Default: s.limits.TCPBuffer, Max: s.limits.TCPBufferMax}
	synRetries := tcpip.TCPSynRetriesOption(3)
	// A SYN that meets a connection in TIME-WAIT would only be taken up by a listening endpoint, which a forwarder has
	// not: the client's connect would hang. A late FIN finds nobody and gets a RST, which its sender survives.
	timeWait := tcpip.TCPTimeWaitTimeoutOption(time.Millisecond)
	// Back-off ends at a few seconds and never gives up before the user timeout: after an outage of the path a flow moves
	// again soon after its return, and whether a tunnel may be away for long is decided elsewhere. The count is no help where a
	// window stays closed: gVisor adds up the probes of it that were ever lost.
	longest, maxRetries := tcpip.TCPMaxRTOOption(maxRTO), tcpip.TCPMaxRetriesOption(math.MaxUint32)
	linger := tcpip.TCPLingerTimeoutOption(30 * time.Second)
	// A tunnel loses: cubic carried 1.8 Gbit/s where reno fell to 0.3. A TUN does not.
	cc := tcpip.CongestionControlOption("cubic")
	if lossless {
		cc = "reno"
	}
	// RACK off: gVisor's does not get over an outage. After a retransmission timeout it takes everything else that was on
	// the way for lost and in flight at once (rackControl.detectLoss, sender.SetPipe), so each timeout sends one segment:
	// behind 300 ms without a path a stream of 100 Mbit/s carried 0.1 MB in 15 s, without RACK 100 MB. And every write and
	// every segment that comes in restarts its probe timer in place of the retransmission timer (sender.postXmit), so a
	// request that is lost while an answer comes in is not sent again before the answer ends. The price: on a path that
	// reorders 1 % of its packets a stream is slower, 10 Mbit/s in place of 30 to 90, and through a tunnel of the bench that
	// the processor limits, one stream by an eighth and eight by a quarter (2026-11, gVisor of 2026-09-05).
	recovery := tcpip.TCPRecovery(0)
	for _, o := range []tcpip.SettableTransportProtocolOption{
		&sack, &moderate, &send, &receive, &synRetries, &timeWait, &longest, &maxRetries, &linger, &cc, &recovery,
	} {
		if err := s.net.SetTransportProtocolOption(tcp.ProtocolNumber, o); err != nil {
			return fmt.Errorf("stack %s: set %T: %s", s.name, o, err)
		}
	}
	return nil
}
