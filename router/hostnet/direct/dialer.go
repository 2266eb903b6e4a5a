package direct

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"time"
)

// The default mark stands clear of Tailscale (0xff0000), kube-proxy (0x4000, 0x8000), wg-quick (0xca6c) and sing-box
// (0x2023-0x2025).
const (
	DefaultMark     = 0x1000000
	DefaultMarkMask = 0x1000000
)

var (
	// ErrLoop is matched by the errors of dials that would have come back into our own TUN.
	ErrLoop = errors.New("destination leads into our own TUN")
	// ErrNoEscape is returned when our sockets can neither be marked nor bound to an uplink.
	ErrNoEscape = errors.New("sockets can be neither marked nor bound to an uplink")
)

// TCP keep-alive of direct connections.
const (
	keepAliveIdle     = 5 * time.Minute
	keepAliveInterval = 75 * time.Second
)

// Config says what a [Dialer] must stay out of.
type Config struct {
	// Interface is the name of our TUN; a dial whose route leaves by it is refused. "" if there is none.
	Interface string
	// Prefixes are the networks of our TUN: a destination in them is refused.
	Prefixes []netip.Prefix
	// Mark and MarkMask are the bit (or bits) that our own sockets carry. Both zero: DefaultMark, DefaultMarkMask.
	Mark, MarkMask uint32
	// Others are the networks of other programs. Dials to them leave by their interfaces. May be nil.
	Others *Others
	// Log may be nil.
	Log *slog.Logger
}

// A RefusedError is a dial that was refused before a packet left.
type RefusedError struct {
	Destination netip.Addr
	Reason      string // "loop"
	Interface   string // our TUN
}

// Error says what was refused and why.
func (e *RefusedError) Error() string {
	return "direct: dial " + e.Destination.String() + " refused, reason " + e.Reason + ": it leads into our own " + e.Interface
}

// Is reports true for ErrLoop.
func (e *RefusedError) Is(target error) bool { return target == ErrLoop && e.Reason == "loop" }

// parseTarget parses the arguments of DialContext. It refuses names: the caller must resolve a name, and judge the address,
// before.
func parseTarget(network, address string) (netip.AddrPort, error) {
	switch network {
	case "tcp", "tcp4", "tcp6", "udp", "udp4", "udp6", "ping4", "ping6":
	default:
		return netip.AddrPort{}, fmt.Errorf("direct: dial %s %s: unknown network", network, address)
	}
	target, err := netip.ParseAddrPort(address)
	if err != nil {
		return target, fmt.Errorf("direct: dial %s: want an IP address and a port: %w", network, err)
	}
	target = netip.AddrPortFrom(target.Addr().Unmap(), target.Port())
	if v4 := target.Addr().Is4(); strings.HasSuffix(network, "4") && !v4 || strings.HasSuffix(network, "6") && v4 {
		return target, fmt.Errorf("direct: dial %s %s: address is of the other family", network, address)
	}
	return target, nil
}
