package jetstream_test

import (
	"log/slog"
	"testing"

	"go.uber.org/goleak"

	"penstock/cmd/internal/config"
	"penstock/cmd/internal/fleet/engine"
	"penstock/cmd/internal/fleet/jetstream"
	"penstock/cmd/internal/fleet/store"
	"penstock/cmd/internal/fleet/store/storetest"
)

// TestMain looks for goroutines that are left. nats.go v1.55 leaves one now and then: after a blob was put it takes the channel away that
// the goroutine of that put may not have read yet, which then waits for ever. Without its connection it holds nothing.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/nats-io/nats.go/jetstream.(*jetStream).resetPendingAcksOnReconnect"))
}

func TestJetStreamIsAStore(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name    string
		cluster int
	}{{"one server", 1}, {"three servers", 3}} {
		t.Run(tt.name, func(t *testing.T) {
			e := start(t, engine.Options{Cluster: tt.cluster})
			storetest.Run(t, func(t *testing.T) store.Store { return open(t, e, tt.cluster) })
		})
	}
}

func start(t *testing.T, o engine.Options) *engine.Engine {
	t.Helper()
	e, err := engine.Start(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
	return e
}

func open(t *testing.T, e *engine.Engine, replicas int) *jetstream.Store {
	t.Helper()
	return openWith(t, jetstream.Config{NATS: config.NATS{Servers: e.URLs(), Replicas: replicas}, Log: slog.New(slog.NewTextHandler(t.Output(), nil))})
}

func openWith(t *testing.T, c jetstream.Config) *jetstream.Store {
	t.Helper()
	s, err := jetstream.Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}
