package hostnet

import (
	"context"
	"errors"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

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
	d := net.Dialer{Control: func(_, _ string, c syscall.RawConn) error {
		return c.Control(func(fd uintptr) { _ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_DONTROUTE, 1) })
	}}
	for _, to := range [][2]string{
		{"udp", "192.168.1.77:9"}, {"tcp", "192.168.1.77:9"}, {"ip4:icmp", "192.168.1.77"}, {"ip4:gre", "192.168.1.77"}, {"ip4:132", "192.168.1.77"},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		c, err := d.DialContext(ctx, to[0], to[1])
		cancel()
		switch {
		case err == nil:
			if a := c.LocalAddr().String(); !strings.HasPrefix(a, "10.77.0.1") {
				t.Errorf("%s to %s leaves from %s, beside the TUN", to[0], to[1], a)
			}
			c.Close()
		case !errors.Is(err, unix.ENETUNREACH) && !errors.Is(err, unix.EHOSTUNREACH):
			t.Errorf("%s to %s: got %v, want that there is no route", to[0], to[1], err)
		}
	}
	hosttest.Must(t, host.Close())
}
