package notices

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"
	"go.uber.org/goleak"

	"penstock/cmd/internal/control"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// shown is a notice as the desktop got it.
type shown struct {
	App      string
	Replaces uint32
	Icon     string
	Title    string
	Body     string
	Actions  []string
	Hints    map[string]dbus.Variant
	Timeout  int32
}

// desk imitates the notification service of a desktop.
type desk struct {
	can  []string
	got  chan shown
	mu   sync.Mutex // guards below
	last uint32
}

// GetCapabilities is org.freedesktop.Notifications.GetCapabilities.
func (d *desk) GetCapabilities() ([]string, *dbus.Error) { return d.can, nil }

// Notify is org.freedesktop.Notifications.Notify.
func (d *desk) Notify(app string, replaces uint32, icon, title, body string, actions []string, hints map[string]dbus.Variant, timeout int32) (uint32, *dbus.Error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.got <- shown{app, replaces, icon, title, body, actions, hints, timeout}
	if replaces != 0 {
		return replaces, nil
	}
	d.last++
	return d.last, nil
}

// sessionBus runs a bus of the test's own, with a desktop on it, until end is called.
func sessionBus(t *testing.T, d *desk) (address string, conn *dbus.Conn, end func()) {
	t.Helper()
	if runtime.GOOS == "windows" {
		t.Skip("needs dbus-daemon, and unix sockets that it can listen on")
	}
	program, err := exec.LookPath("dbus-daemon")
	if err != nil {
		t.Skipf("needs dbus-daemon: %v", err)
	}
	dir := t.TempDir()
	address = "unix:path=" + filepath.Join(dir, "bus")
	conf := filepath.Join(dir, "bus.conf")
	text := `<busconfig><type>session</type><listen>` + address + `</listen><auth>EXTERNAL</auth>
<policy context="default"><allow user="*"/><allow own="*"/><allow send_destination="*"/><allow receive_sender="*"/></policy></busconfig>`
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, "--config-file="+conf, "--nofork", "--nopidfile", "--print-address=1")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	end = sync.OnceFunc(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	t.Cleanup(end)
	if _, err := out.Read(make([]byte, 256)); err != nil { // it listens once it has printed
		t.Fatal(err)
	}
	conn, err = dbus.Connect(address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if d == nil {
		return address, conn, end
	}
	if err := conn.Export(d, object, service); err != nil {
		t.Fatal(err)
	}
	if reply, err := conn.RequestName(service, dbus.NameFlagDoNotQueue); err != nil || reply != dbus.RequestNameReplyPrimaryOwner {
		t.Fatalf("got %v %v for the name of the service", reply, err)
	}
	return address, conn, end
}

// penstock answers with a status and what it has denied.
type penstock struct {
	mu     sync.Mutex // guards below
	status control.Status
	denied []control.Flow
}

func (p *penstock) change(f func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f()
}
func (p *penstock) Status(context.Context) (control.Status, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.status, nil
}
func (*penstock) Reload(context.Context, control.ReloadQuery) (control.Reloaded, error) {
	return control.Reloaded{}, control.ErrNotOffered
}
func (*penstock) Drain(context.Context, control.DrainOrder) error { return control.ErrNotOffered }
func (p *penstock) Flows(_ context.Context, q control.FlowQuery) ([]control.Flow, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !q.Denied || q.Limit == 0 || q.Since.IsZero() {
		return nil, fmt.Errorf("got the query %+v, want a bounded one", q)
	}
	return slices.Clone(p.denied), nil
}
func (*penstock) KillFlow(context.Context, string) error { return control.ErrNotOffered }
func (*penstock) Explain(_ context.Context, q control.ExplainQuery) (control.Explanation, error) {
	return control.Explanation{Target: q.Target, Verdict: "block", Because: "category gambling"}, nil
}
func (*penstock) Rules(context.Context) (control.Rules, error) { return control.Rules{}, nil }
func (*penstock) Allow(context.Context, control.AllowQuery) (control.Allowed, error) {
	return control.Allowed{}, control.ErrNotOffered
}

// serve serves p until the test ends.
func serve(t *testing.T, p *penstock) (socket string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "notices-") // the path of a socket is short
	if err != nil {
		t.Fatal(err)
	}
	socket = filepath.Join(dir, "s")
	server, err := control.New(control.Config{Socket: socket, Process: p, Flows: p, Policy: p})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- server.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := errors.Join(<-done, os.RemoveAll(dir)); err != nil {
			t.Error(err)
		}
	})
	return socket
}

// next is the next notice.
func (d *desk) next(t *testing.T) shown {
	t.Helper()
	select {
	case n := <-d.got:
		return n
	case <-time.After(20 * time.Second):
		t.Fatal("there was no notice")
		return shown{}
	}
}

func TestADesktopIsTold(t *testing.T) {
	d := &desk{can: []string{"actions", "body", "body-markup"}, got: make(chan shown, 100)}
	address, bus, end := sessionBus(t, d)
	p := &penstock{status: control.Status{State: "connected", Verdict: "connected via corp", Started: time.Now()}}
	socket := serve(t, p)
	config := Config{
		Dial:    func(ctx context.Context) (*control.Client, error) { return control.Dial(ctx, socket) },
		Explain: func(x control.Explanation) string { return x.Target + " is blocked: " + x.Because + "\n" },
		Bus:     address, Log: slog.New(slog.DiscardHandler),
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- Run(ctx, config) }()
	p.change(func() { // when it looks first or later
		now := time.Now().Add(10 * time.Second)
		p.denied = []control.Flow{{ID: "q1", Proto: "dns", Host: "casino<b>.example\x1b[2J", Verdict: "block", Rule: "no-gambling", Category: "gambling", Start: now, End: now}}
	})
	n := d.next(t)
	if n.App != "penstock" || n.Title != "casino<b>.example?[2J is blocked" || n.Body != "by rule no-gambling (gambling)" || !slices.Equal(n.Actions, []string{why, "Why?"}) {
		t.Errorf("got %+v", n)
	}
	if err := Run(t.Context(), config); !errors.Is(err, ErrRunsAlready) {
		t.Errorf("a second one: got %v, want that one runs", err)
	}
	for _, body := range [][]any{{uint32(99), why}, {uint32(1), "other"}, {uint32(1)}, {"1", why}, {uint32(1), why}} { // only the last is ours
		if err := bus.Emit(object, service+".ActionInvoked", body...); err != nil {
			t.Fatal(err)
		}
	}
	n = d.next(t)
	if n.Replaces != 1 || n.Title != "Why casino<b>.example?[2J is blocked" || !strings.Contains(n.Body, "casino&lt;b&gt;.example?[2J is blocked: category gambling") || len(n.Actions) > 0 {
		t.Errorf("got %+v for why", n)
	}
	p.change(func() {
		p.status.Transports = []control.TransportStatus{{Name: "corp", SignIn: "https://login.example/?a&b"}}
	})
	if n = d.next(t); n.Title != "Sign in to corp" || n.Body != "https://login.example/?a&amp;b\nRun: penstock login corp" || len(n.Actions) > 0 {
		t.Errorf("got %+v for a sign-in", n)
	}
	select {
	case n := <-d.got:
		t.Errorf("got %+v, which is one too many", n)
	default:
	}
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	go func() { ended <- Run(t.Context(), config) }()
	d.next(t) // the sign-in again
	end()
	if err := <-ended; err == nil {
		t.Error("it goes on after its session has ended")
	}
}

func TestWithoutADesktopThereIsAnError(t *testing.T) {
	address, bus, _ := sessionBus(t, nil)
	if err := Run(t.Context(), Config{Bus: address}); err == nil || !strings.Contains(err.Error(), "this desktop shows no notices") {
		t.Errorf("got %v", err)
	}
	if err := Run(t.Context(), Config{Bus: address + "-nowhere"}); err == nil || !strings.Contains(err.Error(), "session bus") {
		t.Errorf("got %v", err)
	}
	bus.Close()
}
