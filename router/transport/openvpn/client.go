package openvpn

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"penstock/router/transport"
	"penstock/router/transport/openvpn/internal/data"
	"penstock/router/transport/openvpn/internal/login"
	"penstock/router/transport/openvpn/internal/text"
)

// Client is one OpenVPN transport. It implements transport.Driver: at most one session is up at a time, and the
// device outlives them all.
type Client struct {
	cfg     Config
	log     *slog.Logger
	meter   meter
	session atomic.Pointer[session] // the one that carries data; nil: what the device gives is dropped

	// Used by the goroutine that calls Connect, and by its sessions while it waits or after it is done.
	login     *login.Login
	next      int       // remote to try first
	notBefore time.Time // the server said that it goes down for a moment

	pump   sync.Once // starts the pump
	close  sync.Once
	closed chan struct{}
	result error // of Close
	wg     sync.WaitGroup

	mu sync.Mutex // held to close closed, and to join wg while it is open
}

var _ transport.Driver = (*Client)(nil)

var errClosed = errors.New("openvpn: the client is closed")

// New checks cfg and returns a client that is not connected.
func New(cfg Config) (*Client, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	if cfg.RequireServerCert && !cfg.Profile.Trust.TellsServers() {
		return nil, &transport.BlockedError{Reason: transport.ReasonError, Err: fmt.Errorf("openvpn %s: %w", cfg.Name, ErrServerUnverified)}
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Dialer == nil {
		cfg.Dialer = &net.Dialer{}
	}
	c := &Client{cfg: cfg, log: cfg.Log.With("transport", cfg.Name), closed: make(chan struct{}), login: login.New(cfg.Profile, cfg.Credentials)}
	c.meter = meter{name: cfg.Name, metrics: cfg.Metrics, began: time.Now()}
	return c, nil
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
	return c.named(s.rebind())
}

// Stats never blocks.
func (c *Client) Stats() transport.Stats {
	out := c.meter.stats()
	if s := c.session.Load(); s != nil {
		out.Endpoint = s.data.Remote().String()
	}
	return out
}

// Close tells the server that the session is over, waiting for less than a second, closes the device and waits for
// every goroutine. It ends a Connect that is under way.
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
	err := c.named(s.err)
	c.log.Warn("session lost", "err", err)
	if c.cfg.Lost != nil {
		c.cfg.Lost(err)
	}
}

// named adds the transport's name to an error that leaves the package, and keeps its reason.
func (c *Client) named(err error) error {
	if _, ok := errors.AsType[transport.ErrKeepaliveTimeout](err); ok || err == nil || errors.Is(err, transport.ErrNotUp) || errors.Is(err, errClosed) {
		return err
	}
	named := fmt.Errorf("openvpn %s: %w", c.cfg.Name, err)
	if e, ok := errors.AsType[*transport.BlockedError](err); ok {
		return &transport.BlockedError{Reason: e.Reason, Err: named}
	}
	if e, ok := errors.AsType[*transport.ReasonedError](err); ok {
		return &transport.ReasonedError{Reason: e.Reason, Err: named}
	}
	return named
}

func failed(reason transport.Reason, err error) error {
	return &transport.ReasonedError{Reason: reason, Err: err}
}

func blocked(err error) error {
	return &transport.BlockedError{Reason: transport.ReasonError, Err: err}
}

// runPump carries packets from the device to the current session, until the device is closed.
func (c *Client) runPump() {
	batch := c.cfg.Device.BatchSize()
	bufs, sizes := make([][]byte, batch), make([]int, batch)
	for i := range bufs {
		bufs[i] = make([]byte, data.Offset+maxInner+data.Tail)
	}
	readable := make([][]byte, batch)
	for i := range bufs {
		readable[i] = bufs[i][:data.Offset+maxInner]
	}
	for {
		n, err := c.cfg.Device.Read(readable, sizes, data.Offset)
		if s := c.session.Load(); s != nil && n > 0 {
			s.data.Send(bufs[:n], sizes[:n])
		} else if n > 0 {
			c.meter.Drop(data.DropNotUp, n)
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

// maxInner is the largest packet a device may give, in bytes: far above the MTU in Settings.
const maxInner = text.MaxMTU
