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

// dial opens the far side of a flow as it was judged, through the verdict's egress. If that turns out not to be up, the
// policy is asked again with this fact.
func (r *Router) dial(ctx context.Context, e *entry) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, r.DialTimeout)
	defer cancel()
	start := r.Clock()
	f, egress := e.flow, e.verdict.Egress
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
		return &ownConn{Conn: c, closed: sync.OnceFunc(func() { r.table.closed(local) })}, nil
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
	return d.DialContext(ctx, networkName(f), f.Dst.String())
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

// answerFailed tells the client what its dial met: a closed port looks closed, a dead host stays silent.
func (r *Router) answerFailed(a Answerer, e *entry, err error) {
	e.fail("dial", err)
	r.Log.Debug("dial failed", "flow", e.id, "dst", e.flow.Dst, "egress", e.egress(), "err", err)
	if silent(err) {
		a.Drop()
		return
	}
	a.Unreachable(err)
}

// silent says that the far side gave no answer either.
func silent(err error) bool {
	return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) || errors.Is(err, syscall.ETIMEDOUT) ||
		os.IsTimeout(err)
}

// dialReason is an error's place in the closed set of penstock_dial_errors_total.
func dialReason(err error, ways Ways) string {
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return "refused"
	case silent(err):
		return "timeout"
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.EADDRNOTAVAIL),
		errors.Is(err, syscall.EACCES): // prohibited on the way
		return "unreachable"
	case errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE), errors.Is(err, syscall.ENOBUFS):
		return "resources"
	case ways.IsNotUp(err):
		return "not_up"
	}
	return "other"
}

// localAddr is the address and port of one of our own kernel sockets.
func localAddr(c net.Conn) (netip.AddrPort, bool) {
	switch c := c.(type) {
	case *net.TCPConn:
		return c.LocalAddr().(*net.TCPAddr).AddrPort(), true
	case *net.UDPConn:
		return c.LocalAddr().(*net.UDPAddr).AddrPort(), true
	}
	return netip.AddrPort{}, false
}

// ownConn is one of our own kernel sockets, which the table of flows knows of while it is open.
type ownConn struct {
	net.Conn
	closed func() // called once, whoever closes first
}

func (c *ownConn) Close() error {
	c.closed()
	return c.Conn.Close()
}

// unwrapped is the connection whose type decides how it is relayed.
func unwrapped(c net.Conn) net.Conn {
	if o, ok := c.(*ownConn); ok {
		return o.Conn
	}
	return c
}
