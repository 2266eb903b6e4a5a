package hostnet

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"os"
	"testing"
	"time"

	"penstock/router/hostnet/internal/hosttest"
)

// datagram is a UDP packet of either family.
func datagram(src, dst netip.AddrPort) []byte {
	text := []byte("a late answer")
	udp := binary.BigEndian.AppendUint16(nil, src.Port())
	udp = binary.BigEndian.AppendUint16(udp, dst.Port())
	udp = binary.BigEndian.AppendUint16(udp, uint16(8+len(text)))
	udp = append(binary.BigEndian.AppendUint16(udp, 0), text...)
	if src.Addr().Is4() { // a checksum of 0 is none
		ip := append([]byte{0x45, 0, 0, byte(20 + len(udp)), 0, 0, 0, 0, 64, 17, 0, 0}, src.Addr().AsSlice()...)
		ip = append(ip, dst.Addr().AsSlice()...)
		binary.BigEndian.PutUint16(ip[10:], hosttest.Checksum(ip))
		return append(ip, udp...)
	}
	addrs := append(src.Addr().AsSlice(), dst.Addr().AsSlice()...)
	pseudo := append(append([]byte{}, addrs...), 0, 0, 0, byte(len(udp)), 0, 0, 0, 17)
	binary.BigEndian.PutUint16(udp[6:], hosttest.Checksum(append(pseudo, udp...)))
	return append(append([]byte{0x60, 0, 0, 0, 0, byte(len(udp)), 17, 64}, addrs...), udp...)
}

// sentFrom reports whether a packet with the source address is read from f.
func sentFrom(t *testing.T, f *os.File, src netip.Addr) bool {
	t.Helper()
	buf := make([]byte, 65536)
	for {
		hosttest.Must(t, f.SetReadDeadline(time.Now().Add(50*time.Millisecond)))
		n, err := f.Read(buf)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return false
		}
		hosttest.Must(t, err)
		if p := buf[:n]; n >= 40 && p[0]>>4 == 6 && netip.AddrFrom16([16]byte(p[8:24])) == src ||
			n >= 20 && p[0]>>4 == 4 && netip.AddrFrom4([4]byte(p[12:16])) == src {
			return true
		}
	}
}

// A resolver of the LAN answers through the TUN, but whoever asked has gone. The kernel's "port unreachable" quotes the
// answer, and must not go to the LAN.
func TestWhatHasTheTUNsAddressStaysInTheTUN(t *testing.T) {
	if !hosttest.InNamespaces(t) {
		return
	}
	lockdown, manual := everything(), everything()
	lockdown.Lockdown = true
	manual.Capture = nil
	for name, s := range map[string]Settings{"LAN": everything(), "lockdown": lockdown, "without capture": manual} {
		h := hosttest.New(t)
		hosttest.SetSysctl(t, "net/ipv4/icmp_ratelimit", "0")
		hosttest.SetSysctl(t, "net/ipv6/icmp/ratelimit", "0")
		host, err := Open(config(h))
		hosttest.Must(t, err)
		s.LAN = true
		hosttest.Must(t, host.Apply(t.Context(), s))
		for _, row := range []struct{ resolver, own string }{{"192.168.1.1:53", "10.77.0.1:40000"}, {"[2001:db8:1::1]:53", "[fd77::1]:40000"}} {
			resolver, own := netip.MustParseAddrPort(row.resolver), netip.MustParseAddrPort(row.own)
			hosttest.Drain(t, h.TUN, h.Uplink)
			_, err := h.TUN.Write(datagram(resolver, own))
			hosttest.Must(t, err)
			_ = hosttest.Send(t, resolver, "up0", own.Addr().String())
			_ = hosttest.Send(t, netip.AddrPortFrom(resolver.Addr(), 9), "up0", own.Addr().String())
			if sentFrom(t, h.Uplink, own.Addr()) {
				t.Errorf("%s: a packet from %s left by the uplink", name, own.Addr())
			}
			if len(s.Capture) == 0 {
				continue
			}
			_, err = h.TUN.Write(datagram(resolver, own))
			hosttest.Must(t, err)
			if !sentFrom(t, h.TUN, own.Addr()) {
				t.Errorf("%s: the kernel's answer from %s did not come out of the TUN", name, own.Addr())
			}
		}
		hosttest.Must(t, host.Close())
		if _, err := Lift(h.StateFile(), nil); err != nil {
			t.Error(err)
		}
		h.Close(t)
	}
}
