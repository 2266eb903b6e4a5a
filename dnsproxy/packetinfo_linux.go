package dnsproxy

import (
	"encoding/binary"
	"syscall"
)

// source returns the control message that makes an answer leave from the address that its query came to. The message that came with
// the query says it, but for the interface, which is for routing to choose: ip(7), ipv6(7).
func (p *packetInfo) source() []byte {
	const level = syscall.SizeofCmsghdr - 8
	oob := p.oob[:p.len]
	if len(oob) < syscall.SizeofCmsghdr+4 {
		return nil
	}
	switch int32(binary.NativeEndian.Uint32(oob[level:])) {
	case syscall.IPPROTO_IP: // struct in_pktinfo: interface, local address, destination
		clear(oob[syscall.SizeofCmsghdr:][:4])
	case syscall.IPPROTO_IPV6: // struct in6_pktinfo: address, interface. A link-local client needs the interface, and names it
		if len(oob) >= syscall.SizeofCmsghdr+20 {
			clear(oob[syscall.SizeofCmsghdr+16:][:4])
		}
	}
	return oob
}
