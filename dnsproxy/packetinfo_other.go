//go:build !linux

package dnsproxy

import (
	"net/netip"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

// source returns the control message that makes an answer leave from the address that its query came to, or nil where the system
// has none.
func (p *packetInfo) source() []byte {
	var v4 ipv4.ControlMessage
	if v4.Parse(p.oob[:p.len]) == nil && v4.Dst != nil {
		return (&ipv4.ControlMessage{Src: v4.Dst}).Marshal()
	}
	var v6 ipv6.ControlMessage
	if v6.Parse(p.oob[:p.len]) == nil && v6.Dst != nil {
		if addr, ok := netip.AddrFromSlice(v6.Dst); ok && !addr.Is4In6() {
			return (&ipv6.ControlMessage{Src: v6.Dst}).Marshal()
		}
	}
	return nil
}
