package netlab

import (
	"net/netip"
)

// Route is an entry of a host's main routing table.
type Route struct {
	Dst    netip.Prefix // 0.0.0.0/0 or ::/0 is the default route
	Via    netip.Addr   // next hop; invalid for a directly connected network
	Link   string       // interface name; empty lets the kernel find it by Via
	Metric int          // lower wins; 0 is the kernel's default
	Silent bool         // packets to Dst vanish (a blackhole route); Via and Link are unused
}
