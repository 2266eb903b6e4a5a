package stack

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"syscall"

	"penstock/stack/link"
)

// unreachableWhy is why a destination cannot be reached.
type unreachableWhy uint8

const (
	whyPort       unreachableWhy = iota // nobody listens
	whyHost                             // no way to the host
	whyNet                              // no way to its network
	whyProhibited                       // policy says no
)

// unreachables are the ICMP codes of each reason in both families (RFC 792, RFC 1812, RFC 4443), and the errno that a
// dial of ours fails with.
var unreachables = [...]struct {
	code4, code6 byte
	errno        syscall.Errno
}{
	whyPort:       {3, 4, syscall.ECONNREFUSED},
	whyHost:       {1, 3, syscall.EHOSTUNREACH},
	whyNet:        {0, 0, syscall.ENETUNREACH},
	whyProhibited: {13, 1, syscall.EACCES},
}

// code is the ICMP code of a reason.
func (w unreachableWhy) code(is4 bool) byte {
	if is4 {
		return unreachables[w].code4
	}
	return unreachables[w].code6
}

func (w unreachableWhy) errno() syscall.Errno { return unreachables[w].errno }

// whyOf is the reason that an error of a dial stands for. Errors that say nothing about the network count as a port
// where nobody listens.
func whyOf(err error) unreachableWhy {
	var errno syscall.Errno
	if !errors.As(err, &errno) {
		return whyPort
	}
	switch errno {
	case syscall.EHOSTUNREACH, syscall.EHOSTDOWN, 10065: // the high numbers are those of Windows sockets
		return whyHost
	case syscall.ENETUNREACH, syscall.ENETDOWN, 10051:
		return whyNet
	case syscall.EACCES, syscall.EPERM, 10013:
		return whyProhibited
	}
	return whyPort
}

// whyOfCode is the reason that the code of a received ICMP error stands for.
func whyOfCode(is4 bool, code byte) unreachableWhy {
	switch {
	case is4 && code == 3, !is4 && code == 4:
		return whyPort
	case is4 && (code == 0 || code == 6 || code == 11), !is4 && code == 0:
		return whyNet
	case is4 && (code == 9 || code == 10 || code == 13), !is4 && (code == 1 || code == 5 || code == 6):
		return whyProhibited
	}
	return whyHost
}

// inboundUnreachable takes an ICMP error about a datagram of ours, or about a TCP connection that is being dialled.
// quoted is the head of the packet that caused it. Errors about open TCP connections are left to gVisor.
func (s receiver) inboundUnreachable(code byte, quoted []byte) (taken bool) {
	var h packet
	if len(quoted) < 28 {
		return true
	}
	hdr := 40
	if quoted[0]>>4 == 4 {
		hdr = int(quoted[0]&0xf) * 4
		h.src, h.dst, h.proto = netip.AddrFrom4([4]byte(quoted[12:16])), netip.AddrFrom4([4]byte(quoted[16:20])), quoted[9]
	} else if len(quoted) >= 48 {
		h.src, h.dst, h.proto = netip.AddrFrom16([16]byte(quoted[8:24])), netip.AddrFrom16([16]byte(quoted[24:40])), quoted[6]
	}
	if !h.src.IsValid() || len(quoted) < hdr+8 {
		return true
	}
	body, errno := quoted[hdr:], whyOfCode(h.src.Is4(), code).errno()
	ports := addrPair{
		remote: netip.AddrPortFrom(h.dst, binary.BigEndian.Uint16(body[2:])),
		local:  netip.AddrPortFrom(h.src, binary.BigEndian.Uint16(body)),
	}
	switch h.proto {
	case protoUDP:
		s.flows.fail(flowKey{kindUDP, ports}, errno)
		return true
	case icmpProto(h.src):
		s.flows.fail(flowKey{kindReply, addrPair{
			remote: netip.AddrPortFrom(h.dst, 0),
			local:  netip.AddrPortFrom(h.src, binary.BigEndian.Uint16(body[4:])),
		}}, errno)
		return true
	case protoTCP:
		const fragmentationNeeded = 4 // concerns the path's MTU, which gVisor keeps
		return !(h.src.Is4() && code == fragmentationNeeded) && s.dials.fail(ports, errno)
	}
	return false
}

// sender is a stack as it sends packets of its own making, past gVisor.
type sender struct{ *Stack }

// unreachable answers the sender of flow k, quoting the head of a packet of that flow. It is rate-limited as hosts do.
func (s sender) unreachable(k flowKey, why unreachableWhy) {
	if !s.flows.errors.Allow() {
		return
	}
	client, asked := k.remote, k.local
	hdr, is4 := ipHeaderLen(client.Addr()), client.Addr().Is4()
	quoted := make([]byte, hdr+8)
	head := quoted[hdr:]
	if k.kind == kindUDP {
		putIP(quoted, protoUDP, client.Addr(), asked.Addr(), 8)
		putPorts(head, client, asked)
		binary.BigEndian.PutUint16(head[4:], 8)
	} else {
		putIP(quoted, icmpProto(client.Addr()), client.Addr(), asked.Addr(), 8)
		head[0] = echoRequest6
		if is4 {
			head[0] = echoRequest4
		}
		binary.BigEndian.PutUint16(head[4:], client.Port())
	}
	s.sendUnreachable(asked.Addr(), client.Addr(), why.code(is4), quoted)
}

// unreachableTCP answers a SYN. Linux ends the connect with the errno of the ICMP code, as long as the sequence number
// that is quoted is the SYN's. It is not rate-limited, because neither are the RSTs that it replaces.
func (s sender) unreachableTCP(client, asked netip.AddrPort, seq uint32, why unreachableWhy) {
	hdr := ipHeaderLen(client.Addr())
	quoted := make([]byte, hdr+20)
	putIP(quoted, protoTCP, client.Addr(), asked.Addr(), 20)
	head := quoted[hdr:]
	putPorts(head, client, asked)
	binary.BigEndian.PutUint32(head[4:], seq)
	head[12], head[13] = 5<<4, 0x02 // no options, SYN
	s.sendUnreachable(asked.Addr(), client.Addr(), why.code(client.Addr().Is4()), quoted)
}

func putPorts(b []byte, src, dst netip.AddrPort) {
	binary.BigEndian.PutUint16(b, src.Port())
	binary.BigEndian.PutUint16(b[2:], dst.Port())
}

// sendUnreachable sends "destination unreachable". It comes from the address that the client asked for: a client may
// accept nothing from any other address through its tunnel.
func (s sender) sendUnreachable(src, dst netip.Addr, code byte, quoted []byte) {
	kind := byte(unreachable6)
	if src.Is4() {
		kind = unreachable4
	}
	s.sendICMPError(src, dst, kind, code, 0, quoted)
}

// sendICMPError sends an ICMP error. rest are the four bytes after its checksum.
func (s sender) sendICMPError(src, dst netip.Addr, kind, code byte, rest uint32, quoted []byte) {
	hdr := ipHeaderLen(src)
	b := make([]byte, hdr+8+len(quoted))
	body := b[hdr:]
	body[0], body[1] = kind, code
	binary.BigEndian.PutUint32(body[4:], rest)
	copy(body[8:], quoted)
	pseudo := uint16(0)
	if src.Is6() {
		pseudo = pseudoHeader(protoICMP6, src, dst, len(body))
	}
	binary.BigEndian.PutUint16(body[2:], link.Checksum(body, pseudo))
	if err := s.sendIP(icmpProto(src), src, dst, b); err != nil {
		s.metrics.drop(dropQueue)
	}
}

// unknownProtocol answers a packet of a protocol that the stack does not carry, as a host does that does not know it.
func (s sender) unknownProtocol(h *packet) {
	const noNextHeader = 59 // RFC 8200: the packet asks for nothing
	if h.src.Is6() && h.proto == noNextHeader || s.handle == nil && !s.own(h.dst) || !s.flows.errors.Allow() {
		return
	}
	if h.src.Is4() {
		const protocolUnreachable = 2
		quoted := h.raw[:min(len(h.raw), 576-28)] // RFC 1812, 4.3.2.3
		s.sendICMPError(h.dst, h.src, unreachable4, protocolUnreachable, 0, quoted)
		return
	}
	// The pointer leads to the header field that names the protocol.
	const parameterProblem, unknownNextHeader = 4, 1
	quoted := h.raw[:min(len(h.raw), 1280-48)] // RFC 4443, 2.4
	s.sendICMPError(h.dst, h.src, parameterProblem, unknownNextHeader, uint32(h.named), quoted)
}
