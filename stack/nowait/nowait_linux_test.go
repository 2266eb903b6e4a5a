package nowait

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// pair returns two ends of a TCP connection.
func pair(t testing.TB) (near, far *net.TCPConn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	c, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	f, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(); f.Close() })
	return c.(*net.TCPConn), f.(*net.TCPConn)
}

// Buffers of all sizes, more of them than one call takes and more bytes than the socket holds, arrive in order.
func TestAStreamArrivesAsItWasWritten(t *testing.T) {
	near, far := pair(t)
	w, r := NewWriter(near), NewReader(far)
	random := rand.New(rand.NewPCG(1, 2))
	for round := range 6 {
		var buffers net.Buffers
		var want []byte
		for i := range 1 + round*MaxParts/2 {
			b := make([]byte, random.IntN(4000))
			for j := range b {
				b[j] = byte(i + j)
			}
			buffers, want = append(buffers, b), append(want, b...)
		}
		wrote := make(chan error, 1)
		go func() {
			n, err := w.WriteBuffers(&buffers)
			if err == nil && (n != int64(len(want)) || len(buffers) != 0) {
				err = errors.New("not all was written")
			}
			wrote <- err
		}()
		got := make([]byte, len(want))
		if _, err := io.ReadFull(r, got); err != nil || !bytes.Equal(got, want) {
			t.Fatalf("round %d: %v, or other bytes than were written", round, err)
		}
		if err := <-wrote; err != nil {
			t.Fatal(err)
		}
	}
	near.CloseWrite()
	if n, err := r.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Errorf("at the end: got %d, %v", n, err)
	}
}

// What stops a net.TCPConn stops its Reader and its Writer.
func TestDeadlinesAndTheEndAreMinded(t *testing.T) {
	near, _ := pair(t)
	past := time.Now().Add(-time.Second)
	full := func() error {
		for {
			b := net.Buffers{make([]byte, 1<<20)}
			if _, err := NewWriter(near).WriteBuffers(&b); err != nil {
				return err
			}
		}
	}
	near.SetDeadline(past)
	if _, err := NewReader(near).Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("read: got %v, want the deadline", err)
	}
	if err := full(); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("write: got %v, want the deadline", err)
	}
	near.SetDeadline(time.Time{})
	ended := make(chan error, 2)
	go func() { ended <- full() }()
	go func() {
		_, err := NewReader(near).Read(make([]byte, 1))
		ended <- err
	}()
	time.AfterFunc(20*time.Millisecond, func() { near.Close() })
	for range 2 {
		if err := <-ended; !errors.Is(err, net.ErrClosed) {
			t.Errorf("got %v, want it closed", err)
		}
	}
}

func TestAResetIsTold(t *testing.T) {
	near, far := pair(t)
	far.SetLinger(0)
	far.Close()
	if _, err := NewReader(near).Read(make([]byte, 1)); !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("read: got %v, want a reset", err)
	}
	b := net.Buffers{[]byte("x")}
	if _, err := NewWriter(near).WriteBuffers(&b); !errors.Is(err, unix.EPIPE) {
		t.Errorf("write: got %v, want a broken pipe", err)
	}
}

// The calls on sockets do not wait, whatever the descriptor says.
func TestDescriptors(t *testing.T) {
	own, shared, old := new(Vectors), &Vectors{Shared: true}, &Vectors{Shared: true}
	old.cannot.Store(true)
	for _, row := range []struct {
		name  string
		flags int
		read  func(int, []unix.Iovec) (int, error)
		write func(int, []unix.Iovec) (int, error)
	}{
		{"blocking", 0, shared.Read, Send},
		{"not blocking", unix.SOCK_NONBLOCK, own.Read, Send},
		{"not blocking, any descriptor", unix.SOCK_NONBLOCK, own.Read, own.Write},
		{"not blocking, a descriptor that others have", unix.SOCK_NONBLOCK, shared.Read, shared.Write},
		{"the same on an old kernel", unix.SOCK_NONBLOCK, old.Read, old.Write},
	} {
		t.Run(row.name, func(t *testing.T) {
			fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|row.flags, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer unix.Close(fds[0])
			b := make([]byte, 8)
			for name, call := range map[string]func(int, []byte) (int, error){"receive": Receive, "peek": Peek} {
				if _, err := call(fds[1], b); err != unix.EAGAIN {
					t.Errorf("%s of nothing: got %v", name, err)
				}
			}
			if n, err := row.write(fds[0], []unix.Iovec{Part([]byte("ab")), Part(nil), Part([]byte("cde"))}); n != 5 || err != nil {
				t.Fatalf("write: got %d, %v", n, err)
			}
			if n, err := Readable(fds[1]); n != 5 || err != nil {
				t.Errorf("readable: got %d, %v", n, err)
			}
			if n, err := Peek(fds[1], b[:2]); string(b[:n]) != "ab" || err != nil {
				t.Errorf("peek: got %q, %v", b[:n], err)
			}
			if n, err := Receive(fds[1], b[:1]); string(b[:n]) != "a" || err != nil {
				t.Errorf("receive: got %q, %v", b[:n], err)
			}
			one, two := make([]byte, 1), make([]byte, 8)
			if n, err := row.read(fds[1], []unix.Iovec{Part(one), Part(two)}); n != 4 || err != nil || string(one)+string(two[:3]) != "bcde" {
				t.Errorf("readv: got %d, %v, %q %q", n, err, one, two)
			}
			for total := 0; ; {
				n, err := row.write(fds[0], []unix.Iovec{Part(make([]byte, 1<<16))})
				if err == unix.EAGAIN {
					break
				}
				if total += n; err != nil || total > 1<<28 {
					t.Fatalf("a socket that nobody reads has taken %d bytes, %v", total, err)
				}
			}
			unix.Close(fds[1])
			if _, err := row.write(fds[0], []unix.Iovec{Part([]byte("x"))}); err != unix.EPIPE {
				t.Errorf("write to nobody: got %v", err)
			}
		})
	}
	if _, err := Readable(-1); err != unix.EBADF {
		t.Errorf("no descriptor: got %v", err)
	}
}

// An Exchange tells of an error as net's own calls do.
func TestAnExchangeFailsAsASocketDoes(t *testing.T) {
	c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var m [1]Message
	m[0].SetParts([]unix.Iovec{Part([]byte("to nobody"))})
	var failed *net.OpError
	if _, err := NewSend().Do(raw.Write, m[:]); !errors.As(err, &failed) || !errors.Is(err, unix.EDESTADDRREQ) {
		t.Errorf("send: got %v", err)
	}
	c.SetReadDeadline(time.Now().Add(-time.Second))
	if _, err := NewReceive().Do(raw.Read, m[:]); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("receive: got %v", err)
	}
	c.Close()
	if _, err := NewReceive().Do(raw.Read, m[:]); !errors.Is(err, net.ErrClosed) {
		t.Errorf("receive from a closed socket: got %v", err)
	}
}

func BenchmarkWriter(b *testing.B) {
	for _, row := range []struct {
		name  string
		write func(c *net.TCPConn) func(*net.Buffers) (int64, error)
	}{
		{"net", func(c *net.TCPConn) func(*net.Buffers) (int64, error) {
			return func(v *net.Buffers) (int64, error) { return v.WriteTo(c) }
		}},
		{"nowait", func(c *net.TCPConn) func(*net.Buffers) (int64, error) { return NewWriter(c).WriteBuffers }},
	} {
		b.Run(row.name, func(b *testing.B) {
			near, far := pair(b)
			go io.Copy(io.Discard, far)
			write, piece := row.write(near), make([]byte, 16<<10)
			b.SetBytes(4 * int64(len(piece)))
			b.ReportAllocs()
			space := make(net.Buffers, 4)
			for b.Loop() {
				buffers := space
				for i := range buffers {
					buffers[i] = piece
				}
				if _, err := write(&buffers); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
