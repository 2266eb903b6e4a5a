package direct

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"
)

// WayOf asks the kernel where a datagram of this user's programs would go, which bears no mark of ours. Nothing is sent.
func WayOf(to netip.AddrPort) (Way, error) {
	q, err := openRouteQuery()
	if err != nil {
		return Way{}, err
	}
	defer q.Close()
	way := Way{To: to}
	r, err := q.ask(to.Addr().WithZone(""), routeAttributes{{unix.RTA_IP_PROTO, unix.IPPROTO_UDP, 1}, {unix.RTA_DPORT, uint32(to.Port()), 2}})
	for _, none := range []error{unix.ENETUNREACH, unix.EHOSTUNREACH, unix.EACCES, unix.EINVAL, unix.EAGAIN} { // of unreachable, prohibit and blackhole routes, too
		if errors.Is(err, none) {
			way.Nowhere = true
			return way, nil
		}
	}
	switch {
	case err != nil:
		return way, fmt.Errorf("direct: route to %s: %w", to, err)
	case r.kind == unix.RTN_UNREACHABLE, r.kind == unix.RTN_PROHIBIT, r.kind == unix.RTN_BLACKHOLE:
		way.Nowhere = true
		return way, nil
	}
	way.Local = r.kind == unix.RTN_LOCAL
	if link, err := net.InterfaceByIndex(r.index); err == nil {
		way.Interface = link.Name
	}
	return way, nil
}
