package egress

import (
	"context"
	"net"
	"net/netip"
	"syscall"

	"penstock/policy/iprange"
	"penstock/router"
	"penstock/router/transport/wireguard"
)

// Direct is the egress "direct", which is the network of this machine.
type Direct interface {
	router.Dialer
	// Control prepares one of our own sockets so that its packets stay out of the TUN.
	Control(network, address string, c syscall.RawConn) error
	// Reserved reports whether an address is this machine's own, or one of iprange.IsReserved.
	Reserved(addr netip.Addr) bool
	// Routed reports whether packets to an address leave this machine by its own uplink and a router there.
	Routed(addr netip.Addr) bool
	Close() error
}

// Plain is a Direct whose sockets need no mark. It does not know the machine's addresses.
type Plain struct{ net.Dialer }

// Control does nothing.
func (Plain) Control(string, string, syscall.RawConn) error { return nil }

// Reserved reports only the addresses of iprange.IsReserved.
func (Plain) Reserved(addr netip.Addr) bool { return iprange.IsReserved(addr) }

// Routed returns false: nothing is known about routes.
func (Plain) Routed(netip.Addr) bool { return false }

// Close does nothing.
func (Plain) Close() error { return nil }

// DialContext dials as the system does.
func (p Plain) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	return p.Dialer.DialContext(ctx, network, address)
}

// Outside is the machine's own network, and its clock, for the use of transports. Packets stay out of the TUN, and names are resolved without
// our DNS server.
type Outside struct {
	Direct Direct
	Mark   uint32 // of our own sockets; 0: none
	// Resolve returns the addresses for an endpoint's name.
	Resolve func(ctx context.Context, name string) ([]netip.Addr, error)
	// Past returns a time that is surely over, for a clock that may be behind it. May be nil.
	Past func() wireguard.Past
}
