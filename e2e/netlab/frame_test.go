package netlab

import (
	"encoding/binary"
	"net/netip"
	"testing"
)

// gatewayWG is the endpoint of the tunnel in these tests.
var gatewayWG = Endpoint{Network: "udp", Addr: netip.MustParseAddrPort("198.51.100.10:51820")}

var gatewayWG6 = Endpoint{Network: "udp", Addr: netip.MustParseAddrPort("[2001:db8:51::10]:51820")}

// ether puts an Ethernet header before an IP packet.
func ether(ip []byte) []byte {
	kind := uint16(0x0800)
	if ip[0]>>4 == 6 {
		kind = 0x86dd
	}
	return append(binary.BigEndian.AppendUint16(make([]byte, 12), kind), ip...)
}

// ipv4 makes a packet. offset is the fragment offset in bytes.
func ipv4(proto byte, src, dst string, offset int, payload []byte) []byte {
	b := make([]byte, 20, 20+len(payload))
	b[0], b[9] = 0x45, proto
	binary.BigEndian.PutUint16(b[6:], uint16(offset/8))
	copy(b[12:], netip.MustParseAddr(src).AsSlice())
	copy(b[16:], netip.MustParseAddr(dst).AsSlice())
	return append(b, payload...)
}

func ipv6(next byte, src, dst string, payload []byte) []byte {
	b := make([]byte, 40, 40+len(payload))
	b[0], b[6] = 0x60, next
	copy(b[8:], netip.MustParseAddr(src).AsSlice())
	copy(b[24:], netip.MustParseAddr(dst).AsSlice())
	return append(b, payload...)
}

// ports makes the head of a UDP datagram or TCP segment.
func ports(src, dst uint16) []byte {
	b := binary.BigEndian.AppendUint16(nil, src)
	return append(binary.BigEndian.AppendUint16(b, dst), make([]byte, 16)...)
}

func TestClassify(t *testing.T) {
	toGateway := ipv4(protoUDP, LaptopIPv4, GatewayIPv4, 0, ports(40000, 51820))
	toSite := ipv4(protoTCP, LaptopIPv4, "203.0.113.10", 0, ports(40000, 443))
	icmp := func(kind byte, quoted []byte) []byte {
		return append([]byte{kind, 0, 0, 0, 0, 0, 0, 0}, quoted...)
	}
	laterFragment := append([]byte{protoUDP, 0, 0, 8}, make([]byte, 4)...)
	for _, row := range []struct {
		sentence string
		frame    []byte
		want     class
		packet   string
	}{
		{"a datagram to the gateway is the tunnel", ether(toGateway), tunnel, "udp 192.168.50.10:40000 > 198.51.100.10:51820, 54 bytes"},
		{"its answer is the tunnel", ether(ipv4(protoUDP, GatewayIPv4, LaptopIPv4, 0, ports(51820, 40000))), tunnel, ""},
		{"another port of the gateway is in clear", ether(ipv4(protoUDP, LaptopIPv4, GatewayIPv4, 0, ports(40000, 53))), clear, ""},
		{"the tunnel's port elsewhere is in clear", ether(ipv4(protoUDP, LaptopIPv4, "203.0.113.10", 0, ports(40000, 51820))), clear, ""},
		{"TCP to the tunnel's port is in clear", ether(ipv4(protoTCP, LaptopIPv4, GatewayIPv4, 0, ports(40000, 51820))), clear, ""},
		{"a later fragment to the gateway is the tunnel", ether(ipv4(protoUDP, LaptopIPv4, GatewayIPv4, 1480, make([]byte, 100))), tunnel, ""},
		{"a later fragment to a site is in clear", ether(ipv4(protoUDP, LaptopIPv4, "203.0.113.10", 1480, make([]byte, 100))), clear, ""},
		{"a datagram to the gateway over IPv6 is the tunnel", ether(ipv6(protoUDP, LaptopIPv6, GatewayIPv6, ports(40000, 51820))), tunnel, ""},
		{"a later fragment over IPv6 is the tunnel", ether(ipv6(protoFragment, LaptopIPv6, GatewayIPv6, append(laterFragment, make([]byte, 32)...))), tunnel, ""},
		{"an ICMP error about the tunnel is the tunnel", ether(ipv4(protoICMP, GatewayIPv4, LaptopIPv4, 0, icmp(3, toGateway))), tunnel, ""},
		{"an ICMP error about a site is in clear", ether(ipv4(protoICMP, AccessIPv4, LaptopIPv4, 0, icmp(3, toSite))), clear, ""},
		{"an ICMP error about an ICMP error is in clear", ether(ipv4(protoICMP, AccessIPv4, LaptopIPv4, 0, icmp(3, ipv4(protoICMP, AccessIPv4, LaptopIPv4, 0, icmp(3, toGateway))))), clear, ""},
		{"a ping to the gateway is in clear", ether(ipv4(protoICMP, LaptopIPv4, GatewayIPv4, 0, icmp(8, toGateway))), clear, "icmp 192.168.50.10:0 > 198.51.100.10:0, 82 bytes"},
		{"a site over TCP is in clear", ether(toSite), clear, "tcp 192.168.50.10:40000 > 203.0.113.10:443, 54 bytes"},
		{"a query to the access router is in clear", ether(ipv4(protoUDP, LaptopIPv4, AccessIPv4, 0, ports(40000, 53))), clear, ""},
		{"ARP is housekeeping", append(make([]byte, 12), 0x08, 0x06), housekeeping, ""},
		{"DHCP is housekeeping", ether(ipv4(protoUDP, "0.0.0.0", "255.255.255.255", 0, ports(68, 67))), housekeeping, ""},
		{"DHCPv6 is housekeeping", ether(ipv6(protoUDP, "fe80::1", "ff02::1:2", ports(546, 547))), housekeeping, ""},
		{"a datagram from DHCP's port to another is in clear", ether(ipv4(protoUDP, LaptopIPv4, AccessIPv4, 0, ports(68, 53))), clear, ""},
		{"a neighbour solicitation is housekeeping", ether(ipv6(protoICMP6, "fe80::1", "ff02::1", []byte{135, 0, 0, 0})), housekeeping, ""},
		{"a listener report behind hop-by-hop options is housekeeping", ether(ipv6(protoHopByHop, "fe80::1", "ff02::16", []byte{protoICMP6, 0, 5, 2, 0, 0, 1, 0, 143, 0, 0, 0})), housekeeping, ""},
		{"a ping over IPv6 is in clear", ether(ipv6(protoICMP6, LaptopIPv6, AccessIPv6, []byte{128, 0, 0, 0})), clear, ""},
		{"an unknown protocol is in clear", ether(ipv4(47, LaptopIPv4, GatewayIPv4, 0, nil)), clear, "ip proto 47 192.168.50.10:0 > 198.51.100.10:0, 34 bytes"},
		{"an unknown frame is in clear", append(make([]byte, 12), 0x88, 0xcc), clear, "ether 0x88cc invalid AddrPort > invalid AddrPort, 14 bytes"},
		{"half a header is in clear", ether(toGateway)[:30], clear, "malformed ip invalid AddrPort > invalid AddrPort, 30 bytes"},
		{"no frame is in clear", nil, clear, ""},
	} {
		t.Run(row.sentence, func(t *testing.T) {
			packet, got := classify(row.frame, []Endpoint{gatewayWG, gatewayWG6})
			if got != row.want {
				t.Errorf("got %d, want %d (%v)", got, row.want, packet)
			}
			if row.packet != "" && packet.String() != row.packet {
				t.Errorf("got %q, want %q", packet, row.packet)
			}
		})
	}
}

// FuzzClassify: every frame gets a class, and without an allowed endpoint none is of the tunnel.
func FuzzClassify(f *testing.F) {
	f.Add(ether(ipv4(protoUDP, LaptopIPv4, GatewayIPv4, 0, ports(40000, 51820))))
	f.Add(ether(ipv4(protoICMP, GatewayIPv4, LaptopIPv4, 0, append(make([]byte, 8), ipv4(protoUDP, LaptopIPv4, GatewayIPv4, 0, ports(1, 51820))...))))
	f.Add(ether(ipv6(protoHopByHop, "fe80::1", "ff02::16", []byte{protoICMP6, 0, 5, 2, 0, 0, 1, 0, 143, 0, 0, 0})))
	f.Fuzz(func(t *testing.T, frame []byte) {
		p, got := classify(frame, nil)
		if got == tunnel {
			t.Errorf("got tunnel for %v with no endpoint allowed", p)
		}
		p, got = classify(frame, []Endpoint{gatewayWG, gatewayWG6})
		if got == tunnel && p.Network == "tcp" {
			t.Errorf("got tunnel for %v with UDP endpoints alone", p)
		}
	})
}
