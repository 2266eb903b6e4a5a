package main

import (
	"bytes"
	"context"
	"errors"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"penstock/cmd/internal/control"
)

// hostile is what a stranger can make a name, a record or an error of: it would clear the screen, set the window's title,
// turn the text round and begin a line of its own.
const hostile = "x\x1b[2J\x1b]0;owned\x07\u202e\nINJECTED"

// fill puts hostile text into every string of a value, one element into every list, and times and numbers into the rest.
func fill(v reflect.Value, depth int) {
	switch {
	case depth > 4:
	case v.Type() == reflect.TypeFor[time.Time]():
		v.Set(reflect.ValueOf(time.Now()))
	case v.Kind() == reflect.String:
		v.SetString(hostile)
	case v.Kind() == reflect.Struct:
		for i := range v.NumField() {
			fill(v.Field(i), depth+1)
		}
	case v.Kind() == reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		fill(v.Index(0), depth+1)
		fill(v.Index(1), depth+1)
	case v.Kind() == reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem(), depth+1)
	}
}

// filled returns a value that is full of hostile text.
func filled[T any]() (out T) {
	fill(reflect.ValueOf(&out).Elem(), 0)
	return out
}

// hostilePenstock answers with hostile text, or fails with it.
type hostilePenstock struct{ fails bool }

func answer[T any](p hostilePenstock) (T, error) {
	if p.fails {
		var none T
		return none, errors.New("no: " + hostile)
	}
	return filled[T](), nil
}

func done(p hostilePenstock) error {
	_, err := answer[struct{}](p)
	return err
}

func (p hostilePenstock) Status(context.Context) (control.Status, error) {
	return answer[control.Status](p)
}
func (p hostilePenstock) Drain(context.Context, control.DrainOrder) error { return nil }

func (p hostilePenstock) Reload(context.Context, control.ReloadQuery) (control.Reloaded, error) {
	return answer[control.Reloaded](p)
}
func (p hostilePenstock) Flows(context.Context, control.FlowQuery) ([]control.Flow, error) {
	return answer[[]control.Flow](p)
}
func (p hostilePenstock) Explain(context.Context, control.ExplainQuery) (control.Explanation, error) {
	return answer[control.Explanation](p)
}
func (p hostilePenstock) Rules(context.Context) (control.Rules, error) {
	return answer[control.Rules](p)
}
func (p hostilePenstock) Block(context.Context, control.BlockQuery) (control.Blocked, error) {
	return answer[control.Blocked](p)
}
func (p hostilePenstock) Decisions(context.Context) (control.Decisions, error) {
	return answer[control.Decisions](p)
}
func (p hostilePenstock) RemoveDecision(context.Context, control.DecisionRemoval) (control.DecisionRemoved, error) {
	return answer[control.DecisionRemoved](p)
}
func (p hostilePenstock) Allow(context.Context, control.AllowQuery) (control.Allowed, error) {
	return answer[control.Allowed](p)
}
func (p hostilePenstock) DNSQuery(context.Context, control.DNSQuery) (control.DNSAnswer, error) {
	return answer[control.DNSAnswer](p)
}
func (p hostilePenstock) Lists(context.Context) ([]control.ListStatus, error) {
	return answer[[]control.ListStatus](p)
}
func (p hostilePenstock) ListLookup(context.Context, string) ([]control.ListHit, error) {
	return answer[[]control.ListHit](p)
}
func (p hostilePenstock) SignIns(context.Context, control.Steer) ([]control.SignIn, error) {
	return answer[[]control.SignIn](p)
}
func (p hostilePenstock) Answer(context.Context, control.AnswerQuery) error { return done(p) }
func (p hostilePenstock) SignOut(context.Context, string) error             { return done(p) }
func (p hostilePenstock) SetPeerAccess(context.Context, control.PeerAccess) error {
	return done(p)
}

func (p hostilePenstock) Peers(context.Context) ([]control.PeerStatus, error) {
	return answer[[]control.PeerStatus](p)
}
func (p hostilePenstock) KillFlow(context.Context, string) error         { return done(p) }
func (p hostilePenstock) Up(context.Context, control.Steer) error        { return done(p) }
func (p hostilePenstock) Down(context.Context, control.Steer) error      { return done(p) }
func (p hostilePenstock) Reconnect(context.Context, control.Steer) error { return done(p) }
func (p hostilePenstock) DNSFlush(context.Context) error                 { return done(p) }
func (p hostilePenstock) ListRefresh(context.Context) error              { return done(p) }
func (p hostilePenstock) PeerQuotaReset(context.Context, string) error   { return done(p) }

// TestNoCommandLetsStrangersControlTheTerminal runs every command that asks a penstock.
func TestNoCommandLetsStrangersControlTheTerminal(t *testing.T) {
	commands := []string{
		"status", "flows", "flows kill f1", "explain x.bet", "explain --flow 1", "rules", "reload", "reload --kill-denied", "allow x.bet --for 1m",
		"allow x.bet --always --dry-run", "block x.bet --always", "decisions", "decisions rm x.bet", "decisions rm x.bet --dry-run", "pause 5m", "resume",
		"up", "down corp", "reconnect", "dns query x.bet", "dns flush", "lists", "lists refresh", "lists lookup x.bet", "login --print", "peer list",
		"peer quota reset ana", "peer sign-out ana",
	}
	for _, fails := range []bool{false, true} {
		p := hostilePenstock{fails}
		socket := serveAll(t, control.Config{Process: p, Flows: p, Policy: p, Decisions: p, Transports: p, DNS: p, Lists: p, Peers: p})
		for _, line := range commands {
			for _, flag := range []string{"", "--json"} {
				var out, errs bytes.Buffer
				e := &env{stdin: strings.NewReader(""), stdout: &out, stderr: &errs, getenv: func(string) string { return "" }}
				args := append(strings.Fields(line), "--socket", socket)
				if flag != "" {
					args = append(args, flag)
				}
				code := execute(t.Context(), e, args)
				if code == exitUsage {
					if flag == "" {
						t.Errorf("%s: %s", line, errs.String())
					}
					continue // not every command has --json
				}
				for stream, text := range map[string]string{"stdout": out.String(), "stderr": errs.String()} {
					if i := strings.IndexFunc(text, func(r rune) bool { return r != '\n' && r != '\t' && printable(string(r)) != string(r) }); i >= 0 {
						t.Errorf("%s %s: %s has the character %q: %q", line, flag, stream, text[i:i+1], text)
					}
					if strings.Contains(text, "\nINJECTED") {
						t.Errorf("%s %s: a stranger began a line of %s: %q", line, flag, stream, text)
					}
				}
				if fails && (out.Len() > 0 || !strings.HasPrefix(errs.String(), "penstock: no: x")) {
					t.Errorf("%s %s: got stdout %q and stderr %q, want the error alone", line, flag, out.String(), errs.String())
				}
				if fails && code != exitFailure {
					t.Errorf("%s %s: got exit code %d, want 1", line, flag, code)
				}
				if !fails && flag != "" && (strings.Count(out.String(), "\n") != 1 || !strings.HasPrefix(out.String(), `{"apiVersion":"penstock/v1",`)) {
					t.Errorf("%s %s: got %q, want one value on one line with its version", line, flag, out.String())
				}
			}
		}
	}
}

// serveAll serves a penstock until the test ends, and returns its socket.
func serveAll(t *testing.T, config control.Config) string {
	t.Helper()
	config.Socket = filepath.Join(t.TempDir(), "control.sock")
	server, err := control.New(config)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- server.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-served; err != nil {
			t.Errorf("daemon: %v", err)
		}
	})
	return config.Socket
}
