package netlab

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
)

// Endpoint is the public end of a tunnel. Packets to and from it are allowed.
type Endpoint struct {
	Network string         // "udp" or "tcp"
	Addr    netip.AddrPort // of the gateway
}

// Packet is a summary of the headers of a frame.
type Packet struct {
	Network  string         // "tcp", "udp", "icmp", "icmp6", "arp", else "ip proto N" or "ether 0xNNNN"
	Src, Dst netip.AddrPort // port 0 where there is none; invalid for frames that are not IP
	Length   int            // bytes on the wire, Ethernet header included
}

// String describes the packet, such as "udp 192.168.50.10:40000 > 203.0.113.53:53, 71 bytes".
func (p Packet) String() string {
	return fmt.Sprintf("%s %v > %v, %d bytes", p.Network, p.Src, p.Dst, p.Length)
}

// class is the kind of a frame on a link that only a tunnel may use.
type class uint8

const (
	clear        class = iota // neither of the others: the zero value is the leak
	tunnel                    // to or from an allowed endpoint, or an ICMP error about such a packet
	housekeeping              // ARP, neighbour and multicast listener discovery, DHCP
)

const etherHeader = 14 // bytes

// Numbers of protocols as IP carries them.
const (
	protoHopByHop = 0
	protoICMP     = 1
	protoTCP      = 6
	protoUDP      = 17
	protoRouting  = 43
	protoFragment = 44
	protoICMP6    = 58
	protoDestOpts = 60
)

// classify decodes an Ethernet frame, which may be truncated after its headers, and returns its class.
func classify(frame []byte, allowed []Endpoint) (Packet, class) {
	p := Packet{Network: "short frame", Length: len(frame)}
	if len(frame) < etherHeader {
		return p, clear
	}
	switch kind := binary.BigEndian.Uint16(frame[12:]); kind {
	case 0x0806:
		p.Network = "arp"
		return p, housekeeping
	case 0x0800, 0x86dd:
		ip, ok := parseIP(frame[etherHeader:])
		if !ok {
			p.Network = "malformed ip"
			return p, clear
		}
		p.Network, p.Src, p.Dst = ip.network(), ip.src, ip.dst
		return p, ip.classify(allowed, true)
	default:
		p.Network = fmt.Sprintf("ether 0x%04x", kind)
		return p, clear
	}
}

// ipPacket is a parsed IP header with the ports of what it carries.
type ipPacket struct {
	src, dst netip.AddrPort
	proto    int
	fragment bool   // not the first one: no ports
	payload  []byte // of the IP packet, as far as captured
}

func (p ipPacket) network() string {
	switch p.proto {
	case protoTCP:
		return "tcp"
	case protoUDP:
		return "udp"
	case protoICMP:
		return "icmp"
	case protoICMP6:
		return "icmp6"
	}
	return fmt.Sprintf("ip proto %d", p.proto)
}

// parseIP reads an IP header of either version, IPv6 extension headers included.
func parseIP(b []byte) (ipPacket, bool) {
	if len(b) < 1 {
		return ipPacket{}, false
	}
	var p ipPacket
	var src, dst netip.Addr
	switch b[0] >> 4 {
	case 4:
		header := int(b[0]&15) * 4
		if header < 20 || len(b) < header {
			return ipPacket{}, false
		}
		src, dst = netip.AddrFrom4([4]byte(b[12:16])), netip.AddrFrom4([4]byte(b[16:20]))
		p.proto = int(b[9])
		p.fragment = binary.BigEndian.Uint16(b[6:])&0x1fff != 0
		p.payload = b[header:]
	case 6:
		if len(b) < 40 {
			return ipPacket{}, false
		}
		src, dst = netip.AddrFrom16([16]byte(b[8:24])), netip.AddrFrom16([16]byte(b[24:40]))
		p.proto = int(b[6])
		p.payload = b[40:]
		for slices.Contains([]int{protoHopByHop, protoRouting, protoFragment, protoDestOpts}, p.proto) && !p.fragment {
			size := 8
			if len(p.payload) < size {
				return ipPacket{}, false
			}
			if p.proto == protoFragment {
				p.fragment = binary.BigEndian.Uint16(p.payload[2:])&0xfff8 != 0
			} else {
				size += int(p.payload[1]) * 8
			}
			if len(p.payload) < size {
				return ipPacket{}, false
			}
			p.proto, p.payload = int(p.payload[0]), p.payload[size:]
		}
	default:
		return ipPacket{}, false
	}
	var srcPort, dstPort uint16
	if (p.proto == protoTCP || p.proto == protoUDP) && !p.fragment && len(p.payload) >= 4 {
		srcPort, dstPort = binary.BigEndian.Uint16(p.payload), binary.BigEndian.Uint16(p.payload[2:])
	}
	p.src, p.dst = netip.AddrPortFrom(src, srcPort), netip.AddrPortFrom(dst, dstPort)
	return p, true
}

// classify returns the class of the packet. If about is set, an ICMP error has the class of the packet that it quotes.
func (p ipPacket) classify(allowed []Endpoint, about bool) class {
	for _, e := range allowed {
		if e.Network != p.network() {
			continue
		}
		if p.src == e.Addr || p.dst == e.Addr {
			return tunnel
		}
		// Later fragments have no ports. They belong to a first fragment that has them.
		if p.fragment && (p.src.Addr() == e.Addr.Addr() || p.dst.Addr() == e.Addr.Addr()) {
			return tunnel
		}
	}
	switch {
	case p.proto == protoUDP && p.isDHCP():
		return housekeeping
	case p.proto == protoICMP6 && len(p.payload) > 0 && isDiscovery(p.payload[0]):
		return housekeeping
	case about && p.isICMPError() && len(p.payload) > 8:
		if quoted, ok := parseIP(p.payload[8:]); ok && quoted.classify(allowed, false) == tunnel {
			return tunnel
		}
	}
	return clear
}

func (p ipPacket) isDHCP() bool {
	from, to := p.src.Port(), p.dst.Port()
	if p.src.Addr().Is4() {
		return (from == 67 || from == 68) && (to == 67 || to == 68)
	}
	return (from == 546 || from == 547) && (to == 546 || to == 547)
}

// isDiscovery reports whether an ICMPv6 type belongs to neighbour discovery (RFC 4861) or to multicast listener discovery
// (RFC 3810), which the kernel speaks whenever an IPv6 link comes up.
func isDiscovery(kind byte) bool {
	return kind >= 133 && kind <= 137 || kind >= 130 && kind <= 132 || kind == 143
}

// isICMPError reports whether the packet quotes another: unreachable, too big, time exceeded, parameter problem.
func (p ipPacket) isICMPError() bool {
	if len(p.payload) == 0 || p.fragment {
		return false
	}
	switch p.proto {
	case protoICMP:
		return slices.Contains([]byte{3, 11, 12}, p.payload[0])
	case protoICMP6:
		return p.payload[0] >= 1 && p.payload[0] <= 4
	}
	return false
}
