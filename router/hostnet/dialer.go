package hostnet

import (
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"time"
)

// Forwarded TCP keep-alive of direct connections.
const (
	keepAliveIdle     = 5 * time.Minute
	keepAliveInterval = 75 * time.Second
)

// DialerConfig says what a [Dialer] must stay out of.
type DialerConfig struct {
	// Interface is the name of our TUN; a dial whose route leaves by it is refused. "" if there is none.
	Interface string
	// Prefixes are those of our TUN: a destination in them is refused.
	Prefixes []netip.Prefix
	// Mark and MarkMask as in Config. Both zero: DefaultMark, DefaultMarkMask.
	Mark, MarkMask uint32
	// Log may be nil.
	Log *slog.Logger
}

// parseTarget takes apart what DialContext is given. Names are refused: who asks for one must resolve
// it, and judge the address, before.
func parseTarget(network, address string) (netip.AddrPort, error) {
	switch network {
	case "tcp", "tcp4", "tcp6", "udp", "udp4", "udp6", "ping4", "ping6":
	default:
		return netip.AddrPort{}, fmt.Errorf("hostnet: dial %s %s: unknown network", network, address)
	}
	target, err := netip.ParseAddrPort(address)
	if err != nil {
		return target, fmt.Errorf("hostnet: dial %s: want an IP address and a port: %w", network, err)
	}
	target = netip.AddrPortFrom(target.Addr().Unmap(), target.Port())
	if v4 := target.Addr().Is4(); strings.HasSuffix(network, "4") && !v4 || strings.HasSuffix(network, "6") && v4 {
		return target, fmt.Errorf("hostnet: dial %s %s: address is of the other family", network, address)
	}
	return target, nil
}
