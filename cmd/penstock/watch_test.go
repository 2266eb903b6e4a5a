package main

import (
	"bytes"
	"context"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"penstock/cmd/internal/control"
)

// output cancels once it has so many lines.
type output struct {
	bytes.Buffer
	lines int
	done  context.CancelFunc
}

func (o *output) Write(p []byte) (int, error) {
	n, err := o.Buffer.Write(p)
	if bytes.Count(o.Bytes(), []byte("\n")) >= o.lines {
		o.done()
	}
	return n, err
}

// watch runs a command against a daemon until it has printed so many lines, and returns them.
func watch(t *testing.T, config control.Config, lines int, args ...string) []string {
	t.Helper()
	config.Socket = filepath.Join(t.TempDir(), "control.sock")
	server, err := control.New(config)
	if err != nil {
		t.Fatal(err)
	}
	serving, stop := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- server.Run(serving) }()
	defer func() {
		stop()
		if err := <-served; err != nil {
			t.Errorf("daemon: %v", err)
		}
	}()
	ctx, done := context.WithCancel(t.Context())
	defer done()
	out := &output{lines: lines, done: done}
	var stderr bytes.Buffer
	e := &env{stdin: strings.NewReader(""), stdout: out, stderr: &stderr, getenv: func(string) string { return "" }, socket: config.Socket}
	if code := execute(ctx, e, append(args, "--socket", config.Socket)); code != exitOK {
		t.Errorf("got exit code %d, want 0; stderr: %s", code, stderr.String())
	}
	return strings.Split(strings.TrimSpace(out.String()), "\n")
}

// changing is a penstock whose status and flows are those of the functions.
type changing struct {
	fake
	status func() control.Status
	flows  func(control.FlowQuery) []control.Flow
}

func (c changing) Status(context.Context) (control.Status, error) { return c.status(), nil }

func (c changing) Flows(_ context.Context, q control.FlowQuery) ([]control.Flow, error) {
	return c.flows(q), nil
}

func TestStatusWatchPrintsChangesOnly(t *testing.T) {
	states := []string{"connecting", "connecting", "connected"}
	var asked atomic.Int32
	got := watch(t, control.Config{Process: changing{status: func() control.Status {
		state := states[min(int(asked.Add(1)), len(states))-1]
		return control.Status{State: state, Verdict: state + " via corp", Transports: []control.TransportStatus{{Name: "corp", State: state}, {Name: "lab", State: "down"}}}
	}}}, 3, "status", "-w")
	for i, want := range []string{` connecting via corp$`, ` connected via corp, after \d\S*$`, ` corp: connected$`} {
		if len(got) != 3 || !regexp.MustCompile(want).MatchString(got[i]) {
			t.Errorf("got %q, want line %d like %q", got, i, want)
		}
	}
}

func TestFlowsWatchPrintsEachBeginAndEnd(t *testing.T) {
	start := time.Now()
	var asked atomic.Int32
	got := watch(t, control.Config{Flows: changing{flows: func(q control.FlowQuery) []control.Flow {
		if !q.Recent {
			t.Error("the watch did not ask for finished flows")
		}
		f := control.Flow{ID: "f1", Proto: "tcp", Src: "a", Dst: "b", Verdict: "direct", Rule: "rest", Start: start}
		if asked.Add(1) > 2 {
			f.End, f.Reason = start.Add(time.Second), "quota: the peer has used up its quota of this month"
		}
		return []control.Flow{f}
	}}}, 2, "flows", "-w")
	for i, want := range []string{"begin f1 tcp a -> b", "end   f1 tcp a -> b"} {
		if len(got) != 2 || !strings.Contains(got[i], want) || strings.HasSuffix(got[i], "down: quota: the peer has used up its quota of this month") != (i == 1) {
			t.Errorf("got %q, want line %d to have %q", got, i, want)
		}
	}
}
