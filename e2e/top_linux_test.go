package e2e

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"penstock/e2e/netlab"
)

// laptop [pen0 -> penstock <- penstock top on a terminal] === WireGuard ===> [penstock] gateway --- news.example
func TestTheLiveViewShowsAndActs(t *testing.T) {
	t.Parallel()
	w := newWorld(t).up(t)
	live := downloadFrom(t, w, netlab.NewsSite, newsIPv4)
	attempt{"", "curl --resolve casino.example:443:203.0.113.20 https://casino.example/", "", cutOff()}.on(t, w.Laptop)
	near, far := terminal(t, 120, 40)
	cmd := w.Laptop.Command(context.WithoutCancel(t.Context()), built("penstock"), "--socket", w.laptop.socket, "top", "--every", "200ms")
	cmd.Env = append(os.Environ(), "TERM=xterm-256color", "LC_ALL=C.UTF-8", "NO_COLOR=")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = far, far, far
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	var screen transcript
	go func() { _, _ = io.Copy(&screen, near) }() // ends when the test closes near
	wide := uint16(120)
	shows := func(texts ...string) { // draws all anew, because it draws only what has changed
		t.Helper()
		eventually(t, fmt.Sprintf("the view shows %q", texts), func() error {
			read := len(screen.String())
			wide = 241 - wide
			resize(t, near, wide, 40)
			_ = cmd.Process.Signal(syscall.SIGWINCH) // this is not the terminal that controls it
			time.Sleep(300 * time.Millisecond)
			got := screen.String()[read:]
			for _, text := range texts {
				if !strings.Contains(got, text) {
					return fmt.Errorf("it shows %q", got)
				}
			}
			return nil
		})
	}
	types := func(keys string) {
		t.Helper()
		if _, err := near.WriteString(keys); err != nil {
			t.Fatal(err)
		}
	}
	shows("connected via corp, ", "news.example:80", "blocked just now", "casino.example:443", "no-gambling (gambling)")
	types("2")
	shows("[2 blocked]")
	types("\r")
	shows("gambling: casino.example in ")
	types("a")
	shows("Allow casino.example for 1 hour?")
	types("y")
	shows("casino.example is allowed for 1 hour")
	attempt{"", "curl -k --resolve casino.example:443:203.0.113.20 https://casino.example/", "", nil}.on(t, w.Laptop)
	types("\x1b")
	shows("[2 blocked]")
	types("1")
	types("/")
	types("news")
	shows("/news")
	types("\r")
	shows("with news")
	types("k")
	shows("End flow ")
	types("y")
	shows(" has ended")
	live.isCut(t)
	w.laptop.stop(t, syscall.SIGTERM)
	shows("not running: waiting")
	w.laptop.start(t)
	shows("filter on")
	types("q")
	select {
	case err := <-ended:
		if err != nil {
			t.Errorf("after q: %v", err)
		}
	case <-time.After(patience):
		t.Error("q did not end it")
	}
	if !strings.Contains(screen.String(), "\x1b[?1049l") {
		t.Error("the screen of before is not back")
	}
}
