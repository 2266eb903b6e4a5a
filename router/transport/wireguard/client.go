package wireguard

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun"

	"penstock/router/transport"
	"penstock/router/transport/wireguard/internal/backlog"
	"penstock/router/transport/wireguard/internal/sockets"
)

var _ transport.Driver = (*Client)(nil)

// ClientConfig configures a Client.
type ClientConfig struct {
	Name string // for messages

	// Device is the inner side. NewClient takes it over: Close closes it, and so does NewClient if it fails. Once it is
	// closed its Read must return, its Write must not block, and its Events must end.
	Device tun.Device

	// Wireguard holds the keys, the peers and the local port. Its addresses, resolvers and MTU are for whoever made
	// Device.
	Wireguard *Config

	// Mark is put on the UDP sockets before anything is sent: SO_MARK on Linux, SO_USER_COOKIE on FreeBSD, the routing
	// table on OpenBSD; ignored elsewhere. 0: none. It needs CAP_NET_ADMIN on Linux.
	Mark uint32

	// Resolve returns the addresses of an endpoint's host name, asked outside the tunnel. Each Connect calls it, so it
	// should limit how often it asks. If nil, the host's resolver is asked.
	Resolve func(ctx context.Context, host string) ([]netip.Addr, error)

	// Probe sends something through the tunnel that a peer must answer. If nil, a new handshake is the probe. It stalls
	// the tunnel for a round trip.
	Probe func(ctx context.Context) error

	// Past returns a time that is surely over. If the clock is behind it, a Connect that nobody answers says so. May be nil:
	// then only the Client's own handshakes tell that the clock was set back.
	Past func() Past

	// Drops counts the packets that are dropped because too many wait to be decrypted and handed to Device, with the reason "backlog".
	// Nil: they are not counted.
	Drops interface{ Drop(reason string) }

	Log *slog.Logger // nil: silent

	// Lost is called once when the inner device fails. The Client can then only be closed. Close waits for the goroutine
	// that calls Lost, so Lost must not call it. May be nil.
	Lost func(error)
}

// Client is the calling side of a WireGuard tunnel. It routes between its peers by AllowedIPs. One peer that answers makes
// it connected. The others are called too; WireGuard itself calls them again when there is something to send.
type Client struct {
	*core
	name    string
	resolve resolveFunc
	probe   func(context.Context) error
	past    func() Past
	clock   func() time.Time
	lost    func(error)
	log     *slog.Logger
	callees []*callee
	choice  *sockets.Choice // the sockets, if a peer may have several addresses; else nil

	firstWait time.Duration // for an answer to the first calls of Connect
	headStart time.Duration // of an address in use

	last   atomic.Pointer[transport.Stats] // newest sample
	mu     sync.Mutex                      // held while the device is read or changed; guards below
	open   bool                            // the sockets are open and the peers run
	shakes handshakes
}

// NewClient makes a Client that is not connected and has no socket open. The error names everything in the configuration
// that cannot be used.
func NewClient(config ClientConfig) (*Client, error) {
	c, err := newClient(config)
	if err != nil {
		return nil, fmt.Errorf("wireguard %s: %w", config.Name, err)
	}
	return c, nil
}

func newClient(config ClientConfig) (*Client, error) {
	wg := config.Wireguard
	if err := wg.Check(); err != nil {
		config.Device.Close()
		return nil, err
	}
	c := &Client{
		name:    config.Name,
		resolve: config.Resolve,
		probe:   config.Probe,
		past:    config.Past,
		clock:   time.Now,

		firstWait: firstWait,
		headStart: headStart,
		lost:      config.Lost,
		log:       config.Log,
	}
	if c.resolve == nil {
		c.resolve = resolveDefault
	}
	if c.log == nil {
		c.log = slog.New(slog.DiscardHandler)
	}
	c.log = c.log.With("transport", c.name)
	c.last.Store(&transport.Stats{})

	var s script
	for _, p := range wg.Peers {
		s.change(Peer{}, p)
	}
	bind := sockets.ForClient()
	if slices.ContainsFunc(wg.Peers, Peer.mayMove) {
		c.choice = sockets.NewChoice()
		bind = c.choice
	}
	waiting := backlog.New(func() {
		if config.Drops != nil {
			config.Drops.Drop("backlog")
		}
	})
	var err error
	if c.core, err = newCore(waiting.Device(config.Device), waiting.Bind(bind), wg.PrivateKey, wg.ListenPort, config.Mark, s.String(), newDeviceLogger(c.log, nil)); err != nil {
		return nil, err
	}
	for _, p := range wg.Peers {
		if len(p.Endpoints) > 0 {
			c.callees = append(c.callees, &callee{
				peer: c.dev.LookupPeer(device.NoisePublicKey(p.PublicKey)), key: p.PublicKey, endpoints: p.Endpoints,
				known: make([][]netip.AddrPort, len(p.Endpoints)),
			})
		}
	}
	c.wg.Go(c.watch)
	return c, nil
}

// watch calls lost when the device ends though nobody closed it.
func (c *Client) watch() {
	<-c.dev.Wait()
	if !c.closing.Load() && c.lost != nil {
		c.lost(fmt.Errorf("wireguard %s: %w", c.name, errDeviceLost))
	}
}

// Probe sends something that a living peer must answer. It does not wait for the answer.
func (c *Client) Probe(ctx context.Context) error {
	if c.probe != nil {
		return c.probe(ctx)
	}
	if !c.isOpen() {
		return fmt.Errorf("wireguard %s: probe: %w", c.name, transport.ErrNotUp)
	}
	var errs []error
	for _, callee := range c.callees {
		if len(callee.others) > 0 && time.Since(callee.called) < firstWait {
			continue // a new handshake would void the one that several addresses have been asked for
		}
		callee.expire()
		if err := callee.peer.SendHandshakeInitiation(false); err != nil {
			errs = append(errs, fmt.Errorf("wireguard %s: probe %s: %w", c.name, list(callee.endpoints), err))
		}
	}
	return errors.Join(errs...)
}

func (c *Client) isOpen() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.open
}

// Rebind closes the sockets, opens new ones, at the same port if possible, and sends each peer an empty packet that tells
// it our new address. Sessions stay. It does nothing before the first Connect. After an error no socket is open and the
// sessions are gone until the next Connect.
func (c *Client) Rebind() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.open {
		return nil
	}
	if err := c.rebind(); err != nil {
		c.open = false
		return fmt.Errorf("wireguard %s: rebind: %w", c.name, err)
	}
	c.dev.SendKeepalivesToPeersWithCurrentKeypair()
	return nil
}

// Stats returns the counters of all peers together. The times of the last packets are those of the first call that saw
// them, so they are only as exact as Stats is called often. Endpoint is that of the peer with the last handshake.
func (c *Client) Stats() transport.Stats {
	if c.mu.TryLock() {
		c.sampleLocked()
		c.mu.Unlock()
	}
	return *c.last.Load()
}

// sample is Stats, but waits for a device that is busy.
func (c *Client) sample() transport.Stats {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sampleLocked()
	return *c.last.Load()
}

// sampleLocked reads the device. The last sample stays if the device has ended, because that forgets its peers.
func (c *Client) sampleLocked() {
	_, peers, err := readStatus(c.dev)
	if err != nil || len(peers) == 0 {
		return
	}
	last := *c.last.Load()
	next := transport.Stats{LastRx: last.LastRx, LastTx: last.LastTx}
	if c.shakes.look(peers) {
		c.settleLocked(peers)
	}
	next.LastHandshake, next.Others = c.shakes.at, c.othersLocked(peers)
	for _, p := range peers {
		next.RxBytes += p.RxBytes
		next.TxBytes += p.TxBytes
		if p.Endpoint.IsValid() && (next.Endpoint == "" || p.PublicKey == c.shakes.with) {
			next.Endpoint = p.Endpoint.String()
		}
	}
	now := time.Now()
	if next.RxBytes > last.RxBytes {
		next.LastRx = now
	}
	if next.TxBytes > last.TxBytes {
		next.LastTx = now
	}
	c.last.Store(&next)
}

// Port returns the local UDP port, and 0 while no socket is open.
func (c *Client) Port() uint16 {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.open {
		return 0
	}
	port, _, _ := readStatus(c.dev)
	return port
}

// Close ends the sessions, closes the sockets and the inner device, and waits. It cannot tell the peer: the protocol has
// no message for it.
func (c *Client) Close() error {
	c.closing.Store(true)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.open = false
	c.close()
	return nil
}
