package sockets

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/conn"
)

// opened opens sockets, and returns what they receive, each time a channel of copies, until the test ends.
func opened(t testing.TB, b conn.Bind) (port uint16, received <-chan datagram) {
	t.Helper()
	receivers, port, err := b.Open(0)
	if err != nil {
		t.Fatal(err)
	}
	all := make(chan datagram, 1<<12)
	var wg sync.WaitGroup
	for _, receive := range receivers {
		wg.Go(func() {
			packets, sizes, from := make([][]byte, 16), make([]int, 16), make([]conn.Endpoint, 16)
			for i := range packets {
				packets[i] = make([]byte, mostBytes)
			}
			for {
				n, err := receive(packets, sizes, from)
				if errors.Is(err, net.ErrClosed) {
					return
				}
				if err != nil {
					t.Error(err)
					return
				}
				for i := range n {
					all <- datagram{bytes.Clone(packets[i][:sizes[i]]), from[i]}
				}
			}
		})
	}
	t.Cleanup(func() { b.Close(); wg.Wait() })
	return port, all
}

type datagram struct {
	b    []byte
	from conn.Endpoint
}

func parsed(t testing.TB, b conn.Bind, host string, port uint16) conn.Endpoint {
	t.Helper()
	e, err := b.ParseEndpoint(net.JoinHostPort(host, fmt.Sprint(port)))
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// TestPacketsOfAllSizes sends batches of packets, with and without the kernel's help. All arrive as they were sent.
func TestPacketsOfAllSizes(t *testing.T) {
	for _, host := range []string{"127.0.0.1", "::1"} {
		for _, cuts := range []bool{true, false} {
			t.Run(fmt.Sprint(host, " ", cuts), func(t *testing.T) {
				server, client := ForServer(nil), ForClient().(*udp)
				port, received := opened(t, server)
				opened(t, client)
				to := parsed(t, client, host, port)
				s := client.four
				if to.DstIP().Is6() {
					s = client.six
				}
				if s == nil {
					t.Skip("no IPv6 here")
				}
				if !cuts {
					s.cuts.Store(false)
				}
				r := rand.New(rand.NewPCG(1, 2))
				for range 50 {
					var sent [][]byte
					size := 1 + r.IntN(1500)
					for range 1 + r.IntN(conn.IdealBatchSize) {
						if r.IntN(20) == 0 {
							size = 1 + r.IntN(1500)
						}
						p := make([]byte, size)
						for i := range p {
							p[i] = byte(r.Uint32())
						}
						sent = append(sent, p)
					}
					if err := client.Send(sent, to); err != nil {
						t.Fatal(err)
					}
					for i, want := range sent {
						if got := (<-received).b; !bytes.Equal(got, want) {
							t.Fatalf("packet %d of %d: got %d bytes, want %d", i, len(sent), len(got), len(want))
						}
					}
				}
			})
		}
	}
}

// TestFamiliesAtOnce sends to IPv4 and IPv6 from several goroutines. Each packet arrives where it was sent to.
func TestFamiliesAtOnce(t *testing.T) {
	server, four, six := ForServer(nil), ForServer(nil), ForServer(nil)
	opened(t, server)
	port4, received4 := opened(t, four)
	port6, received6 := opened(t, six)
	if server.(*udp).six == nil {
		t.Skip("no IPv6 here")
	}
	const senders, packets = 4, 50
	var wg sync.WaitGroup
	for range senders {
		for _, to := range []conn.Endpoint{parsed(t, server, "127.0.0.1", port4), parsed(t, server, "::1", port6)} {
			wg.Go(func() {
				for range packets {
					if err := server.Send([][]byte{[]byte(to.DstIP().String())}, to); err != nil {
						t.Error(err)
					}
				}
			})
		}
	}
	wg.Wait()
	for host, received := range map[string]<-chan datagram{"127.0.0.1": received4, "::1": received6} {
		for range senders * packets {
			if got := string((<-received).b); got != host {
				t.Fatalf("to %s: got %s", host, got)
			}
		}
	}
}

// TestAnswersFromTheAddressThatWasCalled calls a server at several addresses of this machine, with packets that the kernel merges too.
func TestAnswersFromTheAddressThatWasCalled(t *testing.T) {
	server, client := ForServer(nil), ForClient()
	port, received := opened(t, server)
	_, answers := opened(t, client)
	for _, host := range []string{"127.0.0.1", "127.0.0.2", "127.0.0.3"} {
		for _, n := range []int{1, 20} {
			packets := make([][]byte, n)
			for i := range packets {
				packets[i] = []byte(host)
			}
			if err := client.Send(packets, parsed(t, client, host, port)); err != nil {
				t.Fatal(err)
			}
			for range n {
				d := <-received
				if got := d.from.SrcToString(); got != host {
					t.Errorf("%d packets to %s: received at %s", n, host, got)
				}
				if err := server.Send([][]byte{d.b}, d.from); err != nil {
					t.Fatal(err)
				}
				if got := (<-answers).from.DstIP().String(); got != host {
					t.Errorf("called at %s, it answers from %s", host, got)
				}
			}
		}
	}
}

// TestAnAddressThatIsGone answers from an address that this machine has no longer: from another one.
func TestAnAddressThatIsGone(t *testing.T) {
	server, peer := ForServer(nil), ForClient()
	opened(t, server)
	port, received := opened(t, peer)
	for _, row := range []struct{ to, gone string }{{"127.0.0.1", "192.0.2.77"}, {"::1", "2001:db8::77"}} {
		to := parsed(t, server, row.to, port).(*endpoint)
		gone := netip.MustParseAddr(row.gone)
		to.src.Store(&gone)
		if server.(*udp).six == nil && gone.Is6() {
			continue
		}
		if err := server.Send([][]byte{[]byte("a"), []byte("b")}, to); err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{"a", "b"} {
			if got := string((<-received).b); got != want {
				t.Errorf("got %q, want %q", got, want)
			}
		}
		if to.SrcIP().IsValid() {
			t.Error("the address is still used")
		}
	}
}

// TestPacketsThatAreTooLargeForThePath sends what the kernel would have to cut and to fragment: it does not do both.
func TestPacketsThatAreTooLargeForThePath(t *testing.T) {
	server, client := ForServer(nil), ForClient().(*udp)
	port, received := opened(t, server)
	opened(t, client)
	sent := make([][]byte, 3)
	for i := range sent {
		sent[i] = bytes.Repeat([]byte{byte(i)}, 1400)
	}
	small := func(fd int) error { return unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MTU, 1280) }
	if client.six == nil {
		t.Skip("no IPv6 here")
	}
	if err := control(client.six.conn, small); err != nil {
		t.Fatal(err)
	}
	if err := client.Send(sent, parsed(t, client, "::1", port)); err != nil {
		t.Fatal(err)
	}
	for i, want := range sent {
		if got := (<-received).b; !bytes.Equal(got, want) {
			t.Errorf("packet %d: got %d bytes, want %d", i, len(got), len(want))
		}
	}
	if !client.six.cuts.Load() {
		t.Error("the kernel is not asked to cut any more")
	}
}

// TestNeighboursInTurn: the kernel is not asked for the name of an interface each time that another neighbour sends.
func TestNeighboursInTurn(t *testing.T) {
	r, asked := newReceiver(&socket{}, false), 0
	r.zones.ask = func(scope uint32) string { asked++; return zoneOf(scope) }
	var from [2]netip.AddrPort
	for i := range from {
		from[i] = netip.AddrPortFrom(netip.MustParseAddr("fe80::1%lo"), uint16(1000+i))
	}
	for i := range 100 {
		want := from[i%2]
		name, size := sockaddrOf(want)
		r.names[0], r.messages[0].Namelen, r.messages[0].N = name, size, 1
		r.next, r.read = 0, 1
		heard := make([]conn.Endpoint, 1)
		if n, err := r.receive([][]byte{make([]byte, 1)}, make([]int, 1), heard); n != 1 || err != nil {
			t.Fatal(n, err)
		}
		if e := heard[0].(*endpoint); e.addr != want || e.name != name || e.size != size {
			t.Fatalf("got %v, %v of %d bytes; want %v, %v of %d", e.addr, e.name, e.size, want, name, size)
		}
	}
	if asked != 1 {
		t.Errorf("the kernel was asked %d times for the name of one interface", asked)
	}
}

func TestOpensAtOnePort(t *testing.T) {
	a, b := ForServer(nil), ForServer(nil)
	port, _ := opened(t, a)
	if _, _, err := a.Open(0); !errors.Is(err, conn.ErrBindAlreadyOpen) {
		t.Errorf("opened twice: got %v", err)
	}
	if _, _, err := b.Open(port); !errors.Is(err, unix.EADDRINUSE) {
		t.Errorf("a port that is taken: got %v, want %v", err, unix.EADDRINUSE)
	}
	six, err := net.ListenUDP("udp6", nil)
	if err != nil {
		t.Skip("no IPv6 here")
	}
	defer six.Close()
	if _, _, err := b.Open(uint16(six.LocalAddr().(*net.UDPAddr).Port)); !errors.Is(err, unix.EADDRINUSE) {
		t.Errorf("a port that is taken for IPv6: got %v, want %v", err, unix.EADDRINUSE)
	}
	if b.(*udp).four != nil {
		t.Error("a socket is left open")
	}
}
