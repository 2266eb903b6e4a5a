package packet

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"syscall"

	"penstock/stack/link"
)

// ICMP types (RFC 792, RFC 4443), and the code of an IPv4 packet that is too big.
const (
	FragmentationNeeded = 4
	PacketTooBig6       = 2
	TimeExceeded4       = 11
	TimeExceeded6       = 3

	EchoReply4, EchoRequest4, Unreachable4 = 0, 8, 3
	EchoReply6, EchoRequest6, Unreachable6 = 129, 128, 1
)

// PutEcho writes type, code and checksum of an echo message whose body stands from t[4:] on.
func PutEcho(t []byte, request bool, src, dst netip.Addr) {
	clear(t[:4])
	if src.Is4() {
		if request {
			t[0] = EchoRequest4
		}
		binary.BigEndian.PutUint16(t[2:], link.Checksum(t, 0))
		return
	}
	t[0] = EchoReply6
	if request {
		t[0] = EchoRequest6
	}
	binary.BigEndian.PutUint16(t[2:], link.Checksum(t, PseudoHeader(ProtoICMP6, src, dst, len(t))))
}

// ICMPError is an ICMP error behind room for its IP header. rest are the four bytes after its checksum.
func ICMPError(src, dst netip.Addr, kind, code byte, rest uint32, quoted []byte) []byte {
	hdr := HeaderLen(src)
	b := make([]byte, hdr+8+len(quoted))
	body := b[hdr:]
	body[0], body[1] = kind, code
	binary.BigEndian.PutUint32(body[4:], rest)
	copy(body[8:], quoted)
	pseudo := uint16(0)
	if src.Is6() {
		pseudo = PseudoHeader(ProtoICMP6, src, dst, len(body))
	}
	binary.BigEndian.PutUint16(body[2:], link.Checksum(body, pseudo))
	return b
}

// Quoted reads the head of a packet that an ICMP error quotes, or of its first fragment. Body holds at least eight bytes. ok is false
// for a head that no packet of a flow has.
func Quoted(b []byte) (p Packet, ok bool) {
	hdr, rest := 40, uint16(0) // rest: it is not the first fragment
	switch {
	case len(b) >= 28 && b[0]>>4 == 4:
		hdr, rest = int(b[0]&0xf)*4, binary.BigEndian.Uint16(b[6:])&0x1fff
		p.Src, p.Dst, p.Proto = netip.AddrFrom4([4]byte(b[12:16])), netip.AddrFrom4([4]byte(b[16:20])), b[9]
	case len(b) >= 48 && b[0]>>4 == 6:
		p.Src, p.Dst, p.Proto = netip.AddrFrom16([16]byte(b[8:24])), netip.AddrFrom16([16]byte(b[24:40])), b[6]
		if p.Proto == ProtoFragment6 {
			hdr, rest, p.Proto = 48, binary.BigEndian.Uint16(b[42:])&^7, b[40]
		}
	default:
		return p, false
	}
	if hdr < 20 || rest != 0 || len(b) < hdr+8 || p.Src.Is4In6() || p.Dst.Is4In6() {
		return p, false
	}
	p.Raw, p.Body = b, b[hdr:]
	return p, true
}

// UDPHead is the head of a datagram from src to dst as far as an ICMP error has to quote it.
func UDPHead(src, dst netip.AddrPort) []byte {
	b, head := newHead(ProtoUDP, src.Addr(), dst.Addr(), 8)
	PutPorts(head, src, dst)
	binary.BigEndian.PutUint16(head[4:], 8)
	return b
}

// EchoHead is the head of an echo request, whose identifier is the port of src.
func EchoHead(src netip.AddrPort, dst netip.Addr) []byte {
	b, head := newHead(ICMPProto(dst), src.Addr(), dst, 8)
	head[0] = EchoRequest6
	if dst.Is4() {
		head[0] = EchoRequest4
	}
	binary.BigEndian.PutUint16(head[4:], src.Port())
	return b
}

// FlowHead is UDPHead or EchoHead for a packet of size bytes; 0 if that does not matter.
func FlowHead(udp bool, src, dst netip.AddrPort, size int) []byte {
	if !udp {
		return resized(EchoHead(src, dst.Addr()), src.Addr(), size)
	}
	b := UDPHead(src, dst)
	if hdr := HeaderLen(src.Addr()); size > hdr {
		binary.BigEndian.PutUint16(b[hdr+4:], uint16(size-hdr))
	}
	return resized(b, src.Addr(), size)
}

// resized gives a quoted head the length of the packet that it is quoted from.
func resized(b []byte, src netip.Addr, size int) []byte {
	hdr := HeaderLen(src)
	switch {
	case size <= len(b):
	case src.Is4():
		binary.BigEndian.PutUint16(b[2:], uint16(size))
		b[10], b[11] = 0, 0
		binary.BigEndian.PutUint16(b[10:], link.Checksum(b[:hdr], 0))
	default:
		binary.BigEndian.PutUint16(b[4:], uint16(size-hdr))
	}
	return b
}

// SYNHead is the head of a SYN without options.
func SYNHead(src, dst netip.AddrPort, seq uint32) []byte {
	b, head := newHead(ProtoTCP, src.Addr(), dst.Addr(), 20)
	PutPorts(head, src, dst)
	binary.BigEndian.PutUint32(head[4:], seq)
	head[12], head[13] = 5<<4, 0x02
	return b
}

// Refusal answers a SYN as a host does on which nobody listens: with RST. ack is the sequence number after the SYN and what came with it.
func Refusal(src, dst netip.AddrPort, ack uint32) []byte {
	b, head := newHead(ProtoTCP, src.Addr(), dst.Addr(), 20)
	PutPorts(head, src, dst)
	binary.BigEndian.PutUint32(head[8:], ack)
	head[12], head[13] = 5<<4, 0x14
	binary.BigEndian.PutUint16(head[16:], link.Checksum(head, PseudoHeader(ProtoTCP, src.Addr(), dst.Addr(), len(head))))
	return b
}

func newHead(proto uint8, src, dst netip.Addr, n int) (b, head []byte) {
	hdr := HeaderLen(src)
	b = make([]byte, hdr+n)
	PutIP(b, proto, src, dst, n)
	return b, b[hdr:]
}

// Why is why a destination cannot be reached.
type Why uint8

const (
	WhyPort       Why = iota // nobody listens
	WhyHost                  // no way to the host
	WhyNet                   // no way to its network
	WhyProhibited            // policy says no
	WhyProtocol              // the host does not know the protocol
)

// unreachables are the ICMP codes of each reason in both families (RFC 792, RFC 1812, RFC 4443), and the errno that a
// dial of ours fails with.
var unreachables = [...]struct {
	code4, code6 byte
	errno        syscall.Errno
}{
	WhyPort:       {3, 4, syscall.ECONNREFUSED},
	WhyHost:       {1, 3, syscall.EHOSTUNREACH},
	WhyNet:        {0, 0, syscall.ENETUNREACH},
	WhyProhibited: {13, 1, syscall.EACCES},
	WhyProtocol:   {2, 4, syscall.ENOPROTOOPT}, // in ICMPv6 that is another type
}

// Code is the ICMP code of a reason.
func (w Why) Code(is4 bool) byte {
	if is4 {
		return unreachables[w].code4
	}
	return unreachables[w].code6
}

// Errno is the errno that a kernel reports for a reason.
func (w Why) Errno() syscall.Errno { return unreachables[w].errno }

// WhyOf is the reason that an error of a dial stands for. Errors that say nothing about the network count as a port
// where nobody listens.
func WhyOf(err error) Why {
	var errno syscall.Errno
	if !errors.As(err, &errno) {
		return WhyPort
	}
	switch errno {
	case syscall.EHOSTUNREACH, syscall.EHOSTDOWN, 10065: // the high numbers are those of Windows sockets
		return WhyHost
	case syscall.ENETUNREACH, syscall.ENETDOWN, 10051:
		return WhyNet
	case syscall.EACCES, syscall.EPERM, 10013:
		return WhyProhibited
	case syscall.ENOPROTOOPT, 10042:
		return WhyProtocol
	}
	return WhyPort
}

// WhyOfCode is the reason that the code of a received ICMP error stands for.
func WhyOfCode(is4 bool, code byte) Why {
	switch {
	case is4 && code == 3, !is4 && code == 4:
		return WhyPort
	case is4 && code == 2:
		return WhyProtocol
	case is4 && (code == 0 || code == 6 || code == 11), !is4 && code == 0:
		return WhyNet
	case is4 && (code == 9 || code == 10 || code == 13), !is4 && (code == 1 || code == 5 || code == 6):
		return WhyProhibited
	}
	return WhyHost
}
