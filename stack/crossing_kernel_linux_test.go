package stack

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

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
