package stack

import (
	"bytes"
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"penstock/stack/link"
)

// lateAnswers is a port that does not take a SYN-ACK of IPv4 before leave is closed.
type lateAnswers struct {
	link.Port
	begin        sync.Once
	begun, leave chan struct{}
}

func (p *lateAnswers) Write(m link.Meta, pieces [][]byte) error {
	const flags = 20 + 13
	if b := bytes.Join(pieces, nil); len(b) > flags && b[0]>>4 == 4 && b[9] == 6 && b[flags]&(flagSYN|flagACK) == flagSYN|flagACK {
		p.begin.Do(func() { close(p.begun) })
		<-p.leave
	}
	return p.Port.Write(m, pieces)
}

// TestCloseWaitsForAnswers: a SYN-ACK is written by a goroutine of its own, which Close does not leave behind.
func TestCloseWaitsForAnswers(t *testing.T) {
	client, err := New(Config{Name: "client", Addrs: clientAddrs})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	server, err := New(Config{Name: "server", Addrs: serverAddrs, Handle: Waiting(echo)})
	if err != nil {
		t.Fatal(err)
	}
	a, b := link.Pipe(1500)
	port := &lateAnswers{Port: b, begun: make(chan struct{}), leave: make(chan struct{})}
	if err := errors.Join(client.Attach(a), server.Attach(port)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	dialled := make(chan struct{})
	go func() {
		defer close(dialled)
		if c, err := client.DialContext(ctx, "tcp", web.String()); err == nil {
			c.Close()
		}
	}()
	within(t, port.begun)
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		server.Close()
	}()
	select {
	case <-closed:
		t.Error("Close has returned, and a SYN-ACK is still being written")
	case <-time.After(200 * time.Millisecond):
	}
	close(port.leave)
	within(t, closed)
	cancel()
	within(t, dialled)
}
