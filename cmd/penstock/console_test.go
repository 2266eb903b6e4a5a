package main

import (
	"bytes"
	"context"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"penstock/cmd/internal/control"
)

// stopping is a terminal on which somebody presses Ctrl-C as soon as there is something to read.
type stopping struct {
	stop func()
	said bytes.Buffer
	over bool
}

func (s *stopping) Write(b []byte) (int, error) {
	s.stop()
	time.Sleep(200 * time.Millisecond) // what is said later is said too late
	s.said.Write(b)
	s.over = true
	return len(b), nil
}

func TestTheConsoleEndsWhenNothingOfItGoesOn(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	server, err := control.New(control.Config{Socket: socket})
	if err != nil {
		t.Fatal(err)
	}
	running, end := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { _ = server.Run(running) })
	defer wg.Wait()
	defer end()
	client, err := control.Dial(t.Context(), socket)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	out, hints := &stopping{stop: cancel}, new(bytes.Buffer)
	e := &env{stdout: out, stderr: hints, getenv: func(name string) string {
		return map[string]string{"SSH_CONNECTION": "192.0.2.1 50000 192.0.2.2 22"}[name]
	}}
	if err := serveConsole(ctx, e, client, ""); err != nil {
		t.Fatal(err)
	}
	if !out.over || !strings.HasPrefix(out.said.String(), "http://127.0.0.1:") {
		t.Errorf("it ended before the link was dealt with: got %q", out.said.String())
	}
	_, port, _ := strings.Cut(strings.Split(out.said.String(), "/#")[0], "127.0.0.1:")
	if want := "ssh -L " + port + ":127.0.0.1:" + port + " HOST"; !strings.Contains(hints.String(), want) {
		t.Errorf("got %q, want %q for who is here over SSH", hints.String(), want)
	}
}
