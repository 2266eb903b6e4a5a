package systemd

import (
	"context"
	"net"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestNotifier(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("there is no systemd on windows, nor datagrams over unix sockets")
	}
	path := filepath.Join(t.TempDir(), "notify")
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	next := func() []string {
		t.Helper()
		buf := make([]byte, 4096)
		if err := l.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
			t.Fatal(err)
		}
		n, err := l.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		return strings.Split(string(buf[:n]), "\n")
	}
	t.Setenv("NOTIFY_SOCKET", path)
	t.Setenv("WATCHDOG_USEC", "20000")
	n := NewNotifier()
	ctx, cancel := context.WithCancel(t.Context())
	hang, done := make(chan struct{}), make(chan error, 1)
	entered, changed := make(chan struct{}, 1), make(chan struct{}, 1)
	go func() {
		done <- n.Run(ctx, changed, func(context.Context) { entered <- struct{}{}; <-hang }, func() string { return "connected via corp" })
	}()
	if got, want := next(), []string{"READY=1", "STATUS=connected via corp"}; !slices.Equal(got, want) {
		t.Errorf("at first: got %q, want %q", got, want)
	}
	<-entered
	if err := l.SetReadDeadline(time.Now().Add(100 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if n, err := l.Read(make([]byte, 1)); err == nil {
		t.Errorf("while something hangs: got a datagram of %d bytes, want none", n)
	}
	close(hang)
	if got, want := next(), []string{"STATUS=connected via corp", "WATCHDOG=1"}; !slices.Equal(got, want) {
		t.Errorf("when it goes on: got %q, want %q", got, want)
	}
	go func() { // the order of the rest does not matter
		for range entered {
		}
	}()
	cancel()
	for got := next(); !slices.Equal(got, []string{"STOPPING=1"}); got = next() {
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	close(entered)
}

func TestNobodyIsNotified(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "")
	n := NewNotifier()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := n.Run(ctx, nil, nil, nil); n != nil || err != nil {
		t.Errorf("got %v %v, want nobody and no error", n, err)
	}
	t.Setenv("NOTIFY_SOCKET", "/nowhere")
	t.Setenv("WATCHDOG_USEC", "20000")
	t.Setenv("WATCHDOG_PID", "1")
	other := NewNotifier()
	if other.watchdog != 0 {
		t.Errorf("got a watchdog of %s, want none: it is another process's", other.watchdog)
	}
}

func TestAStateIsOneLine(t *testing.T) {
	if got, want := state("no route\nWATCHDOG=1\tnow"), "STATUS=no route WATCHDOG=1 now"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
