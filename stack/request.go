package stack

import (
	"errors"
	"net"
	"net/netip"
	"sync"

	"penstock/stack/datagram"
	"penstock/stack/packet"
	"penstock/stack/stream"
)

// errAnswered says that a Request was accepted, refused or dropped before.
var errAnswered = errors.New("the flow was answered already")

// Request is a flow whose first packet has come and to which nothing was answered yet. Exactly one of Accept, Pass,
// PassDatagrams, Refuse, Unreachable and Drop decides it; a handler that returns without any of them drops it.
type Request struct {
	Network  string         // "tcp", "udp" or "icmp" (echo; Src.Port is the identifier, Dst.Port is 0)
	Src, Dst netip.AddrPort // who sent it, and where to
	Client   uint64         // key of the client that sent the first packet

	stack    *Stack         // nil for TCP
	datagram *datagram.Conn // nil for TCP
	tcp      *tcpFlow       // nil for datagrams

	mu       sync.Mutex // guards below
	answered bool
	accepted net.Conn
	kept     bool
}

// Accept answers the client and returns its end of the flow. For TCP it completes the handshake, which waits for the
// client, at most Limits.Handshake; the connection has CloseWrite, Abort, Bytes, WriteTo and ReadFrom beside net.Conn's
// methods. For datagrams and echoes the first is still to be read, and the connection has Bytes and Unreachable.
func (r *Request) Accept() (net.Conn, error) {
	if !r.answer() {
		return nil, errAnswered
	}
	if r.datagram != nil {
		r.datagram.Accept()
		r.setAccepted(r.datagram)
		return r.datagram, nil
	}
	c, err := r.tcp.accept(r)
	if err != nil {
		return nil, err
	}
	r.setAccepted(c)
	return c, nil
}

// Refuse answers as a host does on which nobody listens: with RST or an ICMP error.
func (r *Request) Refuse() {
	r.end(true, packet.WhyPort)
}

// Unreachable answers as the network does when a dial fails with err, so that the client's own dial fails in the same
// way: ECONNREFUSED is RST or "port unreachable", EHOSTUNREACH and ENETUNREACH are "host" and "network unreachable",
// EACCES and EPERM are "administratively prohibited", ENOPROTOOPT is "protocol unreachable". Any other error refuses.
//
// A client on Linux reports the same errno at once, but for a prohibited IPv4 destination: there is no ICMP code for
// which it reports EACCES, and it reports EHOSTUNREACH instead, as it does behind any router that prohibits.
func (r *Request) Unreachable(err error) {
	why := packet.WhyOf(err)
	if why == packet.WhyPort {
		r.Refuse()
		return
	}
	r.end(true, why)
}

// Drop answers nothing.
func (r *Request) Drop() { r.end(false, packet.WhyPort) }

// Judged says that what the handler does from now on, if it is of TCP, is not judging: another flow of the client may be judged.
func (r *Request) Judged() {
	if r.tcp != nil {
		r.tcp.judged()
	}
}

func (r *Request) answer() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	first := !r.answered
	r.answered = true
	return first
}

// Keep lets a flow that was accepted outlive its handler, whose goroutine would be most of what it costs: the flow is over when
// somebody calls over, once, which closes the client's end, and not when the handler returns. The handler's context ends with the
// handler all the same. ok is false for a flow that was not accepted. Keep is called once.
func (r *Request) Keep() (over func(), ok bool) {
	r.mu.Lock()
	c := r.accepted
	r.kept = c != nil
	r.mu.Unlock()
	switch c := c.(type) {
	case *stream.Conn:
		return r.tcp.keep(c), true
	case *datagram.Conn:
		return c.Keep(), true
	}
	return nil, false
}

func (r *Request) isKept() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.kept
}

func (r *Request) setAccepted(c net.Conn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.accepted = c
}

func (r *Request) end(refuse bool, why packet.Why) {
	if !r.answer() {
		return
	}
	if r.tcp != nil {
		r.tcp.answer(r, refuse, why)
		return
	}
	if refuse {
		r.datagram.Refuse(why)
		return
	}
	r.datagram.Drop()
}

// finish is called when the handler has returned.
func (r *Request) finish() {
	r.end(false, packet.WhyPort)
	r.mu.Lock()
	c := r.accepted
	r.mu.Unlock()
	if c != nil {
		c.Close()
	}
}
