package hostnet

import (
	"net"
	"net/netip"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"penstock/router/hostnet/internal/hosttest"
)

// A socket with SO_DONTROUTE looks for neighbours alone, as the kernel does for a gateway. It meets no route of ours.
func TestRulesAloneHoldASocketThatAsksForNeighbours(t *testing.T) {
	if !hosttest.InNamespaces(t) {
		return
	}
	h := hosttest.New(t)
	s := everything()
	s.LAN = false
	host, err := Open(config(h))
	hosttest.Must(t, err)
	hosttest.Must(t, host.Apply(t.Context(), s))
	for _, e := range host.journal.entries {
		if c := e.change(); c.stage() == stageNft {
			hosttest.Must(t, c.undo(host.kernel))
		}
	}
	dst := netip.MustParseAddrPort("192.168.1.77:9")
	d := net.Dialer{Control: func(_, _ string, c syscall.RawConn) error {
		return c.Control(func(fd uintptr) { _ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_DONTROUTE, 1) })
	}}
	c, err := d.DialContext(t.Context(), "udp", dst.String())
	if err == nil {
		if a := c.LocalAddr().(*net.UDPAddr).AddrPort().Addr(); a != netip.MustParseAddr("10.77.0.1") {
			t.Errorf("a datagram to %s leaves from %s, beside the TUN", dst, a)
		}
		c.Close()
	}
	hosttest.Must(t, host.Close())
}
