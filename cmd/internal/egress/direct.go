package egress

import (
	"context"
	"net"
	"net/netip"
	"syscall"

	"penstock/policy/iprange"
	"penstock/router"
)

// Direct is the egress "direct": the network that this machine is in.
type Direct interface {
	router.Dialer
	// Control prepares a socket of our own so that what it sends stays out of the TUN.
	Control(network, address string, c syscall.RawConn) error
	// Reserved reports addresses that belong to no other host: this machine's own, and those of iprange.IsReserved.
	Reserved(addr netip.Addr) bool
	Close() error
}

// Plain is Direct where sockets cannot be marked and need not be. It knows no address of the machine.
type Plain struct{ net.Dialer }

// Control does nothing.
func (Plain) Control(string, string, syscall.RawConn) error { return nil }

// Reserved knows no address of this machine.
func (Plain) Reserved(addr netip.Addr) bool { return iprange.IsReserved(addr) }

// Close does nothing.
func (Plain) Close() error { return nil }

// DialContext dials as the system does.
func (p Plain) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	return p.Dialer.DialContext(ctx, network, address)
}

// Outside is this machine's own network as transports use it: by sockets that stay out of the TUN, and names that are
// resolved without us.
type Outside struct {
	Direct Direct
	Mark   uint32 // of our own sockets; 0: none
	// Resolve finds the addresses of an endpoint's name.
	Resolve func(ctx context.Context, name string) ([]netip.Addr, error)
}
