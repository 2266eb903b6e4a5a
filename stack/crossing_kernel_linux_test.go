package stack

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"penstock/stack/link"
	"penstock/stack/packet"
)

// readError is what a read of a socket that gets nothing but its end gives.
func readError(c net.Conn) error {
	c.SetReadDeadline(time.Now().Add(5 * time.Second))
	for {
		if _, err := c.Read(make([]byte, 1000)); err != nil {
			return err
		}
	}
}

// TestAKernelTakesTheResetOfItsFlow aborts flows that the kernel began.
func TestAKernelTakesTheResetOfItsFlow(t *testing.T) {
	passed := make(chan *Passed, 10)
	far, server := newWire(t, Config{Name: "far", Addrs: farAddrs}, nil)
	inNamespace(t, Config{Handle: atOnce(func(_ context.Context, r *Request) {
		p, err := r.Pass(far, nil, nil)
		if err != nil {
			t.Error(err)
			return
		}
		passed <- p
	})}, func(t *testing.T, _ *Stack) {
		for _, dst := range destinations {
			dst := addr(dst)
			done := make(chan struct{})
			go func() {
				defer close(done)
				server.expect("SYN", isTo(dst, flagSYN))
				within(t, passed).Abort()
			}()
			if _, err := net.DialTCP("tcp", nil, net.TCPAddrFromAddrPort(dst)); !errors.Is(err, syscall.ECONNREFUSED) {
				t.Errorf("%v, before any answer: got %v, want %v", dst, err, syscall.ECONNREFUSED)
			}
			<-done
			for _, size := range []int{0, 1000} {
				var mapped netip.AddrPort
				var isn uint32
				done := make(chan struct{})
				go func() {
					defer close(done)
					p := server.expect("SYN", isTo(dst, flagSYN))
					mapped, isn = fromFar(p), binary.BigEndian.Uint32(p.Body[4:])
					server.send(segment(dst, mapped, 0x7fffff00, isn+1, flagSYN|flagACK, nil))
				}()
				c, err := net.DialTCP("tcp", nil, net.TCPAddrFromAddrPort(dst))
				if err != nil {
					t.Fatal(err)
				}
				<-done
				if size > 0 {
					server.send(segment(dst, mapped, 0x7fffff01, isn+1, flagACK|flagPSH, make([]byte, size)))
					if _, err := c.Read(make([]byte, size)); err != nil {
						t.Error(err)
					}
				}
				within(t, passed).Abort()
				if err := readError(c); !errors.Is(err, syscall.ECONNRESET) {
					t.Errorf("%v, after %d bytes: got %v, want %v", dst, size, err, syscall.ECONNRESET)
				}
				c.Close()
			}
		}
	})
}

// TestAKernelTakesTheResetOfItsClient aborts flows to a server of the kernel's.
func TestAKernelTakesTheResetOfItsClient(t *testing.T) {
	const synRecv = "03" // as /proc/net/tcp has it
	inNamespace(t, Config{}, func(t *testing.T, far *Stack) {
		l, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(10, 0, 0, 2), Port: 80})
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		inState := func(port, state string) bool {
			b, err := os.ReadFile("/proc/thread-self/net/tcp")
			if err != nil {
				t.Fatal(err)
			}
			return strings.Contains(string(b), ":"+port+" "+state+" ")
		}
		// A reset by who has not seen the SYN-ACK.
		const port, blind = "1770", "10.0.9.9:6000"
		say := func(seq uint32, flags byte) {
			if err := far.nic.Send(segment(addr(blind), addr("10.0.0.2:80"), seq, 0, flags, nil)); err != nil {
				t.Error(err)
			}
		}
		say(100, flagSYN)
		eventually(t, "the server to get the SYN", func() bool { return inState(port, synRecv) })
		say(101, flagRST)
		eventually(t, "the server to take the RST", func() bool { return !inState(port, synRecv) })

		passed := make(chan *Passed, 10)
		_, client := newWire(t, Config{Handle: atOnce(func(_ context.Context, r *Request) {
			p, err := r.Pass(far, nil, nil)
			if err != nil {
				t.Error(err)
				return
			}
			passed <- p
		})}, nil)
		src, dst := addr("10.0.1.2:5000"), addr("10.0.0.2:80")
		client.send(segment(src, dst, 100, 0, flagSYN, nil))
		client.expect("SYN-ACK", isTCP(dst, src, flagSYN|flagACK))
		if !inState("1388", synRecv) {
			t.Error("the server does not wait for the ACK of its SYN-ACK")
		}
		within(t, passed).Abort()
		eventually(t, "the server to forget the SYN", func() bool { return !inState("1388", synRecv) })

		client.send(segment(src, dst, 1<<20, 0, flagSYN, nil))
		p := client.expect("SYN-ACK", isTCP(dst, src, flagSYN|flagACK))
		client.send(segment(src, dst, 1<<20+1, binary.BigEndian.Uint32(p.Body[4:])+1, flagACK|flagPSH, []byte("hello")))
		c, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		client.expect("ACK", func(p packet.Packet) bool {
			return isTCP(dst, src, flagACK)(p) && binary.BigEndian.Uint32(p.Body[8:]) == 1<<20+6
		})
		within(t, passed).Abort()
		if err := readError(c); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("after data: got %v, want %v", err, syscall.ECONNRESET)
		}
	})
}

// heads opens a flow once it has read a number of bytes.
type heads struct {
	size int

	mu     sync.Mutex // guards below
	read   int
	passed *Passed
}

func (w *heads) feed(b []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.read += len(b)
}

func (w *heads) Heard() {
	w.mu.Lock()
	p, whole := w.passed, w.read >= w.size
	w.mu.Unlock()
	if p != nil && whole {
		p.Open()
	}
}

func (*heads) Opened()     {}
func (*heads) Moved() bool { return false }
func (*heads) Ended(error) {}

// TestALongHeadFromASmallWindow has kernels that may not send as much as is read before anything leaves.
func TestALongHeadFromASmallWindow(t *testing.T) {
	for _, row := range []struct{ segments, size int }{{10, 18000}, {2, 5000}} {
		far, err := New(Config{Name: "far", MTU: 1420, Addrs: []netip.Prefix{netip.MustParsePrefix("10.9.0.2/24")}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { far.Close() })
		got := make(chan int64, 1)
		remote, err := New(Config{Name: "remote", MTU: 1420, Handle: Waiting(func(_ context.Context, r *Request) {
			c, err := r.Accept()
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			n, _ := io.CopyN(io.Discard, c, int64(row.size))
			got <- n
		})})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { remote.Close() })
		if err := remote.Attach(link.FromDevice(&crossed{far.Device()})); err != nil {
			t.Fatal(err)
		}
		inNamespace(t, Config{Handle: atOnce(func(_ context.Context, r *Request) {
			w := &heads{size: row.size}
			p, err := r.Pass(far, w, w.feed)
			if err != nil {
				t.Error(err)
				return
			}
			w.mu.Lock()
			w.passed = p
			w.mu.Unlock()
			w.Heard()
		})}, func(t *testing.T, _ *Stack) {
			if out, err := exec.Command("ip", "route", "replace", "default", "dev", "pentest0", "initcwnd", fmt.Sprint(row.segments)).CombinedOutput(); err != nil {
				t.Fatalf("ip route: %v: %s", err, out)
			}
			c, err := net.DialTCP("tcp", nil, net.TCPAddrFromAddrPort(addr("192.0.2.7:443")))
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if _, err := c.Write(make([]byte, row.size)); err != nil {
				t.Fatal(err)
			}
			select {
			case n := <-got:
				if n != int64(row.size) {
					t.Errorf("a window of %d segments: %d bytes of %d came", row.segments, n, row.size)
				}
			case <-time.After(20 * time.Second):
				t.Errorf("a window of %d segments: not all of %d bytes came", row.segments, row.size)
			}
		})
	}
}
