package stack

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"syscall"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"

	"penstock/stack/datagram"
	"penstock/stack/localport"
	"penstock/stack/stream"
)

// DialContext opens a flow from the stack's own address. network is "tcp", "udp" or "ping" (echo requests; the port is
// ignored), each also with 4 or 6 behind it; address is an IP address and port: names are not resolved here.
//
// A "ping" connection writes and reads echo bodies: identifier (2 bytes), sequence number (2), payload. Errors are those
// of the net package: ECONNREFUSED, ETIMEDOUT, EHOSTUNREACH, ENETUNREACH, EACCES (prohibited), ENOPROTOOPT, and ErrNoAddress.
// Datagrams also fail with EMSGSIZE; PathMTU of their connections says what fits. UDP leaves from the port of package
// localport, if the context has one and it is free.
func (s *Stack) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	dst, err := netip.ParseAddrPort(address)
	if err != nil {
		return nil, fmt.Errorf("stack %s: dial %s %s: %w", s.name, network, address, err)
	}
	dst = netip.AddrPortFrom(dst.Addr().Unmap(), dst.Port())
	src, err := s.source(dst.Addr())
	if err != nil {
		return nil, err
	}
	switch network {
	case "tcp", "tcp4", "tcp6":
		return dialer{s}.dialTCP(ctx, src, dst)
	case "udp", "udp4", "udp6":
		port, _ := localport.Of(ctx)
		return dialer{s}.dialDatagram(datagram.UDP, netip.AddrPortFrom(src, port), dst)
	case "ping", "ping4", "ping6":
		return dialer{s}.dialDatagram(datagram.Reply, netip.AddrPortFrom(src, 0), netip.AddrPortFrom(dst.Addr(), 0))
	}
	return nil, fmt.Errorf("stack %s: dial %s: %w", s.name, address, net.UnknownNetworkError(network))
}

// dialer is a stack as it opens flows.
type dialer struct{ *Stack }

func (s dialer) dialDatagram(kind datagram.Kind, src, dst netip.AddrPort) (net.Conn, error) {
	c, err := s.flows.Dial(kind, dst, src)
	if err != nil {
		return nil, fmt.Errorf("stack %s: dial %v: %w", s.name, dst, err)
	}
	return c, nil
}

func (s dialer) dialTCP(ctx context.Context, src netip.Addr, dst netip.AddrPort) (net.Conn, error) {
	proto := ipv4.ProtocolNumber
	if dst.Addr().Is6() {
		proto = ipv6.ProtocolNumber
	}
	var wq waiter.Queue
	ep, err := s.net.NewEndpoint(tcp.ProtocolNumber, proto, &wq)
	if err != nil {
		return nil, stream.OpError("dial", dst, err)
	}
	ready := make(chan struct{}, 1)
	entry := waiter.NewFunctionEntry(waiter.WritableEvents|waiter.EventErr|waiter.EventHUp, func(waiter.EventMask) {
		select {
		case ready <- struct{}{}:
		default:
		}
	})
	wq.EventRegister(&entry)
	defer wq.EventUnregister(&entry)
	if err := s.bind(ep, src, dst); err != nil {
		ep.Close()
		return nil, stream.OpError("dial", dst, err)
	}
	local, err := ep.GetLocalAddress()
	if err != nil {
		ep.Close()
		return nil, stream.OpError("dial", dst, err)
	}
	from := netip.AddrPortFrom(src, local.Port)
	unreachable := s.dials.begin(datagram.Pair{Remote: dst, Local: from})
	defer s.dials.end(datagram.Pair{Remote: dst, Local: from})
	if _, crosses := s.crossings.guests.Find(dst, from); crosses { // since bind: whoever passed it has seen no dial
		ep.Close()
		return nil, stream.OpError("dial", dst, &tcpip.ErrPortInUse{})
	}
	err = ep.Connect(tcpip.FullAddress{NIC: nicID, Addr: tcpipAddr(dst.Addr()), Port: dst.Port()})
	if _, started := err.(*tcpip.ErrConnectStarted); started {
		select {
		case <-ready:
			err = ep.LastError()
		case errno := <-unreachable:
			ep.Abort()
			return nil, &net.OpError{Op: "dial", Net: "tcp", Addr: net.TCPAddrFromAddrPort(dst), Err: errno}
		case <-ctx.Done():
			ep.Abort()
			return nil, fmt.Errorf("stack %s: dial tcp %v: %w", s.name, dst, context.Cause(ctx))
		case <-s.life.Done():
			ep.Abort()
			return nil, fmt.Errorf("stack %s: dial tcp %v: %w", s.name, dst, net.ErrClosed)
		}
	}
	if err != nil {
		ep.Close()
		return nil, stream.OpError("dial", dst, err)
	}
	s.keepAlive(ep)
	return stream.New(ep, &wq, dst, from, nil), nil
}

// dialling are the TCP dials that wait for an answer. An ICMP error ends one with the errno that a kernel would give:
// gVisor takes some for others, and does not know that an IPv6 destination can be prohibited.
type dialling struct {
	mu    sync.Mutex // guards below
	waits map[datagram.Pair]chan<- syscall.Errno
}

func (d *dialling) begin(a datagram.Pair) <-chan syscall.Errno {
	failed := make(chan syscall.Errno, 1)
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.waits == nil {
		d.waits = make(map[datagram.Pair]chan<- syscall.Errno)
	}
	d.waits[a] = failed
	return failed
}

func (d *dialling) has(a datagram.Pair) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.waits[a] != nil
}

func (d *dialling) end(a datagram.Pair) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.waits, a)
}

// fail ends a dial. It reports false if there is none.
func (d *dialling) fail(a datagram.Pair, err syscall.Errno) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	failed, ok := d.waits[a]
	if !ok {
		return false
	}
	select {
	case failed <- err:
	default: // failed before
	}
	return true
}

const (
	firstPort = 16384 // of those that dials leave from, up to 65535
	portStep  = 16    // at most, from one dial to the next
	portTries = 256   // of them, before a dial gives up
)

// bind gives an endpoint a free local port. Ports follow each other in random steps (RFC 6056, algorithm 5): one comes
// up again only after thousands of others. gVisor picks any free one: 5 of 30,000 connections at 2,800 a second then had
// the port of one that had just ended and that the peer still knew, and were refused.
func (s dialer) bind(ep tcpip.Endpoint, src netip.Addr, dst netip.AddrPort) (err tcpip.Error) {
	for range portTries {
		n := s.lastPort.Add(1 + rand.Uint32N(portStep))
		port := firstPort + n%(1<<16-firstPort)
		if _, crosses := s.crossings.guests.Find(dst, netip.AddrPortFrom(src, uint16(port))); crosses {
			err = &tcpip.ErrPortInUse{}
			continue
		}
		err = ep.Bind(tcpip.FullAddress{NIC: nicID, Addr: tcpipAddr(src), Port: uint16(port)})
		if _, taken := err.(*tcpip.ErrPortInUse); !taken {
			return err
		}
	}
	return err
}
