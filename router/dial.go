package router

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"

	"penstock/policy"
)

// dial opens the far side of a judged flow through the verdict's egress. If the egress is not up, dial asks the policy again
// with that fact, and follows a verdict with another egress.
func (r *Router) dial(ctx context.Context, e *entry) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, r.DialTimeout)
	defer cancel()
	start := r.Clock()
	f, egress := e.flow(), e.verdict().Egress
	f.Time = start
	c, err := r.dialThrough(ctx, f, egress)
	if err != nil && r.Ways.IsNotUp(err) {
		f.Down = egress
		if w := r.Policy.Decide(f); w.Action == policy.Forward && w.Egress != egress {
			e.via(w.Egress)
			c, err = r.dialThrough(ctx, f, w.Egress)
		}
	}
	if err != nil {
		r.Metrics.dialFailed(dialReason(err, r.Ways))
		return nil, err
	}
	r.Metrics.dialled(r.Clock().Sub(start))
	if local, ok := localAddr(c); ok {
		r.table.opened(local)
		return &heldConn{Conn: c, closed: sync.OnceFunc(func() { r.table.closed(local) })}, nil
	}
	return c, nil
}

func (r *Router) dialThrough(ctx context.Context, f policy.Flow, egress string) (net.Conn, error) {
	d, ok := r.Ways.Dialer(egress)
	if !ok {
		return nil, fmt.Errorf("egress %q does not exist", egress)
	}
	if fd, ok := d.(FlowDialer); ok {
		return fd.DialFlow(ctx, f)
	}
	dial := func(ctx context.Context) (net.Conn, error) { return d.DialContext(ctx, networkName(f), f.Dst.String()) }
	if f.Network == policy.UDP {
		return r.mappings.dial(ctx, &f, egress, dial)
	}
	return dial(ctx)
}

func networkName(f policy.Flow) string {
	family := "6"
	if f.Dst.Addr().Is4() {
		family = "4"
	}
	switch f.Network {
	case policy.UDP:
		return "udp" + family
	case policy.ICMP:
		return "ping" + family
	}
	return "tcp" + family
}

// answerFailed answers the client the way the dial failed: a closed port looks closed, and a dead host stays silent.
func (r *Router) answerFailed(a Answerer, e *entry, err error) {
	e.fail("dial", err)
	r.Log.Debug("dial failed", "flow", e.id, "dst", e.facts.dst, "egress", e.egress(), "err", err)
	if silent(err) {
		a.Drop()
		return
	}
	a.Unreachable(err)
}

// silent reports whether the dial failed without an answer from the far side.
func silent(err error) bool {
	return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) || errors.Is(err, syscall.ETIMEDOUT) ||
		os.IsTimeout(err)
}

// dialReason returns the reason label of penstock_dial_errors_total for an error. The set of reasons is closed.
func dialReason(err error, ways Ways) string {
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return "refused"
	case silent(err):
		return "timeout"
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.EADDRNOTAVAIL),
		errors.Is(err, syscall.EACCES): // a router on the path prohibits it
		return "unreachable"
	case errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE), errors.Is(err, syscall.ENOBUFS):
		return "resources"
	case ways.IsNotUp(err):
		return "not_up"
	}
	return "other"
}

// localAddr returns the local address of a kernel socket. ok is false for any other connection.
func localAddr(c net.Conn) (netip.AddrPort, bool) {
	switch c := unwrapped(c).(type) {
	case *net.TCPConn:
		return c.LocalAddr().(*net.TCPAddr).AddrPort(), true
	case *net.UDPConn:
		return c.LocalAddr().(*net.UDPAddr).AddrPort(), true
	}
	return netip.AddrPort{}, false
}

// heldConn is a connection that something else must know about while it is open: the table of our own sockets, or a mapping.
type heldConn struct {
	net.Conn
	closed func() // runs once, at the first Close
}

func (c *heldConn) Close() error {
	c.closed()
	return c.Conn.Close()
}

// unwrapped returns the connection whose type decides how to relay it.
func unwrapped(c net.Conn) net.Conn {
	for {
		held, ok := c.(*heldConn)
		if !ok {
			return c
		}
		c = held.Conn
	}
}
