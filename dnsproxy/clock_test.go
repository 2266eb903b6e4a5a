package dnsproxy

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"
)

// clock is a time that tests move.
type clock struct {
	mu sync.Mutex // guards below
	t  time.Time
}

func newClock() *clock { return &clock{t: time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)} }

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

var errDown = errors.New("transport corp is not up")

// downDialer is the way through a transport that is down.
type downDialer struct{}

func (downDialer) DialContext(context.Context, string, string) (net.Conn, error) { return nil, errDown }
