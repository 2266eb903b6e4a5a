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
	waits   time.Time // since when the server owes an answer and says nothing; zero if it owes none
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

// leave notes the end of a query. One without an answer leaves waits as it is: the next must not wait on a dead path as well.
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

// takes says whether the next query may go here: not if the connection is over, or the server has been silent for so long that a
// new one is the better bet.
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

// broke notes that the connection failed a query for another reason than its time, and returns err.
func (c *quicConn) broke(ctx context.Context, err error) error {
	if ctx.Err() == nil {
		c.mu.Lock()
		c.gone = true
		c.mu.Unlock()
	}
	return err
}

// datagrams makes a packet connection of a connected one: what dialers return has one peer, whatever address is named.
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
