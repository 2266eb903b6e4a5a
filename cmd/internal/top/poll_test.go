package top

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"penstock/cmd/internal/control"
)

// penstock answers what a view asks, and keeps the queries for flows.
type penstock struct {
	answer  snapshot
	queries chan control.FlowQuery
	killed  chan string
}

func (p penstock) Status(context.Context) (control.Status, error) { return p.answer.status, nil }
func (p penstock) Reload(context.Context, control.ReloadQuery) (control.Reloaded, error) {
	return control.Reloaded{}, control.ErrNotOffered
}
func (p penstock) Drain(context.Context, control.DrainOrder) error { return control.ErrNotOffered }
func (p penstock) Flows(_ context.Context, q control.FlowQuery) ([]control.Flow, error) {
	p.queries <- q
	if q.Denied {
		return p.answer.denied, nil
	}
	return p.answer.flows[:min(q.Limit, len(p.answer.flows))], nil
}
func (p penstock) KillFlow(_ context.Context, id string) error {
	p.killed <- id
	return nil
}

func TestTheViewWaitsForPenstock(t *testing.T) {
	dir, err := os.MkdirTemp("", "top-") // the path of a socket is short
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	socket := filepath.Join(dir, "s")
	p := &poller{ctx: t.Context(), config: Config{Dial: func(ctx context.Context) (*control.Client, error) { return control.Dial(ctx, socket) }}}
	defer p.close()
	look := func(q question) snapshot { return p.look(q)().(snapshot) }
	if s := look(question{}); !errors.Is(s.err, control.ErrNotRunning) {
		t.Fatalf("before it runs got %v, want that it does not", s.err)
	}
	fake := penstock{laptop(0), make(chan control.FlowQuery, 100), make(chan string, 1)}
	fake.answer.flows = many(2 * most)
	for range 2 { // it stops and starts again
		server, err := control.New(control.Config{Socket: socket, Process: fake, Flows: fake})
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- server.Run(ctx) }()
		s := look(question{seq: 7, filter: "x"})
		if s.err != nil || s.seq != 7 || !s.mayChange || len(s.flows) != most || len(s.denied) != 3 || s.samples != nil {
			t.Errorf("got %v, %d flows, %d denied, may change: %v", s.err, len(s.flows), len(s.denied), s.mayChange)
		}
		for _, want := range []control.FlowQuery{{Denied: true, Limit: panel}, {Recent: true, Limit: most, Text: "x"}, {Limit: most, Largest: true, Text: "x"}} {
			got := <-fake.queries
			if got.Recent && time.Since(got.Since) < lingers {
				t.Errorf("got flows that ended since %v, want those of %v", got.Since, lingers)
			}
			if got.Since = (time.Time{}); got != want {
				t.Errorf("got %+v, want %+v", got, want)
			}
		}
		if got := p.do("done", func(ctx context.Context, c *control.Client) error { return c.KillFlow(ctx, "7") })(); got != (told{"done", nil}) || <-fake.killed != "7" {
			t.Errorf("got %v, want the flow ended", got)
		}
		if got := p.why(control.Flow{ID: "7"})().(because); got.key != "7" || got.text == "" {
			t.Errorf("got %+v, want why nothing is known", got)
		}
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if s := look(question{}); !errors.Is(s.err, control.ErrNotRunning) {
			t.Errorf("after it has stopped got %v, want that it does not run", s.err)
		}
	}
}
