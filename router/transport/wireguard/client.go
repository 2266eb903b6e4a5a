package wireguard

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun"

	"penstock/router/transport"
)

var _ transport.Driver = (*Client)(nil)

// ClientConfig says what a Client is made of.
type ClientConfig struct {
	Name string // for messages

	// Device is the inner side. It is the Client's from NewClient's success until Close, which closes it: its Read must
	// then return, its Write must not block any more, and its events must end. A batch may have up to 128 packets.
	Device tun.Device

	// Wireguard holds the keys, the peers and the local port. What the file says of addresses, resolvers and
	// MTU is for whoever made Device. A peer's Name is not used.
	Wireguard *Config

	// Mark is put on the UDP sockets before anything is sent: SO_MARK on Linux, SO_USER_COOKIE on FreeBSD, the routing
	// table on OpenBSD; ignored elsewhere. 0: none. It needs CAP_NET_ADMIN on Linux.
	Mark uint32

	// Resolve returns the addresses of an endpoint's host name, asked outside the tunnel. It is called at each Connect,
	// and should bound how often it asks. If nil, the host's resolver is asked.
	Resolve func(ctx context.Context, host string) ([]netip.Addr, error)

	// Probe sends something through the tunnel that a peer must answer. If nil, a new handshake is the probe, which
	// stalls the tunnel for a round trip.
	Probe func(ctx context.Context) error

	Log *slog.Logger // nil: silent

	// Lost is called once, from a goroutine that Close waits for, when the inner device fails. The Client is then of no
	// more use. May be nil.
	Lost func(error)
}

// Client is the calling side of a WireGuard tunnel. Between its peers it routes by AllowedIPs. One that answers makes it
// connected; the others are called as well, and by wireguard-go itself whenever there is something to send.
type Client struct {
	core
	name    string
	resolve resolveFunc
	probe   func(context.Context) error
	lost    func(error)
	log     *slog.Logger
	callees []*callee

	closing atomic.Bool
	last    atomic.Pointer[transport.Stats]
	mu      sync.Mutex // held while the device is read or changed; guards below
	open    bool       // the sockets are open and the peers run
}

// callee is a peer that can be called. Its fields are Connect's.
type callee struct {
	peer     *device.Peer
	key      PublicKey
	endpoint Endpoint
	addrs    []netip.AddrPort // in the order in which to try them; kept for when the name cannot be resolved
}

// NewClient makes a Client that has not connected and has no socket open. Errors say what in the configuration cannot be used.
func NewClient(config ClientConfig) (*Client, error) {
	if err := config.Wireguard.check(); err != nil {
		return nil, fmt.Errorf("wireguard %s: %w", config.Name, err)
	}
	c := &Client{
		name:    config.Name,
		resolve: config.Resolve,
		probe:   config.Probe,
		lost:    config.Lost,
		log:     config.Log,
	}
	if c.log == nil {
		c.log = slog.New(slog.DiscardHandler)
	}
	if c.resolve == nil {
		c.resolve = resolveDefault
	}
	if err := c.start(config); err != nil {
		return nil, fmt.Errorf("wireguard %s: %w", c.name, err)
	}
	return c, nil
}

func (c *Client) start(config ClientConfig) error {
	return errors.ErrUnsupported
}

// Connect implements transport.Driver.
func (c *Client) Connect(ctx context.Context) error { return errors.ErrUnsupported }

// Probe implements transport.Driver.
func (c *Client) Probe(ctx context.Context) error { return errors.ErrUnsupported }

// Rebind implements transport.Driver.
func (c *Client) Rebind() error { return errors.ErrUnsupported }

// Stats implements transport.Driver.
func (c *Client) Stats() transport.Stats { return *c.last.Load() }

// Port returns the local UDP port, and 0 while no socket is open.
func (c *Client) Port() uint16 { return 0 }

// Close implements transport.Driver.
func (c *Client) Close() error { return nil }

// handshakeTimeout bounds how long one attempt waits for its answer.
const handshakeTimeout = 5 * time.Second
