package stack

import (
	"errors"
	"net"
	"net/netip"
	"sync"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// errAnswered says that a Request was accepted, refused or dropped before.
var errAnswered = errors.New("the flow was answered already")

// Request is a flow whose first packet has come and to which nothing was answered yet. Exactly one of Accept, Refuse and
// Drop decides it; a handler that returns without either drops it.
type Request struct {
	Network  string         // "tcp", "udp" or "icmp" (echo; Src.Port is the identifier, Dst.Port is 0)
	Src, Dst netip.AddrPort // who sent it, and where to
	Client   uint64         // key of the client that sent the first packet

	mu       sync.Mutex // guards below
	answered bool
	datagram *datagramConn
	tcp      *tcp.ForwarderRequest
	s        *Stack
	onAnswer func() // gives back the place among the dials; nil for datagrams
	accepted net.Conn
	aborted  bool
}

// Accept answers the client and returns its end of the flow. For TCP it completes the handshake, which waits for the
// client; the connection has CloseWrite, Abort, Bytes, WriteTo and ReadFrom beside net.Conn's methods. For datagrams
// and echoes the first is still to be read, and the connection has Bytes and Unreachable.
func (r *Request) Accept() (net.Conn, error) {
	if !r.answer() {
		return nil, errAnswered
	}
	if r.datagram != nil {
		r.datagram.state.Store(uint32(flowAccepted))
		r.accepted = r.datagram
		return r.datagram, nil
	}
	var wq waiter.Queue
	ep, err := r.tcp.CreateEndpoint(&wq)
	if err != nil {
		r.tcp.Complete(true)
		return nil, opError("accept", r.Src, err)
	}
	r.tcp.Complete(false)
	c := newTCPConn(ep, &wq, r.Src, r.Dst)
	r.s.keepAlive(ep)
	r.mu.Lock()
	r.accepted = c
	aborted := r.aborted
	r.mu.Unlock()
	if aborted {
		c.Abort()
		return nil, opError("accept", r.Src, &tcpip.ErrConnectionAborted{})
	}
	return c, nil
}

// Refuse answers as a host does that nobody listens on: with RST or an ICMP error.
func (r *Request) Refuse() { r.end(true) }

// Unreachable answers as the network does when a dial fails with err.
func (r *Request) Unreachable(error) { r.end(true) }

// abort resets the flow, answered or not.
func (r *Request) abort() {
	r.end(true)
	r.mu.Lock()
	r.aborted = true
	c, _ := r.accepted.(*tcpConn)
	r.mu.Unlock()
	if c != nil {
		c.Abort()
	}
}

// Drop answers nothing.
func (r *Request) Drop() { r.end(false) }

func (r *Request) answer() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.answered {
		return false
	}
	r.answered = true
	if r.onAnswer != nil {
		r.onAnswer()
	}
	return true
}

func (r *Request) end(refuse bool) {
	if !r.answer() {
		return
	}
	if r.datagram == nil {
		r.tcp.Complete(refuse)
		return
	}
	// The flow stays in the table for a moment, so that a sender that goes on costs no new judgement.
	if refuse {
		r.datagram.state.Store(uint32(flowRefused))
		r.datagram.t.s.unreachable(r.datagram.key, r.datagram.refusal())
	} else {
		r.datagram.state.Store(uint32(flowDropped))
	}
	r.datagram.touch()
	r.datagram.shut(net.ErrClosed)
}

// finish is called when the handler has returned.
func (r *Request) finish() {
	r.end(false)
	if r.accepted != nil {
		r.accepted.Close()
	}
}
