package openvpn

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"penstock/router/transport"
	"penstock/router/transport/openvpn/internal/datakey"
)

// Client is one OpenVPN transport. It implements transport.Driver: at most one session is up at a time, and the
// device outlives them all.
type Client struct {
	cfg      Config
	log      *slog.Logger
	counters counters
	session  atomic.Pointer[session] // the one that carries data; nil: what the device gives is dropped

	// Used by the goroutine that calls Connect, and by its sessions while it waits or after it is done.
	login     login
	next      int       // remote to try first
	notBefore time.Time // the server said that it goes down for a moment

	pump   sync.Once // starts the pump
	close  sync.Once
	closed chan struct{}
	result error // of Close
	wg     sync.WaitGroup

	mu sync.Mutex // Connect joins wg, or sees closed, and never between
}

var _ transport.Driver = (*Client)(nil)

var errClosed = errors.New("openvpn: the client is closed")

// New checks cfg and returns a client that is not connected.
func New(cfg Config) (*Client, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Client{cfg: cfg, log: cfg.Log.With("transport", cfg.Name), closed: make(chan struct{})}, nil
}

// Probe makes a living server answer: with an options request on the data channel and the acknowledgement of a control
// packet that it has already. Before it is up it returns transport.ErrNotUp.
func (c *Client) Probe(context.Context) error {
	s := c.session.Load()
	if s == nil {
		return transport.ErrNotUp
	}
	return s.do(func() error { s.probe(); return nil })
}

// Rebind moves a UDP session to a new socket; the server follows with the first packet that authenticates. Over TCP
// the session belongs to its connection: the error says to Connect again.
func (c *Client) Rebind() error {
	s := c.session.Load()
	if s == nil {
		return transport.ErrNotUp
	}
	return s.rebind()
}

// Stats never blocks.
func (c *Client) Stats() transport.Stats {
	out := c.counters.stats()
	if s := c.session.Load(); s != nil {
		out.Endpoint = s.outer().remote().String()
	}
	return out
}

// Close tells the server that the session is over, waiting for at most a second, closes the device and waits for every
// goroutine. It ends a Connect that is under way.
func (c *Client) Close() error {
	c.close.Do(func() {
		c.mu.Lock()
		close(c.closed)
		c.mu.Unlock()
		if s := c.session.Swap(nil); s != nil {
			s.leave()
		}
		if err := c.cfg.Device.Close(); err != nil {
			c.result = fmt.Errorf("openvpn %s: close the device: %w", c.cfg.Name, err)
		}
		c.wg.Wait()
	})
	return c.result
}

// join counts the caller as one of those that Close waits for, unless the client is closed.
func (c *Client) join() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	select {
	case <-c.closed:
		return false
	default:
		c.wg.Add(1)
		return true
	}
}

// ended is called once by each session when it is over.
func (c *Client) ended(s *session) {
	if !c.session.CompareAndSwap(s, nil) {
		return // never established, or replaced, or closed: whoever did that knows
	}
	c.log.Warn("session lost", "err", s.err)
	if c.cfg.Lost != nil {
		c.cfg.Lost(s.err)
	}
}

func (c *Client) failed(reason transport.Reason, err error) error {
	return &transport.ReasonedError{Reason: reason, Err: fmt.Errorf("openvpn %s: %w", c.cfg.Name, err)}
}

func (c *Client) blocked(reason transport.Reason, err error) error {
	return &transport.BlockedError{Reason: reason, Err: fmt.Errorf("openvpn %s: %w", c.cfg.Name, err)}
}

// deviceOffset is where packets from the device start, so that what the link and the key put in front fits.
const deviceOffset = linkHead + datakey.MaxHead

// runPump carries packets from the device to the session of the moment, until the device is closed.
func (c *Client) runPump() {
	batch := c.cfg.Device.BatchSize()
	bufs, sizes := make([][]byte, batch), make([]int, batch)
	for i := range bufs {
		bufs[i] = make([]byte, deviceOffset+maxInner+datakey.Tail)
	}
	readable := make([][]byte, batch)
	for i := range bufs {
		readable[i] = bufs[i][:deviceOffset+maxInner]
	}
	for {
		n, err := c.cfg.Device.Read(readable, sizes, deviceOffset)
		if s := c.session.Load(); s != nil && n > 0 {
			s.send(bufs[:n], sizes[:n])
		} else if n > 0 {
			c.cfg.Metrics.drop(c.cfg.Name, dropNotUp, n)
		}
		if err != nil {
			select {
			case <-c.closed:
			default:
				c.log.Error("the device stopped giving packets", "err", err)
			}
			return
		}
	}
}

// maxInner is the largest packet a device may give, in bytes: far above the MTU that Configure is told.
const maxInner = maxMTU
