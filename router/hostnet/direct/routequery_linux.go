package direct

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"sync"

	"golang.org/x/sys/unix"
)

// routeQuery asks the kernel for single routes, once per dial. The netlink library would read the answer into 64 KiB on
// the caller's stack, which would then stay 128 KiB large as long as the flow lives.
type routeQuery struct {
	mu  sync.Mutex // guards below
	fd  int
	seq uint32
	buf [1024]byte // of an answer, which is one message of a few attributes
}

// foundRoute is what a dial needs to know about a route.
type foundRoute struct {
	kind   uint8 // unix.RTN_*
	index  int   // of the interface that it leaves by
	router bool  // that another host forwards it
	// source is the address that the kernel would send from; invalid if it does not say.
	source netip.Addr
}

func openRouteQuery() (*routeQuery, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("direct: open netlink: %w", err)
	}
	return &routeQuery{fd: fd}, nil
}

func (q *routeQuery) Close() error { return unix.Close(q.fd) }

// lookup asks for the route of a marked packet to addr, by the interface oif unless that is 0. Errors are the kernel's,
// such as unix.ENETUNREACH and unix.EHOSTUNREACH.
func (q *routeQuery) lookup(addr netip.Addr, mark uint32, oif int) (foundRoute, error) {
	return q.ask(addr, routeAttributes{{unix.RTA_MARK, mark, 4}, {unix.RTA_OIF, uint32(oif), 4}})
}

// routeAttributes narrow a question. One whose value is 0 is left out.
type routeAttributes []struct {
	kind  uint16 // unix.RTA_*
	value uint32
	size  int // bytes: 4, 2 for a port in network order, or 1
}

// ask is lookup for any attributes.
func (q *routeQuery) ask(addr netip.Addr, attributes routeAttributes) (foundRoute, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.seq++
	if err := unix.Sendto(q.fd, q.request(addr, attributes), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return foundRoute{}, err
	}
	for { // the kernel has answered before Sendto returned
		n, _, err := unix.Recvfrom(q.fd, q.buf[:], unix.MSG_DONTWAIT)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return foundRoute{}, err
		}
		r, mine, err := parseRoute(q.buf[:n], q.seq)
		if mine {
			return r, err
		}
	}
}

// request is an RTM_GETROUTE message.
func (q *routeQuery) request(addr netip.Addr, attributes routeAttributes) []byte {
	ne := binary.NativeEndian
	b := make([]byte, unix.SizeofNlMsghdr+unix.SizeofRtMsg, 96)
	ne.PutUint16(b[4:], unix.RTM_GETROUTE)
	ne.PutUint16(b[6:], unix.NLM_F_REQUEST)
	ne.PutUint32(b[8:], q.seq)
	rt := b[unix.SizeofNlMsghdr:]
	rt[0], rt[1] = unix.AF_INET6, 128
	if addr.Is4() {
		rt[0], rt[1] = unix.AF_INET, 32
	}
	attribute := func(kind uint16, value []byte) {
		b = ne.AppendUint16(b, uint16(unix.SizeofRtAttr+len(value)))
		b = ne.AppendUint16(b, kind)
		b = append(b, value...)
		for len(b)%unix.RTA_ALIGNTO != 0 {
			b = append(b, 0)
		}
	}
	attribute(unix.RTA_DST, addr.AsSlice())
	for _, a := range attributes {
		switch {
		case a.value == 0:
		case a.size == 1:
			attribute(a.kind, []byte{byte(a.value)})
		case a.size == 2:
			attribute(a.kind, binary.BigEndian.AppendUint16(nil, uint16(a.value)))
		default:
			attribute(a.kind, ne.AppendUint32(nil, a.value))
		}
	}
	ne.PutUint32(b, uint32(len(b)))
	return b
}

// parseRoute reads one answer. mine is false if it belongs to an earlier question.
func parseRoute(b []byte, seq uint32) (r foundRoute, mine bool, err error) {
	ne := binary.NativeEndian
	if len(b) < unix.SizeofNlMsghdr || ne.Uint32(b[8:]) != seq {
		return r, false, nil
	}
	body := b[unix.SizeofNlMsghdr:]
	switch ne.Uint16(b[4:]) {
	case unix.NLMSG_ERROR:
		if len(body) < 4 {
			return r, true, unix.EPROTO
		}
		return r, true, unix.Errno(-int32(ne.Uint32(body)))
	case unix.RTM_NEWROUTE:
		if len(body) < unix.SizeofRtMsg {
			return r, true, unix.EPROTO
		}
	default:
		return r, true, unix.EPROTO
	}
	r.kind = body[7]
	for body = body[unix.SizeofRtMsg:]; len(body) >= unix.SizeofRtAttr; {
		n := int(ne.Uint16(body))
		if n < unix.SizeofRtAttr || n > len(body) {
			break
		}
		switch kind := ne.Uint16(body[2:]); {
		case kind == unix.RTA_OIF && n >= 8:
			r.index = int(ne.Uint32(body[4:]))
		case kind == unix.RTA_GATEWAY, kind == unix.RTA_VIA:
			r.router = true
		case kind == unix.RTA_PREFSRC:
			r.source, _ = netip.AddrFromSlice(body[4:n])
		}
		body = body[min((n+3)&^3, len(body)):]
	}
	return r, true, nil
}
