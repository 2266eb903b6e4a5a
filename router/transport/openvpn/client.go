package openvpn

import (
	"context"
	"errors"

	"penstock/router/transport"
)

// Client is one OpenVPN transport. It implements transport.Driver.
type Client struct {
	cfg Config
}

var _ transport.Driver = (*Client)(nil)

// New checks cfg and returns a client that is not connected.
func New(cfg Config) (*Client, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	return &Client{cfg: cfg}, nil
}

// Connect brings up a session.
func (c *Client) Connect(ctx context.Context) error { return errors.ErrUnsupported }

// Probe makes a living server answer.
func (c *Client) Probe(ctx context.Context) error { return errors.ErrUnsupported }

// Rebind moves the session to a new socket.
func (c *Client) Rebind() error { return errors.ErrUnsupported }

// Stats never blocks.
func (c *Client) Stats() transport.Stats { return transport.Stats{} }

// Close ends the session and closes the device.
func (c *Client) Close() error { return c.cfg.Device.Close() }
