package sockets

import (
	"encoding/binary"
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"
)

// controlBytes is enough for the control messages of a datagram: where it comes from or goes to, and what it is cut into.
const controlBytes = 128

// appendControl appends a control message, and returns where its data are. There must be room for it.
func appendControl(control []byte, level, kind int32, size int) (all, data []byte) {
	start := len(control)
	control = control[:start+unix.CmsgSpace(size)]
	clear(control[start:])
	h := (*unix.Cmsghdr)(unsafe.Pointer(&control[start]))
	h.Level, h.Type = level, kind
	h.SetLen(unix.CmsgLen(size))
	return control, control[start+unix.CmsgLen(0):][:size]
}

// Which of our addresses a datagram was sent to, or leaves from, is in a struct in_pktinfo {int index; in_addr spec_dst, addr;} or an
// in6_pktinfo {in6_addr addr; int index;}. An index of 0 leaves the choice of the interface to the system.
const source4, source6 = 4, 0 // bytes before the address

func appendSource4(control []byte, src netip.Addr) []byte {
	control, data := appendControl(control, unix.IPPROTO_IP, unix.IP_PKTINFO, unix.SizeofInet4Pktinfo)
	copy(data[source4:], src.AsSlice())
	return control
}

func appendSource6(control []byte, src netip.Addr) []byte {
	control, data := appendControl(control, unix.IPPROTO_IPV6, unix.IPV6_PKTINFO, unix.SizeofInet6Pktinfo)
	copy(data[source6:], src.AsSlice())
	return control
}

// parseControl returns at which address of ours a datagram has arrived, and the size of the parts that it was merged of: the zero Addr and
// 0 if the kernel does not say.
func parseControl(control []byte) (src netip.Addr, part int) {
	for len(control) >= unix.SizeofCmsghdr {
		h, data, rest, err := unix.ParseOneSocketControlMessage(control)
		if err != nil {
			break
		}
		switch {
		case h.Level == unix.SOL_UDP && h.Type == unix.UDP_GRO && len(data) >= 4:
			part = int(binary.NativeEndian.Uint32(data))
		case h.Level == unix.IPPROTO_IP && h.Type == unix.IP_PKTINFO && len(data) >= unix.SizeofInet4Pktinfo:
			src, _ = netip.AddrFromSlice(data[source4:][:4])
		case h.Level == unix.IPPROTO_IPV6 && h.Type == unix.IPV6_PKTINFO && len(data) >= unix.SizeofInet6Pktinfo:
			src, _ = netip.AddrFromSlice(data[source6:][:16])
		}
		control = rest
	}
	return src, part
}
