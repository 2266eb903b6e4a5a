package upstream

import (
	"context"
	"net"
	"sync"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
)

// quicConn is one QUIC connection to an upstream.
type quicConn struct {
	*quic.Conn
	http *http3.ClientConn // with DoH
	code quic.ApplicationErrorCode

	mu      sync.Mutex // guards below
	waiting int
	waits   time.Time // since when the server has been silent with answers outstanding; zero if there are none
	gone    bool      // no new query goes here
}

func (c *quicConn) enter() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.waiting++
	if c.waits.IsZero() {
		c.waits = time.Now()
	}
}

// leave records the end of a query. Without an answer, waits stays as it is, so that the next query does not wait on a dead path.
func (c *quicConn) leave(answered bool) {
	c.mu.Lock()
	c.waiting--
	if answered {
		c.waits = time.Time{}
		if c.waiting > 0 {
			c.waits = time.Now()
		}
	}
	over := c.gone && c.waiting == 0
	c.mu.Unlock()
	if over {
		c.CloseWithError(c.code, "")
	}
}

// takes reports whether the next query may go here: not if the connection is closed, or the server has been silent for so long that
// a new connection is more likely to work.
func (c *quicConn) takes() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.gone && c.Context().Err() == nil && (c.waits.IsZero() || time.Since(c.waits) < firstTimeout)
}

// retire closes the connection as soon as nobody waits on it.
func (c *quicConn) retire() {
	c.mu.Lock()
	c.gone = true
	over := c.waiting == 0
	c.mu.Unlock()
	if over {
		c.CloseWithError(c.code, "")
	}
}

// broke marks the connection as unusable, unless the query just ran out of time. It returns err.
func (c *quicConn) broke(ctx context.Context, err error) error {
	if ctx.Err() == nil {
		c.mu.Lock()
		c.gone = true
		c.mu.Unlock()
	}
	return err
}

// datagrams adapts a connected socket to net.PacketConn: it has one peer, and ignores the address in WriteTo.
type datagrams struct{ net.Conn }

func (d datagrams) ReadFrom(b []byte) (int, net.Addr, error) {
	n, err := d.Read(b)
	return n, d.RemoteAddr(), err
}

func (d datagrams) WriteTo(b []byte, _ net.Addr) (int, error) { return d.Write(b) }

// SetReadBuffer and SetWriteBuffer keep quic-go, which wants megabytes, from complaining on the standard logger that it does not
// get them (quic-go v0.65, sys_conn_buffers.go). A few queries at a time need no more than the default.
func (d datagrams) SetReadBuffer(int) error  { return nil }
func (d datagrams) SetWriteBuffer(int) error { return nil }
