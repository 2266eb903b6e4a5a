package e2e

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"penstock/e2e/netlab"
)

// Rules as in README: a team reaches its intranet, and nobody anything else that is private.
const teamRules = `rules:
  - {name: intranet, match: {cidr: [10.20.0.10/32, "fd20::10/128"], group: [staff]}, do: direct}
  - {name: no-private, match: {cidr: private}, do: block}
  - {name: rest, do: direct}
`

// arrivals counts the SYNs and datagrams that reach port 5000 or 5001 of a host, on any address. A SYN made by hand that crosses the
// gateway never becomes a connection.
type arrivals struct{ n atomic.Int64 }

// listenUDP counts the datagrams that come to a port of a host.
func (a *arrivals) listenUDP(t *testing.T, h *netlab.Host, port string) {
	t.Helper()
	c, err := h.ListenPacket(t.Context(), "udp", port)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	go func() {
		for buf := make([]byte, 99); ; a.n.Add(1) {
			if _, _, err := c.ReadFrom(buf); err != nil {
				return
			}
		}
	}()
}

func (a *arrivals) listen(t *testing.T, h *netlab.Host, port string) {
	t.Helper()
	serve(t, h, port, func(c *net.TCPConn) { _, _ = io.WriteString(c, "hello") })
	number, err := strconv.Atoi(strings.TrimPrefix(port, ":"))
	if err != nil {
		t.Fatal(err)
	}
	for network, all := range map[string]string{"ip4:tcp": "0.0.0.0", "ip6:tcp": "::"} {
		raw, err := h.ListenPacket(t.Context(), network, all)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { raw.Close() })
		go func() {
			for buf := make([]byte, 99); ; {
				n, _, err := raw.ReadFrom(buf)
				if err != nil {
					return
				}
				const syn, ack = 2, 16
				if n >= 20 && int(binary.BigEndian.Uint16(buf[2:])) == number && buf[13]&(syn|ack) == syn {
					a.n.Add(1)
				}
			}
		}()
	}
	p, err := h.ListenPacket(t.Context(), "udp", port)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	go func() {
		for buf := make([]byte, 99); ; {
			if _, _, err := p.ReadFrom(buf); err != nil {
				return
			}
			a.n.Add(1)
		}
	}()
}

// next waits until one more has arrived than before.
func (a *arrivals) next(t *testing.T, what string, before int64) {
	t.Helper()
	eventually(t, what, func() error {
		if a.n.Load() == before {
			return errors.New("nothing has arrived")
		}
		return nil
	})
}

// first is the first packet of a flow: a SYN, or a datagram with five bytes.
func first(network string, src, dst netip.AddrPort) []byte {
	var b []byte
	protocol, checksum := byte(unix.IPPROTO_TCP), 16
	if network == "udp" {
		protocol, checksum = unix.IPPROTO_UDP, 6
		b = append([]byte{4: 0, 5: 13, 7: 0}, "hello"...)
	} else {
		b = []byte{4: 1, 12: 5 << 4, 13: 2, 14: 0xff, 19: 0}
	}
	binary.BigEndian.PutUint16(b, src.Port())
	binary.BigEndian.PutUint16(b[2:], dst.Port())
	from, to := src.Addr().AsSlice(), dst.Addr().AsSlice()
	binary.BigEndian.PutUint16(b[checksum:], sumOf(slices.Concat(from, to, []byte{0, protocol, 0, byte(len(b))}, b)))
	if src.Addr().Is4() {
		head := []byte{0x45, 3: byte(20 + len(b)), 8: 64, 9: protocol, 19: 0}
		copy(head[12:], from)
		copy(head[16:], to)
		return append(withChecksum(head), b...)
	}
	head := []byte{0x60, 5: byte(len(b)), 6: protocol, 7: 64}
	return slices.Concat(head, from, to, b)
}

// sumOf is the Internet checksum (RFC 1071).
func sumOf(b []byte) uint16 {
	sum := uint32(0)
	for i, c := range b {
		sum += uint32(c) << (8 * (1 - i%2))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// laptop: a raw socket ---> wg0 wireguard-go === WireGuard ===> [penstock; listens everywhere] gateway --- intranet: listens everywhere
func TestNothingArrivesWhereTheGuardIs(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	_, ben := keyPair(t)
	w.edit(t, "gateway.yaml", "peers:\n", "peers:\n  - {name: ben, public_key: "+ben+", allowed_ips: [10.99.0.3/32, 10.88.0.0/24]}\n")
	rules := rulesOf(t, w, "gateway.yaml")
	w.edit(t, "gateway.yaml", rules, openRules)
	ip := program(t, "ip")
	// Whatever of these the gateway dials arrives at the intranet's host, if it is not the gateway's own.
	for _, network := range []string{
		"10.99.0.0/24", "10.88.0.0/24", "100.64.0.0/10", "168.63.129.16/32", "169.254.0.0/16", "192.0.0.192/32", "192.168.77.0/24", "fd99::/64",
		"64:ff9b::/96", "2002::/16", "::10.0.0.0/104", "::192.168.0.0/112", "::198.51.100.10/128", "::127.0.0.1/128", "::169.254.169.254/128",
		"::ffff:0:0:0/96", "fec0::/10", "fd00:ec2::254/128", "fd20:ce::254/128",
	} {
		via := netlab.IntranetIPv4
		if netip.MustParsePrefix(network).Addr().Is6() {
			via = netlab.IntranetIPv6
		}
		for _, step := range []struct {
			host *netlab.Host
			args []string
		}{
			{w.Gateway, []string{"route", "add", network, "via", via}},
			{w.Intranet, []string{"route", "add", "local", network, "dev", "lo"}},
		} {
			if r := run(t, step.host, ip, step.args...); r.code != 0 {
				t.Fatalf("ip %q: %s", step.args, r)
			}
		}
	}
	var seen arrivals
	for _, h := range []*netlab.Host{w.Gateway, w.Intranet} {
		seen.listen(t, h, ":5000")
		seen.listen(t, h, ":5001")
	}
	// A martian is what no host may send (RFC 1812, 5.3.7): it is dropped before it is a flow.
	const martians = `penstock_drops_total{reason="address"}`
	rows := []struct{ sentence, addr, fate string }{
		{"a host of the intranet", netlab.IntranetIPv4, "always"},
		{"the same over IPv6", netlab.IntranetIPv6, "always"},
		{"the gateway's inner address", gatewayInner4, ""},
		{"the gateway's inner IPv6 address", gatewayInner6, ""},
		{"the gateway's address in the intranet", "10.20.0.1", ""},
		{"the same over IPv6", "fd20::1", ""},
		{"the gateway's outer address", netlab.GatewayIPv4, ""},
		{"the same over IPv6", netlab.GatewayIPv6, ""},
		{"loopback", "127.0.0.1", "martian"},
		{"another loopback", "127.8.8.8", "martian"},
		{"IPv6 loopback", "::1", "martian"},
		{"unspecified", "0.0.0.0", "martian"},
		{"IPv6 unspecified", "::", "martian"},
		{"link-local", "169.254.7.7", ""},
		{"the metadata service of most clouds", "169.254.169.254", ""},
		{"Alibaba's", "100.100.100.200", ""},
		{"Azure's", "168.63.129.16", ""},
		{"Oracle's", "192.0.0.192", ""},
		{"Amazon's over IPv6", "fd00:ec2::254", ""},
		{"Google's over IPv6", "fd20:ce::254", ""},
		{"IPv6 link-local", "fe80::7", "martian"},
		{"IPv4-mapped loopback", "::ffff:127.0.0.1", "martian"},
		{"the IPv4-mapped gateway", "::ffff:10.20.0.1", "martian"},
		{"multicast", "224.0.0.1", "martian"},
		{"IPv6 multicast", "ff02::1", "martian"},
		{"broadcast", "255.255.255.255", "martian"},
		{"the intranet's broadcast", "10.20.0.255", ""},
		{"NAT64 of loopback", "64:ff9b::127.0.0.1", ""},
		{"NAT64 of a metadata service", "64:ff9b::169.254.169.254", ""},
		{"NAT64 of the gateway", "64:ff9b::10.20.0.1", ""},
		{"NAT64 of the gateway's outer address", "64:ff9b::198.51.100.10", ""},
		{"NAT64 of the gateway's inner address", "64:ff9b::10.99.0.1", ""},
		{"6to4 of loopback", "2002:7f00:1::1", ""},
		{"6to4 of a metadata service", "2002:a9fe:a9fe::1", ""},
		{"6to4 of the gateway", "2002:a14:1::1", ""},
		{"6to4 of the gateway's outer address", "2002:c633:640a::1", ""},
		{"IPv4-compatible loopback", "::127.0.0.1", ""},
		{"the IPv4-compatible gateway", "::10.20.0.1", ""},
		{"the IPv4-compatible outer address", "::198.51.100.10", ""},
		{"the IPv4-compatible metadata service", "::169.254.169.254", ""},
		{"IPv4-translated loopback", "::ffff:0:127.0.0.1", ""},
		{"the IPv4-translated gateway", "::ffff:0:10.20.0.1", ""},
		{"another peer", "10.99.0.3", "peer"},
		{"a network behind another peer", "10.88.0.7", "peer"},
		{"an address that no peer has", "10.99.0.200", "nobody"},
		{"NAT64 of another peer", "64:ff9b::10.99.0.3", "peer"},
		{"6to4 of a network behind another peer", "2002:a58:7::1", "peer"},
		{"a private network", "192.168.77.7", "wide"},
		{"NAT64 of a private network", "64:ff9b::192.168.77.7", "wide"},
		{"6to4 of a private network", "2002:c0a8:4d07::1", "wide"},
		{"an IPv4-compatible private network", "::192.168.77.7", "wide"},
		{"an IPv4-translated private network", "::ffff:0:192.168.77.7", "wide"},
		{"a carrier's network", "100.64.0.9", "wide"},
		{"NAT64 of a carrier's network", "64:ff9b::100.64.0.9", "wide"},
		{"an old site-local network", "fec0::7", "wide"},
	}
	for _, row := range rows { // the controls: without penstock each of them arrives
		if slices.Contains([]string{"IPv6 link-local", "IPv6 unspecified", "multicast", "IPv6 multicast", "broadcast", "the intranet's broadcast"}, row.sentence) {
			continue // needs more of its sender than an address
		}
		for _, network := range []string{"tcp", "udp"} {
			before := seen.n.Load()
			conn, err := w.Gateway.DialContext(t.Context(), network, net.JoinHostPort(row.addr, "5000"))
			if err != nil {
				t.Fatalf("%s over %s from the gateway itself: %v", row.sentence, network, err)
			}
			_, _ = io.WriteString(conn, "hello")
			seen.next(t, row.sentence+" over "+network+" from the gateway itself", before)
			conn.Close()
		}
	}
	w.gateway = start(t, w.Gateway, w.path("gateway.yaml"))
	stock(t, w.Laptop, w.path("corp.conf"))
	sockets := map[bool]int{true: packetSocket(t, w.Laptop, "wg0", unix.ETH_P_IP), false: packetSocket(t, w.Laptop, "wg0", unix.ETH_P_IPV6)}
	from := map[bool]netip.Addr{true: netip.MustParseAddr(laptopInner4), false: netip.MustParseAddr(laptopInner6)}
	whys := map[string]string{"": "guard: the destination is this machine or a reserved address", "peer": "guard: the destination is a peer", "nobody": "loop: "}
	for i, phase := range []string{"wide", "team"} {
		if phase == "team" {
			w.edit(t, "gateway.yaml", openRules, teamRules)
			w.gateway.must(t, "reload")
		}
		for j, row := range rows {
			for k, network := range []string{"tcp", "udp"} {
				t.Run(fmt.Sprintf("%s/%s/%s", phase, row.sentence, network), func(t *testing.T) {
					before, dropped := seen.n.Load(), w.metric(t, w.Gateway, martians)
					dst := netip.AddrPortFrom(netip.MustParseAddr(row.addr), 5000)
					src := netip.AddrPortFrom(from[dst.Addr().Is4()], uint16(20000+1000*i+10*j+k))
					if _, err := unix.Write(sockets[dst.Addr().Is4()], first(network, src, dst)); err != nil {
						t.Fatal(err)
					}
					var said struct{ Verdict, Rule, Because string }
					w.gateway.ask(t, &said, "explain", network+"://"+dst.String(), "--from", "laptop")
					if row.fate == "always" || row.fate == phase {
						seen.next(t, row.sentence, before)
						if said.Verdict != "direct" {
							t.Errorf("explain: got %+v, want it forwarded", said)
						}
						return
					}
					if said.Verdict == "direct" {
						t.Errorf("explain: got %+v, want a block", said)
					}
					if row.fate == "martian" { // no flow at all
						eventually(t, "the packet is dropped", func() error {
							if w.metric(t, w.Gateway, martians) == dropped {
								return errors.New("it is not counted")
							}
							return nil
						})
					} else {
						f := w.gateway.deniedOne(t, "from "+src.String(), func(f flow) bool { return f.Src == src.String() })
						if f.Dst != dst.String() || f.Proto != network || f.Verdict != said.Verdict || f.Rule != said.Rule {
							t.Errorf("flows --denied: got %+v, want what explain says: %+v", f, said)
						}
						if blocked := f.Rule == "no-private" && row.fate != "peer"; !blocked && !strings.HasPrefix(f.Reason, whys[row.fate]) {
							t.Errorf("flows --denied: got %+v, want a reason that begins with %q", f, whys[row.fate])
						}
					}
					if n := seen.n.Load() - before; n != 0 {
						t.Errorf("got %d connects, want 0", n)
					}
				})
			}
		}
	}
	t.Run("whoever is named as the sender, only the peer's own addresses are", func(t *testing.T) {
		const foreign = `penstock_drops_total{reason="source"}`
		before, dropped := seen.n.Load(), w.metric(t, w.Gateway, foreign)
		senders := []string{"10.99.0.3", "10.88.0.7", gatewayInner4, netlab.IntranetIPv4, publicIPv4, "fd99::3", gatewayInner6}
		for _, sender := range senders {
			src, dst := netip.MustParseAddr(sender), netip.MustParseAddr(netlab.IntranetIPv4)
			if src.Is6() {
				dst = netip.MustParseAddr(netlab.IntranetIPv6)
			}
			for _, network := range []string{"tcp", "udp"} {
				if _, err := unix.Write(sockets[src.Is4()], first(network, netip.AddrPortFrom(src, 4000), netip.AddrPortFrom(dst, 5000))); err != nil {
					t.Fatal(err)
				}
			}
		}
		eventually(t, "each is counted", func() error {
			if n := w.metric(t, w.Gateway, foreign) - dropped; n < float64(2*len(senders)) {
				return fmt.Errorf("%v are", n)
			}
			return nil
		})
		if n := seen.n.Load() - before; n != 0 {
			t.Errorf("got %d connects, want 0", n)
		}
		if !strings.Contains(w.gateway.said.String(), "their source inside the tunnel is not an address of their peer") {
			t.Error("the log does not say it")
		}
	})
}
