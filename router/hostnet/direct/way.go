package direct

import "net/netip"

// Way is where the kernel sends a packet of this machine.
type Way struct {
	To        netip.AddrPort
	Interface string // that it leaves by
	Local     bool   // it is for this machine itself
	Nowhere   bool   // no route leads there, or one that forbids it
}
