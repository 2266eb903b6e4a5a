package e2e

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"penstock/e2e/netlab"
)

// seenFrom answers on a host's UDP address and reports who sent each datagram, and how long it was.
func seenFrom(t *testing.T, h *netlab.Host, address string) <-chan string {
	t.Helper()
	server, err := h.ListenPacket(t.Context(), "udp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	seen := make(chan string, 100)
	go func() {
		buf := make([]byte, 65535)
		for {
			n, from, err := server.ReadFrom(buf)
			if err != nil {
				return
			}
			seen <- fmt.Sprintf("%d bytes from %s", n, from)
			server.WriteTo(buf[:n], from)
		}
	}()
	return seen
}

func arrives(t *testing.T, seen <-chan string) (size, from string) {
	t.Helper()
	select {
	case s := <-seen:
		size, from, _ = strings.Cut(s, " from ")
		return size, from
	case <-time.After(patience):
		t.Fatal("no datagram arrives")
		return "", ""
	}
}

// laptop [pen0 -> penstock] --- access --- internet; or === WireGuard ===> [penstock] gateway --- intranet
func TestADatagramSocketKeepsItsPort(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "  - {name: rest, do: {via: corp}}", "  - {name: public, match: {cidr: 203.0.113.0/24}, do: direct}\n  - {name: rest, do: {via: corp}}").up(t)
	for _, row := range []struct {
		name, address string
		host          *netlab.Host
		narrow        *netlab.Host // where the way has an MTU of 1300 after a while
		link          string
	}{
		{"direct", publicIPv4, w.Internet, w.Access, "wan"},
		{"through the tunnel", netlab.IntranetIPv4, w.Intranet, w.Gateway, "intra"},
	} {
		t.Run(row.name, func(t *testing.T) {
			one, two := seenFrom(t, row.host, row.address+":7001"), seenFrom(t, row.host, row.address+":7002")
			conn, err := w.Laptop.ListenPacket(t.Context(), "udp4", ":0")
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			send := func(port int) {
				t.Helper()
				if _, err := conn.WriteTo([]byte("x"), &net.UDPAddr{IP: net.ParseIP(row.address), Port: port}); err != nil {
					t.Fatal(err)
				}
			}
			send(7001)
			_, first := arrives(t, one)
			send(7009) // nobody listens
			send(7002)
			if _, got := arrives(t, two); got != first {
				t.Errorf("a second server sees %s, want %s as the first", got, first)
			}
			send(7001)
			if _, got := arrives(t, one); got != first {
				t.Errorf("after an ICMP error the first server sees %s, want %s", got, first)
			}
		})
		t.Run(row.name+", a narrow link", func(t *testing.T) {
			if r := run(t, row.narrow, "ip", "link", "set", row.link, "mtu", "1300"); r.code != 0 {
				t.Fatal(r)
			}
			seen := seenFrom(t, row.host, row.address+":7003")
			conn := dial(t, w.Laptop, "udp4", row.address+":7003")
			raw, err := conn.(syscall.Conn).SyscallConn()
			if err != nil {
				t.Fatal(err)
			}
			mtu := 0
			raw.Control(func(fd uintptr) {
				err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DO)
			})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := conn.Write(make([]byte, 100)); err != nil {
				t.Fatal(err)
			}
			_, first := arrives(t, seen)
			eventually(t, "1,400 bytes with DF are too big", func() error {
				_, err := conn.Write(make([]byte, 1380))
				if !errors.Is(err, syscall.EMSGSIZE) {
					return fmt.Errorf("got %v", err)
				}
				raw.Control(func(fd uintptr) { mtu, err = unix.GetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_MTU) })
				return nil
			})
			if mtu != 1300 {
				t.Errorf("the laptop's kernel learnt an MTU of %d, want 1300", mtu)
			}
			eventually(t, "small datagrams pass", func() error { // an error that is left from before comes in place of sending
				_, err := conn.Write(make([]byte, 1200))
				return err
			})
			for {
				size, from := arrives(t, seen)
				if from != first {
					t.Fatalf("the server sees %s, want %s", from, first)
				}
				if size == "1200 bytes" {
					break
				}
			}
		})
	}
}
