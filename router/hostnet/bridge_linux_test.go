package hostnet

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"penstock/router/hostnet/internal/hosttest"
	"penstock/router/hostnet/internal/rtnl"
)

// bridged is a bridge of the host with two ports:
//
//	guest (10.1.1.2) --- [br0 10.1.1.1] --- network (10.1.1.3, which leads to 10.7.7.0/24)
type bridged struct {
	guest, network *os.File
	br0            net.HardwareAddr
}

func newBridged(t *testing.T) *bridged {
	t.Helper()
	const nfCall = "net/bridge/bridge-nf-call-iptables"
	if hosttest.Sysctl(nfCall) == "" {
		t.Skip("this kernel has no br_netfilter: modprobe br_netfilter")
	}
	hosttest.SetSysctl(t, nfCall, "1")
	hosttest.SetSysctl(t, "net/bridge/bridge-nf-call-ip6tables", "1")
	br := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br0", HardwareAddr: net.HardwareAddr{2, 0, 0, 0, 0, 1}}}
	hosttest.Must(t, netlink.LinkAdd(br))
	t.Cleanup(func() { _ = netlink.LinkDel(br) })
	hosttest.Must(t, netlink.LinkSetUp(br))
	port := func(name string) *os.File {
		tap := &netlink.Tuntap{LinkAttrs: netlink.LinkAttrs{Name: name}, Mode: netlink.TUNTAP_MODE_TAP, Flags: netlink.TUNTAP_NO_PI, NonPersist: true, Queues: 1}
		hosttest.Must(t, netlink.LinkAdd(tap))
		t.Cleanup(func() { tap.Fds[0].Close() })
		hosttest.Must(t, netlink.LinkSetMaster(tap, br))
		hosttest.Must(t, netlink.LinkSetUp(tap))
		return tap.Fds[0]
	}
	b := &bridged{guest: port("guest"), network: port("network"), br0: br.HardwareAddr}
	addr, err := netlink.ParseAddr("10.1.1.1/24")
	hosttest.Must(t, err)
	hosttest.Must(t, netlink.AddrAdd(br, addr))
	addr6, err := netlink.ParseAddr("2001:db8:9::1/64")
	hosttest.Must(t, err)
	addr6.Flags = unix.IFA_F_NODAD
	hosttest.Must(t, netlink.AddrAdd(br, addr6))
	gateway := net.IPv4(10, 1, 1, 3)
	hosttest.Must(t, netlink.RouteAdd(&netlink.Route{LinkIndex: br.Attrs().Index, Gw: gateway, Dst: rtnl.IPNet(netip.MustParsePrefix("10.7.7.0/24"))}))
	hosttest.Must(t, netlink.NeighSet(&netlink.Neigh{LinkIndex: br.Attrs().Index, IP: gateway, HardwareAddr: b.mac(3), State: netlink.NUD_PERMANENT}))
	return b
}

func (b *bridged) mac(last byte) net.HardwareAddr { return net.HardwareAddr{2, 0, 0, 0, 0, last} }

// passes sends a datagram of the guest's in a frame, and reports whether it comes out of the other port.
func (b *bridged) passes(t *testing.T, to net.HardwareAddr, src, dst string) bool {
	t.Helper()
	port := netip.AddrPortFrom(netip.MustParseAddr(dst), 99)
	frame := append(append(append([]byte{}, to...), b.mac(2)...), 0x08, 0)
	udp := []byte{0, 98, 0, 99, 0, 8, 0, 0}
	from := netip.MustParseAddr(src)
	if from.Is4() {
		ip := []byte{0x45, 0, 0, 28, 0, 0, 0, 0, 64, unix.IPPROTO_UDP, 0, 0}
		ip = append(append(ip, from.AsSlice()...), port.Addr().AsSlice()...)
		binary.BigEndian.PutUint16(ip[10:], hosttest.Checksum(ip))
		frame = append(frame, ip...)
	} else {
		binary.BigEndian.PutUint16(frame[12:], unix.ETH_P_IPV6)
		frame = append(frame, 0x60, 0, 0, 0, 0, 8, unix.IPPROTO_UDP, 64)
		frame = append(append(frame, from.AsSlice()...), port.Addr().AsSlice()...)
		sum := append(append(from.AsSlice(), port.Addr().AsSlice()...), 0, 0, 0, 8, 0, 0, 0, unix.IPPROTO_UDP)
		binary.BigEndian.PutUint16(udp[6:], hosttest.Checksum(append(sum, udp...)))
	}
	_, err := b.guest.Write(append(frame, udp...))
	hosttest.Must(t, err)
	return b.arrives(t, port)
}

// arrives reports whether a datagram comes out of the port of the network.
func (b *bridged) arrives(t *testing.T, dst netip.AddrPort) bool {
	t.Helper()
	return b.sees(t, func(packet []byte) bool { to, ok := hosttest.DestinationOf(packet); return ok && to == dst })
}

// discovers reports whether the host asks for a neighbour in the network.
func (b *bridged) discovers(t *testing.T, neighbour string) bool {
	t.Helper()
	_ = hosttest.Send(t, netip.MustParseAddrPort(neighbour), "br0", "")
	return b.sees(t, func(p []byte) bool { return len(p) > 40 && p[0]>>4 == 6 && p[6] == unix.IPPROTO_ICMPV6 && p[40] == 135 })
}

// sees reports whether such a packet comes out of the port of the network.
func (b *bridged) sees(t *testing.T, is func(packet []byte) bool) bool {
	t.Helper()
	buf := make([]byte, 65536)
	for {
		hosttest.Must(t, b.network.SetReadDeadline(time.Now().Add(50*time.Millisecond)))
		n, err := b.network.Read(buf)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return false
		}
		hosttest.Must(t, err)
		if is(buf[14:n]) {
			return true
		}
	}
}

// A virtual machine has an address of its own in the network outside, and Docker has loaded br_netfilter.
func TestWhatABridgePassesIsLeftAlone(t *testing.T) {
	if !hosttest.InNamespaces(t) {
		return
	}
	lockdown := everything()
	lockdown.Lockdown, lockdown.LAN, lockdown.Exclude = true, false, nil
	for _, row := range []struct {
		sentence string
		settings Settings
		apply    func(*Host, Settings) error
		router   string // ip_forward
	}{
		{"a laptop", everything(), nil, "1"},
		{"lockdown", lockdown, nil, "1"},
		{"lockdown before there is a TUN", lockdown, func(h *Host, s Settings) error { return h.Block(t.Context(), s) }, "1"},
		{"lockdown after the end", lockdown, func(h *Host, s Settings) error { return errors.Join(h.Apply(t.Context(), s), h.Close()) }, "1"},
		{"a host that forwards", routed(), nil, "0"},
		{"a bridge that has come since", lockdown, func(h *Host, s Settings) error {
			link, err := netlink.LinkByName("br0")
			return errors.Join(err, netlink.LinkSetName(link, "br1"), h.Apply(t.Context(), s), netlink.LinkSetName(link, "br0"), h.repair(t.Context()))
		}, "1"},
	} {
		h := hosttest.New(t)
		b := newBridged(t)
		hosttest.SetSysctl(t, all4, row.router)
		host, err := Open(config(h))
		hosttest.Must(t, err)
		if row.apply == nil {
			row.apply = func(h *Host, s Settings) error { return h.Apply(t.Context(), s) }
		}
		hosttest.Must(t, row.apply(host, row.settings))
		for _, dst := range []string{"10.1.1.3", "203.0.113.9", "10.7.7.7"} {
			if !b.passes(t, b.mac(3), "10.1.1.2", dst) {
				t.Errorf("%s: a guest's frame to %s does not pass the bridge", row.sentence, dst)
			}
		}
		if !b.passes(t, b.mac(3), "2001:db8:9::2", "2001:db8:9::3") {
			t.Errorf("%s: a guest's frame of IPv6 does not pass the bridge", row.sentence)
		}
		if b.passes(t, b.br0, "10.1.1.2", "10.7.7.7") {
			t.Errorf("%s: the host routes a guest's packet", row.sentence)
		}
		for _, device := range []string{"", "br0"} {
			dst := netip.MustParseAddrPort("10.7.7.7:99")
			_ = hosttest.Send(t, dst, device, "") // it may be refused at once
			if got := b.arrives(t, dst); got != row.settings.Forward {
				t.Errorf("%s: a datagram of the host's own, bound to %q, leaves by the bridge: got %t, want %t", row.sentence, device, got, row.settings.Forward)
			}
		}
		if !b.discovers(t, "[2001:db8:9::77]:99") && row.settings.Forward {
			t.Errorf("%s: the host does not ask for a neighbour", row.sentence)
		}
		hosttest.Must(t, host.Close())
		_, err = Lift(h.StateFile(), nil)
		hosttest.Must(t, err)
		if row.router == "1" && !b.passes(t, b.br0, "10.1.1.2", "10.7.7.7") {
			t.Errorf("%s: positive control: without penstock the host must route a guest's packet", row.sentence)
		}
		link, err := netlink.LinkByName("br0")
		hosttest.Must(t, err)
		hosttest.Must(t, netlink.LinkDel(link))
		hosttest.Must(t, b.guest.Close())
		hosttest.Must(t, b.network.Close())
		hosttest.SetSysctl(t, all4, "0")
		h.Close(t)
	}
}
