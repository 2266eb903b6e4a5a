package enrol

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"

	"penstock/cmd/internal/config"
	"penstock/cmd/internal/control"
	"penstock/cmd/internal/logtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const gatewayText = `include: peers.d/*.yaml
listen:
  wireguard: {address: [10.78.0.1/24, "fd78::1/64"], private_key: {file: gateway.key}, endpoint: "gw.example:51820"}
  enrol: {url: "https://localhost:8443"}
state_dir: .
rules: {name: rest, do: direct}
`

const (
	gatewayPrivate = "2Bo5n4y4CRcCcX2HMRSL1fBDMhgT1Z4x0AMkYmZ9DGA="
	gatewayPublic  = "A2SDNaMV+WD6LHUWUumef7WsJjELbZve3TcQIxIEzy8="
)

// world is a gateway's files and its enrolment, which runs.
type world struct {
	*Enrolment
	dir     string
	current atomic.Pointer[config.Config]
	refuses atomic.Bool // what is in the files
	log     *logtest.Log
	stop    func()
}

func (w *world) Config() *config.Config { return w.current.Load() }

func (w *world) Read(context.Context) error {
	if w.refuses.Load() {
		return fmt.Errorf("a test of the configuration fails")
	}
	next, err := w.Config().ReloadPeers()
	if err == nil {
		w.current.Store(next)
	}
	return err
}

// newWorld writes the files. It does not open the enrolment.
func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{dir: t.TempDir(), log: new(logtest.Log)}
	w.write(t, "gateway.key", gatewayPrivate+"\n")
	w.write(t, "gateway.yaml", gatewayText)
	c, err := config.Load(filepath.Join(w.dir, "gateway.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	c.Listen.Enrol.Address = "127.0.0.1:0"
	w.current.Store(c)
	return w
}

func (w *world) write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(w.dir, name), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// open opens the enrolment and runs it until the test ends or stop is called.
func (w *world) open(t *testing.T) *world {
	t.Helper()
	log := slog.New(slog.NewTextHandler(w.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	w.openWith(t, Config{Listen: w.Config().Listen.Enrol, Gateway: w, Registry: prometheus.NewRegistry(), Log: log})
	return w
}

func (w *world) openWith(t *testing.T, c Config) {
	t.Helper()
	e, err := Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	w.Enrolment = e
	e.listen.URL = "https://" + e.server.listener.Addr().String()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- e.Run(ctx) }()
	w.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(w.stop)
}

// invite makes an invitation that must succeed.
func (w *world) invite(t *testing.T, name string) Link {
	t.Helper()
	made, err := w.Invite(t.Context(), control.InviteQuery{Name: name, Groups: []string{"staff"}})
	if err != nil {
		t.Fatal(err)
	}
	l, err := ParseLink(made.Link)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// count is how many attempts ended in a way.
func (w *world) count(r reason) int {
	return int(testutil.ToFloat64(w.attempts.WithLabelValues(string(r))))
}

// files returns the files of peers.
func (w *world) files(t *testing.T) []string {
	t.Helper()
	list, err := filepath.Glob(filepath.Join(w.dir, "peers.d", "*.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// eventually asks again until it is so.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for limit := time.Now().Add(20 * time.Second); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(limit) {
			t.Fatalf("%s: not within 20 s", what)
		}
	}
}
