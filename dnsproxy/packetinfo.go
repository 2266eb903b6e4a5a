package dnsproxy

import (
	"net"
	"net/netip"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

// packetInfo is the control message that came with a query. It makes the answer leave from the address that the client asked: a
// client ignores answers from any other.
type packetInfo struct {
	oob [64]byte
	len int
}

// wildcardSocket is a UDP socket that listens on all addresses, so each answer must name its own.
type wildcardSocket struct{ *net.UDPConn }

// newWildcardSocket asks the system for the address that each query came to. It reports false if pc is bound to an address, or if
// the system cannot tell. Answers then leave from the address that routing chooses.
func newWildcardSocket(pc *net.UDPConn) (wildcardSocket, bool) {
	local, ok := pc.LocalAddr().(*net.UDPAddr)
	if !ok || len(local.IP) > 0 && !local.IP.IsUnspecified() {
		return wildcardSocket{}, false
	}
	var err error
	if local.IP.To4() != nil {
		err = ipv4.NewPacketConn(pc).SetControlMessage(ipv4.FlagDst, true)
	} else { // it reports IPv4 addresses as mapped ones
		err = ipv6.NewPacketConn(pc).SetControlMessage(ipv6.FlagDst, true)
	}
	return wildcardSocket{pc}, err == nil
}

func (w wildcardSocket) read(buf []byte, info *packetInfo) (int, netip.AddrPort, error) {
	n, oob, _, from, err := w.ReadMsgUDPAddrPort(buf, info.oob[:])
	info.len = oob
	return n, from, err
}

func (w wildcardSocket) write(msg []byte, info *packetInfo, to netip.AddrPort) error {
	_, _, err := w.WriteMsgUDPAddrPort(msg, info.source(), to)
	return err
}
