package readable

import (
	"io"
	"net"
	"runtime"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// pair is a connection of sockets.
func pair(t *testing.T) (near, far *net.TCPConn) {
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
	d, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(); d.Close() })
	return c.(*net.TCPConn), d.(*net.TCPConn)
}

func within(t *testing.T, c <-chan struct{}, what string) {
	t.Helper()
	select {
	case <-c:
	case <-time.After(20 * time.Second):
		t.Fatalf("%s: not told", what)
	}
}

// onLinux skips a test where nothing can be told.
func onLinux(t *testing.T) {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skip("nothing can be told here")
	}
}

func TestASocketIsReadable(t *testing.T) {
	onLinux(t)
	var set Set
	for _, row := range []struct {
		name string
		make func(near, far *net.TCPConn, k *Socket)
	}{
		{"data", func(_, far *net.TCPConn, _ *Socket) { io.WriteString(far, "x") }},
		{"the end", func(_, far *net.TCPConn, _ *Socket) { far.CloseWrite() }},
		{"a reset", func(_, far *net.TCPConn, _ *Socket) { far.SetLinger(0); far.Close() }},
		{"Close and Wake", func(near, _ *net.TCPConn, k *Socket) { near.Close(); k.Wake() }},
	} {
		near, far := pair(t)
		k := set.Socket(near)
		told := make(chan struct{}, 8)
		tell := func() { told <- struct{}{} }
		for range 3 { // it is told each time that somebody waits
			if !k.WhenReadable(tell) {
				t.Fatalf("%s: got false, want that it can be told", row.name)
			}
			io.WriteString(far, "x")
			within(t, told, "data")
			near.Read(make([]byte, 8))
		}
		if !k.WhenReadable(tell) {
			t.Fatalf("%s: got false, want that it can be told", row.name)
		}
		select {
		case <-told:
			t.Errorf("%s: told before it came", row.name)
		default:
		}
		row.make(near, far, k)
		within(t, told, row.name)
		k.Wake() // nobody waits
		if n := len(told); n != 0 {
			t.Errorf("%s: told %d times too many", row.name, n)
		}
	}
}

func TestWhatHasComeIsToldAtOnce(t *testing.T) {
	onLinux(t)
	var set Set
	near, far := pair(t)
	io.WriteString(far, "x")
	told := make(chan struct{}, 1)
	if !set.Socket(near).WhenReadable(func() { told <- struct{}{} }) {
		t.Fatal("got false, want that it can be told")
	}
	within(t, told, "data")
}

func TestAClosedSocketCannotBeWaitedFor(t *testing.T) {
	var set Set
	near, _ := pair(t)
	k := set.Socket(near)
	near.Close()
	if k.WhenReadable(func() { t.Error("told about a closed socket") }) {
		t.Error("got true for a closed socket, want false")
	}
}

func TestManySocketsHaveOneGoroutine(t *testing.T) {
	onLinux(t)
	const n = 100
	var set Set
	before := runtime.NumGoroutine()
	told := make(chan int, n)
	var fars []*net.TCPConn
	for i := range n {
		near, far := pair(t)
		fars = append(fars, far)
		if !set.Socket(near).WhenReadable(func() { told <- i }) {
			t.Fatal("got false, want that it can be told")
		}
	}
	if got := runtime.NumGoroutine() - before; got > 1 {
		t.Errorf("got %d goroutines for %d sockets, want one", got, n)
	}
	for _, far := range fars {
		io.WriteString(far, "x")
	}
	seen := make(map[int]bool)
	for len(seen) < n {
		select {
		case i := <-told:
			seen[i] = true
		case <-time.After(20 * time.Second):
			t.Fatalf("told about %d sockets, want %d", len(seen), n)
		}
	}
}
