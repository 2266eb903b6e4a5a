package ports

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// said is a log that may be read while it is written.
type said struct {
	mu   sync.Mutex // guards below
	text bytes.Buffer
}

func (s *said) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.Write(b)
}

func (s *said) count(part string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Count(s.text.String(), part)
}

// served is a function for Serve that holds the listener until ctx ends, and says that it has it.
func served(has chan<- net.Addr) func(context.Context, net.Listener) error {
	return func(ctx context.Context, l net.Listener) error {
		has <- l.Addr()
		<-ctx.Done()
		return l.Close()
	}
}

func TestAPortThatIsTakenIsServedOnceItIsFree(t *testing.T) {
	squatter, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer squatter.Close()
	address := squatter.Addr().String()
	registry, log := prometheus.NewPedanticRegistry(), new(said)
	p := New(registry, slog.New(slog.NewTextHandler(log, nil)))
	p.every = 5 * time.Millisecond
	tries := make(chan struct{}, 1000)
	port, err := p.Open("metrics.listen", func() (net.Listener, error) {
		select {
		case tries <- struct{}{}:
		default:
		}
		return net.Listen("tcp", address)
	})
	if err != nil {
		t.Fatalf("got %v, want none for a port that is taken", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	has, done := make(chan net.Addr, 1), make(chan error, 1)
	go func() { done <- port.Serve(ctx, served(has)) }()
	for range 3 {
		<-tries
	}
	if got := p.Troubles(); len(got) != 1 || !strings.HasPrefix(got[0], "metrics.listen is not served: listen tcp "+address+": ") {
		t.Errorf("got %q, want the key and the reason", got)
	}
	if got := testutil.ToFloat64(p.taken.WithLabelValues("metrics.listen")); got != 1 {
		t.Errorf("taken: got %v, want 1", got)
	}
	squatter.Close()
	if got := <-has; got.String() != address {
		t.Errorf("got %v, want %s", got, address)
	}
	if got := p.Troubles(); got != nil {
		t.Errorf("got %q, want none", got)
	}
	if got := testutil.ToFloat64(p.taken.WithLabelValues("metrics.listen")); got != 0 {
		t.Errorf("taken: got %v, want 0", got)
	}
	if n, m := log.count("is not served"), log.count("is free now"); n != 1 || m != 1 {
		t.Errorf("got %d and %d lines of the log, want one of each", n, m)
	}
	cancel()
	if err := errors.Join(<-done, port.Close(), port.Close()); err != nil {
		t.Error(err)
	}
	if problems, err := testutil.GatherAndLint(registry); err != nil || len(problems) > 0 {
		t.Errorf("lint: %v, %v", problems, err)
	}
}

func TestAPortThatIsNeverFreeEndsWithItsContext(t *testing.T) {
	wrong := errors.New("no such address")
	p := New(nil, nil)
	p.every = time.Millisecond
	port, err := p.Open("console.listen", func() (net.Listener, error) { return nil, wrong })
	if !errors.Is(err, wrong) {
		t.Errorf("got %v, want %v: it may be a mistake of the configuration", err, wrong)
	}
	if got := p.Troubles(); !slices.ContainsFunc(got, func(s string) bool { return strings.Contains(s, "no such address") }) {
		t.Errorf("got %q", got)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := errors.Join(port.Serve(ctx, served(make(chan net.Addr, 1))), port.Close()); err != nil {
		t.Errorf("got %v, want none", err)
	}
}
