package e2e

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"penstock/e2e/netlab"
)

// roomForGarbage is how much larger a penstock may be after a storm than before it, in bytes: what pools and the
// collector keep, and no more than that.
const roomForGarbage = 64 << 20

// unharmed wants a penstock that lives and works, and whose memory has not grown beyond reason.
func (w *world) unharmed(t *testing.T, p *penstock, before int64) {
	t.Helper()
	select {
	case <-p.over:
		t.Fatalf("%s's penstock ended:\n%s", p.host.Name(), p.said.String())
	default:
	}
	if after := p.rss(t); after > before+roomForGarbage {
		t.Errorf("%s's penstock grew from %d to %d MiB", p.host.Name(), before>>20, after>>20)
	}
	w.works(t)
}

// dropped is the sum of all packets that a penstock has dropped with a reason, or seen broken.
func (w *world) dropped(t *testing.T, h *netlab.Host) float64 {
	t.Helper()
	sum := 0.0
	for _, reason := range []string{"address", "cap", "checksum", "loop", "malformed", "protocol", "queue"} {
		sum += w.metric(t, h, fmt.Sprintf("penstock_drops_total{reason=%q}", reason))
	}
	return sum
}

// internet: random datagrams ---> udp 51820 [penstock] gateway <=== WireGuard === [penstock] laptop
func TestGarbageAtTheGatewaysPort(t *testing.T) {
	t.Parallel()
	w := newWorld(t).up(t)
	before := w.gateway.rss(t)
	conn := dial(t, w.Internet, "udp", netlab.GatewayIPv4+":51820")
	random := rand.NewChaCha8([32]byte{7})
	buf := make([]byte, 1500)
	for i := range 20000 {
		b := buf[:rand.N(len(buf))]
		random.Read(b)
		if len(b) > 4 && i%2 == 0 { // half of them look like one of WireGuard's four kinds at first
			copy(b, []byte{byte(1 + i%4), 0, 0, 0})
		}
		_, _ = conn.Write(b) // a full queue loses some
	}
	w.unharmed(t, w.gateway, before)
	w.nothingInClear(t)
}

// tunnelSocket opens a socket that puts bytes into the laptop's TUN as they are, as if a program's packets were broken.
func tunnelSocket(t *testing.T, w *world) (fd int) {
	t.Helper()
	return packetSocket(t, w.Laptop, "pen0", unix.ETH_P_IP)
}

// packetSocket opens a socket that puts packets of a protocol into a host's device as they are.
func packetSocket(t *testing.T, h *netlab.Host, device string, protocol uint16) (fd int) {
	t.Helper()
	link, err := h.Netlink().LinkByName(device)
	if err != nil {
		t.Fatal(err)
	}
	err = h.Do(func() error {
		fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		return unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: protocol<<8 | protocol>>8, Ifindex: link.Attrs().Index}) // in network order
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}

// ipv4 is a packet from the laptop's TUN address to dst, with a good header and payload as it is.
func ipv4(protocol byte, dst string, payload []byte) []byte {
	b := make([]byte, 20, 20+len(payload))
	b[0], b[8], b[9] = 0x45, 64, protocol
	binary.BigEndian.PutUint16(b[2:], uint16(20+len(payload)))
	from, to := netip.MustParseAddr("10.77.0.1").As4(), netip.MustParseAddr(dst).As4()
	copy(b[12:], from[:])
	copy(b[16:], to[:])
	return withChecksum(append(b, payload...))
}

// withChecksum makes the checksum of an IPv4 header right (RFC 1071).
func withChecksum(b []byte) []byte {
	b[10], b[11] = 0, 0
	sum := uint32(0)
	for i := 0; i < 20; i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	sum = sum>>16 + sum&0xffff
	binary.BigEndian.PutUint16(b[10:], ^uint16(sum+sum>>16))
	return b
}

// fragment is the first of a datagram of which no other comes.
func fragment() []byte {
	b := ipv4(17, netlab.IntranetIPv4, make([]byte, 1200))
	binary.BigEndian.PutUint16(b[4:], uint16(rand.N(1<<16)))
	binary.BigEndian.PutUint16(b[6:], 0x2000)
	return withChecksum(b)
}

// laptop: a raw socket ---> pen0 [penstock] === WireGuard ===> [penstock] gateway --- intranet
func TestGarbageInTheTUN(t *testing.T) {
	t.Parallel()
	w := newWorld(t).up(t)
	fd := tunnelSocket(t, w)
	before := w.laptop.rss(t)
	random := rand.NewChaCha8([32]byte{8})
	bytes := func(n int) []byte {
		b := make([]byte, n)
		random.Read(b)
		return b
	}
	udp := []byte{0, 80, 0, 7, 0, 100, 0, 0} // says 100 bytes and has 8
	for _, row := range []struct {
		sentence string
		packet   func() []byte
		counted  bool
	}{
		{"random bytes", func() []byte { return bytes(1 + rand.N(1400)) }, true},
		{"random bytes that say they are IPv4", func() []byte { b := bytes(20 + rand.N(1300)); b[0] = 0x45; return b }, true},
		{"random bytes that say they are IPv6", func() []byte { b := bytes(40 + rand.N(1300)); b[0] = 0x60; return b }, true},
		{"a header alone", func() []byte { return ipv4(17, netlab.IntranetIPv4, nil) }, false},
		{"a datagram that is cut short", func() []byte { return ipv4(17, netlab.IntranetIPv4, udp) }, false},
		{"a segment that is cut short", func() []byte { return ipv4(6, netlab.IntranetIPv4, bytes(rand.N(20))) }, false},
		{"segments with random flags and no sense", func() []byte { return ipv4(6, netlab.IntranetIPv4, bytes(20+rand.N(40))) }, false},
		{"protocols that nobody speaks", func() []byte { return ipv4(byte(100+rand.N(100)), netlab.IntranetIPv4, bytes(40)) }, true},
		{"fragments without end", fragment, false},
		{"a packet to itself", func() []byte { return ipv4(17, "10.77.0.1", bytes(20)) }, true},
		{"a packet to a neighbour inside the TUN", func() []byte { return ipv4(17, "10.77.0.9", bytes(20)) }, false},
		{"a packet to everybody", func() []byte { return ipv4(17, "255.255.255.255", bytes(20)) }, false},
		{"a packet to a group", func() []byte { return ipv4(17, "224.0.0.251", bytes(20)) }, false},
	} {
		t.Run(row.sentence, func(t *testing.T) {
			droppedBefore := w.dropped(t, w.Laptop)
			for range 2000 {
				if _, err := unix.Write(fd, row.packet()); err != nil && err != unix.ENOBUFS && err != unix.EINVAL {
					t.Fatal(err)
				}
			}
			w.unharmed(t, w.laptop, before)
			if row.counted {
				eventually(t, "the packets are counted", func() error {
					if got := w.dropped(t, w.Laptop) - droppedBefore; got == 0 {
						return fmt.Errorf("penstock_drops_total grew by %v", got)
					}
					return nil
				})
			}
		})
	}
	w.nothingInClear(t)
}

// laptop: 1,000 clients [pen0 -> penstock] === WireGuard ===> [penstock] gateway --- intranet: echo, a closed port
func TestAThousandConnectionsAtOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t).up(t)
	const clients = 1000
	connect := func(port int) (conns []net.Conn, refused int) {
		var mu sync.Mutex // guards both results
		var wg sync.WaitGroup
		for range clients {
			wg.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
				defer cancel()
				conn, err := w.Laptop.DialContext(ctx, "tcp", fmt.Sprintf("%s:%d", netlab.IntranetIPv4, port))
				mu.Lock()
				defer mu.Unlock()
				switch {
				case err == nil:
					conns = append(conns, conn)
				case isRefused(err):
					refused++
				default:
					t.Errorf("dial: %v", err)
				}
			})
		}
		wg.Wait()
		return conns, refused
	}
	storm := func(t *testing.T) {
		if _, refused := connect(netlab.ClosedPort); refused != clients {
			t.Errorf("a closed port: got %d refused, want %d", refused, clients)
		}
		conns, _ := connect(netlab.EchoPort)
		if len(conns) != clients {
			t.Errorf("an open port: got %d connections, want %d", len(conns), clients)
		}
		for i, conn := range conns {
			within(t, conn)
			want := [2]byte{byte(i), byte(i >> 8)}
			if _, err := conn.Write(want[:]); err != nil {
				t.Fatal(err)
			}
			var got [2]byte
			if _, err := io.ReadFull(conn, got[:]); err != nil || got != want {
				t.Fatalf("connection %d: got %v, %v, want %v", i, got, err, want)
			}
		}
		for _, h := range []*netlab.Host{w.Laptop, w.Gateway} {
			if got := w.metric(t, h, "penstock_flows_active"); got < clients {
				t.Errorf("%s: got %v flows, want at least %d", h.Name(), got, clients)
			}
		}
		for _, conn := range conns {
			conn.Close()
		}
		for _, p := range []*penstock{w.laptop, w.gateway} {
			eventually(t, p.host.Name()+"'s flows end", func() error {
				for _, f := range p.flows(t) {
					if f.Proto == "tcp" {
						return fmt.Errorf("%+v is left", f)
					}
				}
				return nil
			})
		}
	}
	storm(t)
	// What one storm needed is kept for a while. Another needs no more.
	laptop, gateway := w.laptop.rss(t), w.gateway.rss(t)
	storm(t)
	w.unharmed(t, w.laptop, laptop)
	w.unharmed(t, w.gateway, gateway)
	w.nothingInClear(t)
}
