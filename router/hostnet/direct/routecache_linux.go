package direct

import (
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"penstock/stack/nowait"
)

// routes answers what routeQuery does, without asking the kernel again while nothing has changed. Each flow asks where its target is,
// and a question costs as much as all else that a verdict needs.
//
// A change of an address, a link, a route or a rule waits in a socket before the call that makes it returns, so an answer that is given
// after it is never older. What the kernel changes without a word, such as a route that expires, is seen within routeAge.
type routes struct {
	query *routeQuery
	now   func() time.Time

	mu      sync.Mutex // guards below
	changes int        // the socket; negative: the kernel tells nothing, and each question is asked
	known   map[routeQuestion]knownRoute
}

// routeQuestion is what the kernel was asked.
type routeQuestion struct {
	addr netip.Addr
	mark uint32
	oif  int
}

// knownRoute is what it said.
type knownRoute struct {
	foundRoute
	err error
	at  time.Time
}

const (
	routeAge   = time.Second
	mostRoutes = 1024 // that are remembered
)

// routeChanges are the multicast groups that tell of what an answer depends on.
var routeChanges = [...]int{
	unix.RTNLGRP_LINK, unix.RTNLGRP_NEXTHOP,
	unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV4_RULE,
	unix.RTNLGRP_IPV6_IFADDR, unix.RTNLGRP_IPV6_ROUTE, unix.RTNLGRP_IPV6_RULE,
}

func openRoutes() (*routes, error) {
	query, err := openRouteQuery()
	if err != nil {
		return nil, err
	}
	r := &routes{query: query, now: time.Now, changes: -1, known: make(map[routeQuestion]knownRoute)}
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("direct: open netlink: %w", err), query.Close())
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil { // one without a name is told nothing
		return nil, errors.Join(fmt.Errorf("direct: bind netlink: %w", err), unix.Close(fd), query.Close())
	}
	for _, group := range routeChanges {
		if err := unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, group); err != nil {
			unix.Close(fd) // an old kernel, or a sandbox
			return r, nil
		}
	}
	r.changes = fd
	return r, nil
}

// Close closes the sockets.
func (r *routes) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	err := r.query.Close()
	if r.changes >= 0 {
		err = errors.Join(err, unix.Close(r.changes))
	}
	r.changes = -1
	return err
}

// lookup is routeQuery.lookup.
func (r *routes) lookup(addr netip.Addr, mark uint32, oif int) (foundRoute, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.changes < 0 {
		return r.query.lookup(addr, mark, oif)
	}
	if r.changedLocked() {
		clear(r.known)
	}
	question, now := routeQuestion{addr, mark, oif}, r.now()
	if k, ok := r.known[question]; ok && now.Sub(k.at) < routeAge {
		return k.foundRoute, k.err
	}
	// A change that comes while the kernel answers is still in the socket the next time.
	found, err := r.query.lookup(addr, mark, oif)
	if len(r.known) >= mostRoutes {
		clear(r.known)
	}
	r.known[question] = knownRoute{found, err, now}
	return found, err
}

// changedLocked reports whether something may have changed since it was last called.
func (r *routes) changedLocked() (changed bool) {
	var b [1]byte // the rest of a message is thrown away
	for {
		switch _, err := nowait.Receive(r.changes, b[:]); err {
		case unix.EAGAIN:
			return changed
		case nil, unix.ENOBUFS: // told, or too much to be told
			changed = true
		default:
			return true
		}
	}
}
