package jetstream

import (
	"context"
	"errors"
	"net"
	"sync/atomic"
	"testing"

	"penstock/cmd/internal/config"
	"penstock/cmd/internal/fleet/store"
)

func TestAConflictTellsTheLastMessage(t *testing.T) {
	for said, want := range map[string]uint64{"wrong last sequence: 12": 12, "wrong last sequence": 0, "wrong last sequence: x": 0, "": 0} {
		c := conflictOf(said)
		if c.last != want || !errors.Is(c, store.ErrConflict) {
			t.Errorf("%q: got %d, %v; want %d and a conflict", said, c.last, c, want)
		}
	}
}

// TestAttemptsToConnectLeaveNothingBehind counts what waits for the end of a Store after attempts that failed.
func TestAttemptsToConnectLeaveNothingBehind(t *testing.T) {
	life := &counted{Context: t.Context(), done: make(chan struct{})}
	refused := func(context.Context, string, string) (net.Conn, error) { return nil, errors.New("refused") }
	s := &Store{ctx: life, config: Config{NATS: config.NATS{Servers: []string{"nats://192.0.2.1"}}, Dial: refused}}
	for range 3 {
		if _, err := s.connect(); err == nil {
			t.Fatal("connected to nothing")
		}
	}
	if n := life.waiting.Load(); n != 0 {
		t.Errorf("%d still wait for the end after 3 attempts, want none", n)
	}
}

// counted counts those who wait for the end of a context.
type counted struct {
	context.Context
	done    chan struct{} // of its own: those who wait for that of the context inside are not counted
	waiting atomic.Int64
}

func (c *counted) Done() <-chan struct{} { return c.done }

func (c *counted) AfterFunc(func()) (stop func() bool) {
	c.waiting.Add(1)
	return func() bool {
		c.waiting.Add(-1)
		return true
	}
}
