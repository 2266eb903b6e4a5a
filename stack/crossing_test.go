package stack

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"penstock/stack/link"
)

// transitWorld is a client whose flows cross from the stack it is joined to, near, to another, far, and on to servers.
//
//	client 10.0.0.2, fd00::2 ---- near | far 10.9.0.2, fd09::2 ---- remote (answers for every address)
type transitWorld struct {
	client, near, far, remote *Stack

	mu     sync.Mutex // guards below
	passed []*Passed
	ended  atomic.Int32
	moved  func() bool // of each flow; set before any begins
}

// newTransitWorld makes one. read makes the reader of each flow; nil: nothing is read.
func newTransitWorld(t testing.TB, limits Limits, read func(*Request) func([]byte), serve func(context.Context, *Request)) *transitWorld {
	t.Helper()
	w := &transitWorld{}
	open := func(c Config) *Stack {
		s, err := New(c)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.Close() })
		return s
	}
	w.client = open(Config{Name: "client", Addrs: clientAddrs, Lossless: true})
	w.far = open(Config{Name: "far", MTU: 1420, Addrs: []netip.Prefix{netip.MustParsePrefix("10.9.0.2/24"), netip.MustParsePrefix("fd09::2/64")}})
	w.near = open(Config{Name: "near", Addrs: serverAddrs, Lossless: true, Limits: limits, Handle: atOnce(func(_ context.Context, r *Request) {
		var reader func([]byte)
		if read != nil {
			reader = read(r)
		}
		passed, err := r.Pass(w.far, watching{&w.ended, w.moved}, reader)
		if err != nil {
			t.Errorf("pass %v: %v", r.Dst, err)
			return
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		w.passed = append(w.passed, passed)
	})})
	w.remote = open(Config{Name: "remote", MTU: 1420, Handle: Waiting(serve)})
	a, b := link.Pipe(1500)
	if err := errors.Join(w.client.Attach(a), w.near.Attach(b), w.remote.Attach(link.FromDevice(&crossed{w.far.Device()}))); err != nil {
		t.Fatal(err)
	}
	return w
}

// watching counts the flows that are over.
type watching struct {
	ended *atomic.Int32
	moved func() bool // nil: they have not
}

func (w watching) Opened()     {}
func (watching) Heard()        {}
func (w watching) Moved() bool { return w.moved != nil && w.moved() }
func (w watching) Ended(error) { w.ended.Add(1) }

func (w *transitWorld) dial(t testing.TB, address string) net.Conn {
	t.Helper()
	return (&pair{client: w.client}).dial(t, "tcp", address)
}

func (w *transitWorld) last(t *testing.T) *Passed {
	t.Helper()
	eventually(t, "a flow that was passed", func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		return len(w.passed) > 0
	})
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.passed[len(w.passed)-1]
}

// exchange sends a word to who sends everything back.
func exchange(t *testing.T, c net.Conn) {
	t.Helper()
	b := make([]byte, 5)
	if _, err := io.WriteString(c, "hello"); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(c, b); err != nil || string(b) != "hello" {
		t.Fatalf("got %q, %v, want hello", b, err)
	}
}

// wantReset wants that the next that a client gets is a reset.
func wantReset(t *testing.T, c net.Conn) {
	t.Helper()
	c.SetReadDeadline(time.Now().Add(5 * time.Second))
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the client got %v, want %v", err, syscall.ECONNRESET)
	}
}

var destinations = []string{"192.0.2.7:443", "[2001:db8::7]:443"}

func TestPassedFlowsCarryBothWays(t *testing.T) {
	from := make(chan netip.AddrPort, 8)
	w := newTransitWorld(t, Limits{}, nil, func(ctx context.Context, r *Request) {
		from <- r.Src
		echo(ctx, r)
	})
	for _, dst := range destinations {
		c := w.dial(t, dst)
		bounce(t, c, 4<<20)
		src := within(t, from)
		if want := c.LocalAddr().(*net.TCPAddr).AddrPort(); src.Addr() != netip.MustParseAddr("10.9.0.2") && src.Addr() != netip.MustParseAddr("fd09::2") ||
			src.Port() != want.Port() {
			t.Errorf("the server saw %v, want the far stack's address and port %d", src, want.Port())
		}
		p := w.last(t)
		if in, out := p.Bytes(); in != 4<<20 || out != 4<<20 {
			t.Errorf("bytes: got %d and %d, want %d both ways", in, out, 4<<20)
		}
		c.Close()
	}
	eventually(t, "both flows to end", func() bool { return w.ended.Load() == 2 })
	eventually(t, "no flow in the tables", func() bool { return w.near.crossings.begun.Len()+w.far.crossings.guests.Len() == 0 })
}

// TestAClientThatAsksAgainGoesAnotherWay: a server that was not reached is asked for anew, with a verdict of its own.
func TestAClientThatAsksAgainGoesAnotherWay(t *testing.T) {
	var asked, judged atomic.Int32
	w := newTransitWorld(t, Limits{}, func(*Request) func([]byte) { judged.Add(1); return nil }, func(ctx context.Context, r *Request) {
		if asked.Add(1) == 1 {
			r.Drop()
			return
		}
		echo(ctx, r)
	})
	w.moved = func() bool { return judged.Load() == 1 }
	for _, dst := range destinations {
		asked.Store(0)
		judged.Store(0)
		before := w.ended.Load()
		exchange(t, w.dial(t, dst))
		if n, ended := judged.Load(), w.ended.Load()-before; n != 2 || ended != 1 {
			t.Errorf("%s: %d flows were judged and %d ended, want 2 and 1", dst, n, ended)
		}
	}
}

func TestPassedFlowsAreRefusedByTheServer(t *testing.T) {
	for name, tt := range map[string]struct {
		answer func(*Request)
		want   error
	}{
		"closed port":      {(*Request).Refuse, syscall.ECONNREFUSED},
		"host unreachable": {func(r *Request) { r.Unreachable(syscall.EHOSTUNREACH) }, syscall.EHOSTUNREACH},
		"prohibited":       {func(r *Request) { r.Unreachable(syscall.EACCES) }, syscall.EACCES},
	} {
		t.Run(name, func(t *testing.T) {
			w := newTransitWorld(t, Limits{}, nil, func(_ context.Context, r *Request) { tt.answer(r) })
			for _, dst := range destinations {
				_, err := w.client.DialContext(t.Context(), "tcp", dst)
				if !errors.Is(err, tt.want) {
					t.Errorf("dial %s: got %v, want %v", dst, err, tt.want)
				}
			}
		})
	}
}

func TestAPassedFlowIsResetOnBothSides(t *testing.T) {
	for _, dst := range destinations {
		ended := make(chan error, 1)
		w := newTransitWorld(t, Limits{}, nil, func(_ context.Context, r *Request) {
			c, err := r.Accept()
			if err != nil {
				return
			}
			_, err = io.Copy(c, c)
			ended <- err
		})
		c := w.dial(t, dst)
		exchange(t, c)
		w.last(t).Abort()
		wantReset(t, c)
		if err := within(t, ended); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("%s: the server got %v, want %v", dst, err, syscall.ECONNRESET)
		}
		if got := w.ended.Load(); got != 1 {
			t.Errorf("%s: Ended was called %d times, want once", dst, got)
		}
		c.Close()
	}
}

// TestNothingLeavesUnpermitted reads what a client sends, and permits it piece by piece.
func TestNothingLeavesUnpermitted(t *testing.T) {
	got := make(chan []byte, 100)
	var mu sync.Mutex
	var read []byte
	w := newTransitWorld(t, Limits{}, func(*Request) func([]byte) {
		return func(b []byte) {
			mu.Lock()
			defer mu.Unlock()
			read = append(read, b...)
		}
	}, func(_ context.Context, r *Request) {
		c, err := r.Accept()
		if err != nil {
			return
		}
		io.WriteString(c, "220 greetings\r\n") // a server that speaks first is not held
		for {
			b := make([]byte, 4096)
			n, err := c.Read(b)
			if err != nil {
				return
			}
			got <- b[:n]
		}
	})
	c := w.dial(t, destinations[0])
	greeting := make([]byte, 15)
	if _, err := io.ReadFull(c, greeting); err != nil {
		t.Fatalf("greeting: %v", err)
	}
	sent := bytes.Repeat([]byte("0123456789"), 500)
	if _, err := c.Write(sent); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the reader to get it", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return bytes.Equal(read, sent)
	})
	select {
	case b := <-got:
		t.Fatalf("the server got %q before anything was permitted", b)
	case <-time.After(300 * time.Millisecond): // time for a retransmission
	}
	w.last(t).Permit(len(sent))
	for n := 0; n < len(sent); {
		b := within(t, got)
		if !bytes.Equal(b, sent[n:n+len(b)]) {
			t.Fatalf("byte %d: the server got %q", n, b)
		}
		n += len(b)
	}
	w.last(t).Open()
	if _, err := c.Write([]byte("more")); err != nil {
		t.Fatal(err)
	}
	if b := within(t, got); string(b) != "more" {
		t.Errorf("after Open: got %q, want %q", b, "more")
	}
	mu.Lock()
	defer mu.Unlock()
	if len(read) != len(sent) {
		t.Errorf("the reader got %d bytes, want the %d that came before Open", len(read), len(sent))
	}
}

func TestClosingTheFarStackResetsWhatCrosses(t *testing.T) {
	w := newTransitWorld(t, Limits{}, nil, echo)
	c := w.dial(t, destinations[0])
	exchange(t, c)
	if err := w.far.SetAddrs(nil); err != nil {
		t.Fatal(err)
	}
	wantReset(t, c)
}

func TestCloseClientResetsWhatCrosses(t *testing.T) {
	w := newTransitWorld(t, Limits{}, nil, echo)
	c := w.dial(t, destinations[0])
	exchange(t, c)
	if n := w.near.CloseClient(0); n != 1 {
		t.Errorf("CloseClient: got %d flows, want 1", n)
	}
	wantReset(t, c)
}

// TestAClientThatTricklesIsReadToTheEnd sends a head in more segments than a client may have on the way. None leaves before all
// were read, and all leave then.
func TestAClientThatTricklesIsReadToTheEnd(t *testing.T) {
	var mu sync.Mutex
	var read []byte
	w := newTransitWorld(t, Limits{}, func(*Request) func([]byte) {
		return func(b []byte) {
			mu.Lock()
			defer mu.Unlock()
			read = append(read, b...)
		}
	}, echo)
	for _, dst := range destinations {
		mu.Lock()
		read = nil
		mu.Unlock()
		c := w.dial(t, dst)
		head := bytes.Repeat([]byte("abcde"), 60)
		for n := 0; n < len(head); n += 5 {
			if _, err := c.Write(head[n : n+5]); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Millisecond) // a segment each
		}
		eventually(t, "all of it read", func() bool {
			mu.Lock()
			defer mu.Unlock()
			return bytes.Equal(read, head)
		})
		if in, out := w.last(t).Bytes(); in != uint64(len(head)) || out != 0 {
			t.Errorf("%s: bytes: got %d and %d, want %d and none", dst, in, out, len(head))
		}
		w.last(t).Permit(len(head) - 10)
		w.last(t).Open()
		io.WriteString(c, "the end")
		if err := c.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		c.SetReadDeadline(time.Now().Add(5 * time.Second))
		got, err := io.ReadAll(c)
		if want := string(head) + "the end"; string(got) != want || err != nil {
			t.Errorf("%s: got %q, %v, want %q", dst, got, err, want)
		}
	}
}

// Flows that have ended stay in the tables for a while. Not more of them do than a client may have open.
func TestFlowsThatAreOverAreBounded(t *testing.T) {
	const limit = 20
	w := newTransitWorld(t, Limits{TCPFlows: limit}, nil, func(_ context.Context, r *Request) { r.Refuse() })
	for range 5 * limit {
		if _, err := w.client.DialContext(t.Context(), "tcp", destinations[0]); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Fatalf("got %v, want %v", err, syscall.ECONNREFUSED)
		}
		if n := w.near.crossings.begun.Len(); n > 2*limit+1 {
			t.Fatalf("%d flows in the table, want at most %d", n, 2*limit+1)
		}
	}
	eventually(t, "all flows to end", func() bool { return w.ended.Load() == 5*limit })
}
