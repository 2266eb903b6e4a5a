package e2e

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"penstock/e2e/netlab"
)

// echoes opens a flow to the intranet's echo server and wants a byte back, all of it soon.
func echoes(t *testing.T, h *netlab.Host, network string) (net.Conn, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	conn, err := h.DialContext(ctx, network, netlab.IntranetIPv4+":7")
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { conn.Close() })
	return conn, echoed(conn)
}

// echoed sends a byte to an echo server and wants it back soon.
func echoed(conn net.Conn) error {
	if err := conn.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return err
	}
	if _, err := conn.Write([]byte{'x'}); err != nil {
		return err
	}
	_, err := io.ReadFull(conn, make([]byte, 1))
	return err
}

// laptop: wireguard-go, SYNs made by hand ===> [penstock: room for 300 dials and 100 UDP flows] gateway --- intranet: echo
// access: wireguard-go, an honest peer ====>
func TestAFloodOfOnePeerStopsNoOther(t *testing.T) {
	t.Parallel()
	const room = 100
	w := newWorld(t)
	key, public := keyPair(t)
	w.write(t, "honest.conf", strings.NewReplacer(w.fill.Replace("LAPTOP_KEY"), key, "10.99.0.2/32, fd99::2/128", "10.99.0.3/32").Replace(w.read(t, "corp.conf")))
	w.edit(t, "gateway.yaml", "peers:\n", "peers:\n  - {name: honest, public_key: "+public+", allowed_ips: [10.99.0.3/32]}\n")
	w.edit(t, "gateway.yaml", `"fd99::2/128"`, `"fd99::2/128", 10.98.0.0/24`)
	w.edit(t, "gateway.yaml", rulesOf(t, w, "gateway.yaml"), "rules:\n  - {name: rest, do: direct}\n")
	w.edit(t, "gateway.yaml", "metrics:", fmt.Sprintf("limits: {dials: 300, udp_flows: %d}\nmetrics:", room))
	w.gateway = start(t, w.Gateway, w.path("gateway.yaml"))
	stock(t, w.Laptop, w.path("corp.conf"), "10.20.0.0/24")
	stock(t, w.Access, w.path("honest.conf"), "10.20.0.0/24")

	t.Run("handshakes that nobody ends", func(t *testing.T) {
		fd := packetSocket(t, w.Laptop, "wg0", unix.ETH_P_IP)
		eventually(t, "enough handshakes hang to prove anything", func() error { // the device's queue loses some, on a busy machine most
			for i := range 3000 {
				// The laptop's kernel does not have the address, so it resets nothing.
				c := &rawTCP{src: netip.AddrPortFrom(netip.MustParseAddr("10.98.0.7"), uint16(1024+i)), dst: netip.MustParseAddrPort(netlab.IntranetIPv4 + ":7")}
				b := ipv4(unix.IPPROTO_TCP, c.dst.Addr().String(), c.segment(2, nil)) // SYN
				copy(b[12:], c.src.Addr().AsSlice())
				if _, err := unix.Write(fd, withChecksum(b)); err != nil && err != unix.ENOBUFS {
					return err
				}
				if i%100 == 0 {
					time.Sleep(2 * time.Millisecond)
				}
			}
			if n := len(w.gateway.flows(t, "--peer", "laptop")); n < 200 {
				return fmt.Errorf("%d hang", n)
			}
			return nil
		})
		for i := range 20 {
			if _, err := echoes(t, w.Access, "tcp"); err != nil {
				t.Fatalf("the honest peer's connection %d: %v", i, err)
			}
		}
	})
	t.Run("a full table loses the flow that was silent longest, not the one that began first", func(t *testing.T) {
		open := func() net.Conn {
			t.Helper()
			conn, err := echoes(t, w.Access, "udp")
			if err != nil {
				t.Fatal(err)
			}
			return conn
		}
		talker, silent := open(), open()
		for range room - 2 {
			open()
			if err := echoed(talker); err != nil {
				t.Fatal(err)
			}
		}
		newest := open()
		held := map[string]bool{}
		for _, f := range w.gateway.flows(t, "--peer", "honest") {
			if f.Proto == "udp" {
				held[f.Src] = true
			}
		}
		for _, row := range []struct {
			who  string
			conn net.Conn
			want bool
		}{{"the one that talks", talker, true}, {"the one that was silent longest", silent, false}, {"the newest", newest, true}} {
			if got := held[row.conn.LocalAddr().String()]; got != row.want {
				t.Errorf("%s is held: got %v, want %v", row.who, got, row.want)
			}
		}
	})
}
