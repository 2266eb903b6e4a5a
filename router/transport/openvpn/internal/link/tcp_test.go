package link

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// tcpPair is a link and the socket of its peer.
func tcpPair(t *testing.T, limit time.Duration) (*tcpLink, *net.TCPConn) {
	t.Helper()
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	conn, err := net.Dial("tcp4", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	peer, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	l := newTCP(conn.(*net.TCPConn), listener.Addr().(*net.TCPAddr).AddrPort(), limit)
	t.Cleanup(func() { _ = l.Close(); _ = peer.Close() })
	return l, peer.(*net.TCPConn)
}

func framed(size int, fill byte) []byte {
	return append(make([]byte, Head), bytes.Repeat([]byte{fill}, size)...)
}

func TestTCPRefusesWhatIsNoPacket(t *testing.T) {
	for name, raw := range map[string]string{"an HTTP server": "HTTP/1.1 400 Bad Request\r\n", "an empty packet": "\x00\x00"} {
		t.Run(name, func(t *testing.T) {
			l, peer := tcpPair(t, writeLimit)
			if _, err := peer.Write([]byte(raw)); err != nil {
				t.Fatal(err)
			}
			if _, err := l.Read(); err == nil {
				t.Error("Read: got no error")
			}
		})
	}
}

func TestTCPKeepsTheOrderOfAllThatIsSent(t *testing.T) {
	l, peer := tcpPair(t, writeLimit)
	const packets = 2000
	go func() {
		for i := range packets {
			b := binary.BigEndian.AppendUint32(make([]byte, Head), uint32(i))
			b = append(b, make([]byte, 1000)...)
			if i%3 == 0 {
				_ = l.Post(b)
			} else {
				_ = l.Write([][]byte{b})
			}
		}
	}()
	for i := range packets {
		var head [6]byte
		if _, err := io.ReadFull(peer, head[:]); err != nil {
			t.Fatal(err)
		}
		if size, got := binary.BigEndian.Uint16(head[:]), binary.BigEndian.Uint32(head[2:]); size != 1004 || got != uint32(i) {
			t.Fatalf("packet %d: got number %d of %d bytes", i, got, size)
		}
		if _, err := io.CopyN(io.Discard, peer, 1000); err != nil {
			t.Fatal(err)
		}
	}
}

// stall writes until the peer, which does not read, takes no more. It returns what the writer's Write will return.
func stall(t *testing.T, l *tcpLink) <-chan error {
	t.Helper()
	result := make(chan error, 1)
	go func() {
		for {
			if err := l.Write([][]byte{framed(1400, 'x')}); err != nil {
				result <- err
				return
			}
		}
	}()
	for end := time.Now().Add(20 * time.Second); !l.Stalled(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the link is not stalled after 20 s")
		}
	}
	return result
}

func TestTCPPostNeverWaitsForThePeer(t *testing.T) {
	l, _ := tcpPair(t, writeLimit)
	writing := stall(t, l)
	start := time.Now()
	var err error
	for n := 0; err == nil; n++ {
		if err = l.Post(framed(1000, 'y')); n > 1000 {
			t.Fatal("1,000 packets were kept for a peer that does not read")
		}
	}
	if !errors.Is(err, ErrStalled) {
		t.Errorf("Post: got %v, want %v", err, ErrStalled)
	}
	if took := time.Since(start); took > writeLimit/3 {
		t.Errorf("Post: took %v", took)
	}
	start = time.Now()
	if err := l.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	if err := <-writing; !errors.Is(err, net.ErrClosed) {
		t.Errorf("Write: got %v, want %v", err, net.ErrClosed)
	}
	if took := time.Since(start); took > writeLimit/3 {
		t.Errorf("Close: took %v", took)
	}
	if err := l.Post(framed(1, 'z')); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Post after Close: got %v, want %v", err, net.ErrClosed)
	}
}

func TestTCPGivesUpAPeerThatTakesNothing(t *testing.T) {
	l, _ := tcpPair(t, 300*time.Millisecond)
	writing := stall(t, l)
	if err := <-writing; !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("Write: got %v, want %v", err, os.ErrDeadlineExceeded)
	}
	if _, err := l.Read(); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("Read: got %v, want the reason", err)
	}
}

func TestTCPStaysWithAPeerThatReadsSlowly(t *testing.T) {
	l, peer := tcpPair(t, 300*time.Millisecond)
	writing := stall(t, l)
	var wg sync.WaitGroup
	stop := make(chan struct{})
	wg.Go(func() {
		b := make([]byte, 64<<10)
		for {
			select {
			case <-stop:
				return
			case <-time.After(20 * time.Millisecond):
				_, _ = peer.Read(b)
			}
		}
	})
	select {
	case err := <-writing:
		t.Errorf("Write: got %v from a peer that reads", err)
	case <-time.After(1500 * time.Millisecond):
	}
	close(stop)
	_ = l.Close()
	_ = peer.Close()
	wg.Wait()
	<-writing
}
