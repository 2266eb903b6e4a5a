package direct_test

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"penstock/router/hostnet"
	"penstock/router/hostnet/direct"
	"penstock/router/hostnet/internal/hosttest"
	"penstock/router/hostnet/internal/rtnl"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// settings capture everything.
func settings() hostnet.Settings {
	return hostnet.Settings{
		Addresses: []netip.Prefix{netip.MustParsePrefix("10.77.0.1/24"), netip.MustParsePrefix("fd77::1/64")},
		Capture:   []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")},
		LAN:       true,
	}
}

// captured is a laptop with penstock's settings applied, and its dialer.
func captured(t *testing.T) (*hosttest.Host, *direct.Dialer) {
	t.Helper()
	h := hosttest.New(t)
	host, err := hostnet.Open(hostnet.Config{Interface: "pen0", StateFile: h.StateFile(), ResolvConf: h.ResolvConf()})
	hosttest.Must(t, err)
	hosttest.Must(t, host.Apply(t.Context(), settings()))
	t.Cleanup(func() { hosttest.Must(t, host.Close()) })
	d, err := direct.NewDialer(direct.Config{Interface: "pen0", Prefixes: settings().Addresses})
	hosttest.Must(t, err)
	t.Cleanup(func() { hosttest.Must(t, d.Close()) })
	return h, d
}

func TestMarkedDialsEscapeAndLoopsAreRefused(t *testing.T) {
	if !hosttest.InNamespaces(t) {
		return
	}
	h, d := captured(t)
	hosttest.Must(t, d.SelfTest(t.Context()))
	for _, dst := range []string{"198.51.100.1:1001", "[2001:db8:5::1]:1002", "192.168.1.77:1003"} {
		hosttest.Drain(t, h.TUN, h.Uplink)
		c, err := d.DialContext(t.Context(), "udp", dst)
		hosttest.Must(t, err)
		_, err = c.Write([]byte("ours"))
		hosttest.Must(t, err)
		hosttest.Must(t, c.Close())
		if !hosttest.Arrives(t, h.Uplink, netip.MustParseAddrPort(dst)) {
			t.Errorf("udp %s: did not leave by the uplink", dst)
		}

		hosttest.Drain(t, h.TUN, h.Uplink)
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		if c, err := d.DialContext(ctx, "tcp", dst); err == nil {
			c.Close()
			t.Errorf("tcp %s: connected to nobody", dst)
		}
		cancel()
		if !hosttest.Arrives(t, h.Uplink, netip.MustParseAddrPort(dst)) {
			t.Errorf("tcp %s: no SYN left by the uplink", dst)
		}
	}

	for _, dst := range []string{"10.77.0.9:80", "10.77.0.1:80", "[fd77::5]:80", "[::ffff:10.77.0.9]:80"} {
		_, err := d.DialContext(t.Context(), "tcp", dst)
		var refused *direct.RefusedError
		if !errors.Is(err, direct.ErrLoop) || !errors.As(err, &refused) || refused.Reason != "loop" {
			t.Errorf("dial %s: got %v, want a RefusedError of reason loop", dst, err)
		}
	}
	for _, bad := range [][2]string{{"tcp", "example.com:80"}, {"sctp", "192.0.2.1:80"}, {"tcp4", "[2001:db8::1]:80"}, {"ping6", "192.0.2.1:0"}} {
		if c, err := d.DialContext(t.Context(), bad[0], bad[1]); err == nil {
			c.Close()
			t.Errorf("dial %s %s: got a connection, want an error", bad[0], bad[1])
		}
	}
}

func TestARouteOfTheMainTableIntoTheTUNIsALoop(t *testing.T) {
	if !hosttest.InNamespaces(t) {
		return
	}
	_, d := captured(t)
	tun, err := netlink.LinkByName("pen0")
	hosttest.Must(t, err)
	hosttest.Must(t, netlink.RouteAdd(&netlink.Route{LinkIndex: tun.Attrs().Index, Dst: rtnl.IPNet(netip.MustParsePrefix("192.0.2.0/24"))}))
	if _, err := d.DialContext(t.Context(), "udp", "192.0.2.9:53"); !errors.Is(err, direct.ErrLoop) {
		t.Errorf("dial: got %v, want ErrLoop", err)
	}
}

func TestOfflineIsNoRouteAndNoLoop(t *testing.T) {
	if !hosttest.InNamespaces(t) {
		return
	}
	h, d := captured(t)
	hosttest.Must(t, h.Uplink.Close())
	hosttest.Must(t, d.SelfTest(t.Context()))
	_, err := d.DialContext(t.Context(), "udp", "198.51.100.1:53")
	if !errors.Is(err, unix.EHOSTUNREACH) && !errors.Is(err, unix.ENETUNREACH) {
		t.Errorf("dial without a route: got %v, want unreachable", err)
	}
}

// A network with a router for IPv6 that hands out no addresses: the kernel would send from the TUN's address.
func TestTheTUNsAddressIsNotSentFrom(t *testing.T) {
	if !hosttest.InNamespaces(t) {
		return
	}
	h, d := captured(t)
	uplink, err := netlink.LinkByName("up0")
	hosttest.Must(t, err)
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		addrs, err := netlink.AddrList(uplink, family)
		hosttest.Must(t, err)
		for _, a := range addrs {
			if !a.IP.IsLinkLocalUnicast() {
				hosttest.Must(t, netlink.AddrDel(uplink, &a))
			}
		}
		all := netip.PrefixFrom(netip.IPv6Unspecified(), 0)
		if family == netlink.FAMILY_V4 {
			all = netip.PrefixFrom(netip.IPv4Unspecified(), 0)
		}
		hosttest.Must(t, netlink.RouteReplace(&netlink.Route{LinkIndex: uplink.Attrs().Index, Dst: rtnl.IPNet(all)}))
	}
	hosttest.Must(t, d.SelfTest(t.Context()))
	for _, dst := range []string{"198.51.100.1:1001", "[2001:db8:5::1]:1002"} {
		hosttest.Drain(t, h.Uplink)
		c, err := d.DialContext(t.Context(), "udp", dst)
		if err == nil {
			c.Close()
		}
		if !errors.Is(err, unix.ENETUNREACH) || errors.Is(err, direct.ErrLoop) {
			t.Errorf("dial %s: got %v, want no route", dst, err)
		}
	}
}

func TestReservedKnowsOurOwnAddresses(t *testing.T) {
	if !hosttest.InNamespaces(t) {
		return
	}
	_, d := captured(t)
	for addr, want := range map[string]bool{
		"192.168.1.10": true, "2001:db8:1::10": true, "10.77.0.1": true, "127.0.0.1": true, "169.254.169.254": true,
		"192.168.1.255": true, "::ffff:192.168.1.10": true, "192.168.1.11": false, "198.51.100.1": false, "2001:db8:5::1": false,
	} {
		if got := d.Reserved(netip.MustParseAddr(addr)); got != want {
			t.Errorf("Reserved(%s): got %v, want %v", addr, got, want)
		}
	}
}

func TestSocketsAreBoundWhereMarksDoNotHelp(t *testing.T) {
	if !hosttest.InNamespaces(t) {
		return
	}
	h := hosttest.New(t)
	d, err := direct.NewDialer(direct.Config{Interface: "pen0"})
	hosttest.Must(t, err)
	defer d.Close()
	// As where the user routes by hand: the default route leads into the TUN, marks or not.
	tun, err := netlink.LinkByName("pen0")
	hosttest.Must(t, err)
	hosttest.Must(t, netlink.LinkSetUp(tun))
	for _, half := range []string{"0.0.0.0/1", "128.0.0.0/1"} {
		hosttest.Must(t, netlink.RouteAdd(&netlink.Route{LinkIndex: tun.Attrs().Index, Dst: rtnl.IPNet(netip.MustParsePrefix(half))}))
	}
	if _, err := d.DialContext(t.Context(), "udp", "198.51.100.1:1001"); !errors.Is(err, direct.ErrLoop) {
		t.Errorf("dial before the self-test: got %v, want ErrLoop", err)
	}
	hosttest.Must(t, d.SelfTest(t.Context()))
	c, err := d.DialContext(t.Context(), "udp", "198.51.100.1:1001")
	hosttest.Must(t, err)
	defer c.Close()
	_, err = c.Write([]byte("ours"))
	hosttest.Must(t, err)
	if !hosttest.Arrives(t, h.Uplink, netip.MustParseAddrPort("198.51.100.1:1001")) {
		t.Error("a bound socket did not leave by the uplink")
	}
	listener := net.ListenConfig{Control: d.Control}
	pc, err := listener.ListenPacket(t.Context(), "udp", "0.0.0.0:0")
	hosttest.Must(t, err)
	defer pc.Close()
	_, err = pc.WriteTo([]byte("ours"), net.UDPAddrFromAddrPort(netip.MustParseAddrPort("198.51.100.2:1002")))
	hosttest.Must(t, err)
	if !hosttest.Arrives(t, h.Uplink, netip.MustParseAddrPort("198.51.100.2:1002")) {
		t.Error("a bound listener did not send by the uplink")
	}

	own, err := net.ListenPacket("udp", "127.0.0.1:0")
	hosttest.Must(t, err)
	defer own.Close()
	here, err := d.DialContext(t.Context(), "udp", own.LocalAddr().String())
	hosttest.Must(t, err)
	defer here.Close()
	_, err = here.Write([]byte("ours"))
	hosttest.Must(t, err)
	hosttest.Must(t, own.SetReadDeadline(time.Now().Add(5*time.Second)))
	if _, _, err := own.ReadFrom(make([]byte, 10)); err != nil {
		t.Errorf("a server on the host itself is not reached: %v", err)
	}
}

// answerEcho answers, or refuses, the next echo request that is read from the uplink.
func answerEcho(t *testing.T, h *hosttest.Host, refuse bool) (request []byte) {
	t.Helper()
	buf := make([]byte, 65536)
	for {
		hosttest.Must(t, h.Uplink.SetReadDeadline(time.Now().Add(5*time.Second)))
		n, err := h.Uplink.Read(buf)
		hosttest.Must(t, err)
		p := slices.Clone(buf[:n])
		v4 := p[0]>>4 == 4
		switch {
		case v4 && p[9] == unix.IPPROTO_ICMP && p[20] == 8:
			src, dst := slices.Clone(p[12:16]), slices.Clone(p[16:20])
			reply := slices.Clone(p[20:])
			reply[0] = 0
			if refuse {
				reply = append([]byte{3, 1, 0, 0, 0, 0, 0, 0}, p...) // host unreachable
			}
			binary.BigEndian.PutUint16(reply[2:], 0)
			binary.BigEndian.PutUint16(reply[2:], hosttest.Checksum(reply))
			out := slices.Concat(p[:20], reply)
			copy(out[12:], dst)
			copy(out[16:], src)
			binary.BigEndian.PutUint16(out[2:], uint16(len(out)))
			binary.BigEndian.PutUint16(out[10:], 0)
			binary.BigEndian.PutUint16(out[10:], hosttest.Checksum(out[:20]))
			_, err = h.Uplink.Write(out)
			hosttest.Must(t, err)
			return p[20:]
		case !v4 && p[6] == unix.IPPROTO_ICMPV6 && p[40] == 128:
			src, dst := slices.Clone(p[8:24]), slices.Clone(p[24:40])
			reply := slices.Clone(p[40:])
			reply[0] = 129
			if refuse {
				reply = append([]byte{1, 3, 0, 0, 0, 0, 0, 0}, p...) // address unreachable
			}
			binary.BigEndian.PutUint16(reply[2:], 0)
			pseudo := slices.Concat(dst, src, []byte{0, 0, byte(len(reply) >> 8), byte(len(reply)), 0, 0, 0, unix.IPPROTO_ICMPV6}, reply)
			binary.BigEndian.PutUint16(reply[2:], hosttest.Checksum(pseudo))
			out := slices.Concat(p[:40], reply)
			copy(out[8:], dst)
			copy(out[24:], src)
			binary.BigEndian.PutUint16(out[4:], uint16(len(reply)))
			_, err = h.Uplink.Write(out)
			hosttest.Must(t, err)
			return p[40:]
		}
	}
}

func TestEchoComesBackWithTheCallersIdentifier(t *testing.T) {
	if !hosttest.InNamespaces(t) {
		return
	}
	h, d := captured(t)
	for _, groups := range []string{"", "0 0"} { // raw sockets, as a new namespace permits nobody; then ping sockets
		if groups != "" {
			hosttest.SetSysctl(t, "net/ipv4/ping_group_range", groups)
		}
		for _, target := range []struct{ network, address string }{{"ping4", "198.51.100.1:0"}, {"ping6", "[2001:db8:5::1]:0"}} {
			name := target.network + " with ping_group_range " + groups
			c, err := d.DialContext(t.Context(), target.network, target.address)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			other, err := d.DialContext(t.Context(), target.network, target.address)
			hosttest.Must(t, err)

			for seq := range byte(3) {
				body := []byte{0xab, 0xcd + seq, 0, seq, 'h', 'e', 'l', 'l', 'o'}
				n, err := c.Write(body)
				if err != nil || n != len(body) {
					t.Fatalf("%s: write: got %d, %v", name, n, err)
				}
				answerEcho(t, h, false)
				got := make([]byte, 64)
				hosttest.Must(t, c.SetReadDeadline(time.Now().Add(5*time.Second)))
				n, err = c.Read(got)
				if err != nil || !slices.Equal(got[:n], body) {
					t.Errorf("%s: got %x, %v; want %x", name, got[:n], err, body)
				}
			}
			hosttest.Must(t, other.SetReadDeadline(time.Now().Add(20*time.Millisecond)))
			if n, err := other.Read(make([]byte, 64)); !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("%s: another connection got %d bytes, %v; want nothing", name, n, err)
			}

			_, err = c.Write([]byte{1, 2, 0, 9})
			hosttest.Must(t, err)
			answerEcho(t, h, true)
			hosttest.Must(t, c.SetReadDeadline(time.Now().Add(5*time.Second)))
			if _, err := c.Read(make([]byte, 64)); !errors.Is(err, unix.EHOSTUNREACH) {
				t.Errorf("%s: after an ICMP error: got %v, want EHOSTUNREACH", name, err)
			}
			hosttest.Must(t, other.SetReadDeadline(time.Now().Add(20*time.Millisecond)))
			if _, err := other.Read(make([]byte, 64)); !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("%s: another connection got %v, want nothing of the error", name, err)
			}
			if _, err := c.Write([]byte{1, 2}); err == nil {
				t.Errorf("%s: a body without a sequence number was sent", name)
			}
			hosttest.Must(t, other.Close())
			hosttest.Must(t, c.Close())
			if _, err := c.Read(make([]byte, 64)); !errors.Is(err, net.ErrClosed) {
				t.Errorf("%s: read after Close: got %v, want net.ErrClosed", name, err)
			}
		}
	}
	if _, err := d.DialContext(t.Context(), "ping4", "10.77.0.5:0"); !errors.Is(err, direct.ErrLoop) {
		t.Errorf("ping into the TUN: got %v, want ErrLoop", err)
	}
}
