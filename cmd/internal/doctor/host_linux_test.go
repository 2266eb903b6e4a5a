package doctor

import (
	"net"
	"net/netip"
	"os"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"
)

func TestARouteOfSeveralWaysHasAnInterface(t *testing.T) {
	gateway := net.ParseIP("192.168.1.1")
	index, gw := wayOf(netlink.Route{MultiPath: []*netlink.NexthopInfo{{LinkIndex: 7, Gw: gateway}, {LinkIndex: 8}}})
	if index != 7 || !gw.Equal(gateway) {
		t.Errorf("got interface %d and gateway %v, want those of the first way", index, gw)
	}
}

func TestTheHolderOfAPortIsNamed(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	u, err := net.ListenPacket("udp", "[::1]:0")
	if err != nil {
		t.Skip("no IPv6 here:", err)
	}
	defer u.Close()
	at, by := l.Addr().(*net.TCPAddr).AddrPort(), u.LocalAddr().(*net.UDPAddr).AddrPort()
	got, err := sockets(t.Context(), []Port{{"", "tcp", at}, {"", "udp", by}, {"", "udp", netip.AddrPortFrom(at.Addr(), at.Port())}})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []Socket{{Network: "tcp", Address: at}, {Network: "udp", Address: by}} {
		i := slices.IndexFunc(got, func(s Socket) bool { return s.Network == want.Network && s.Address == want.Address })
		if i < 0 || got[i].PID != os.Getpid() || got[i].Program != "penstock" {
			t.Errorf("got %+v, want %v of process %d, which is penstock by another name", got, want, os.Getpid())
		}
	}
}

func TestParseSocketRefuses(t *testing.T) {
	for _, text := range []string{"", "0100007F", "0100007F:", "0100007F:FFFFF", "01:0050", "zz00007F:0050", "0100007F0100007F:0050"} {
		if got, ok := parseSocket(text); ok {
			t.Errorf("%q: got %v, want none", text, got)
		}
	}
}
