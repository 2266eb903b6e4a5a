package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"penstock/cmd/internal/control"
)

// office is a penstock with the transports corp and lab, whose servers ask their user.
type office struct {
	fake
	opened chan string // pages in a browser
	via    string      // where the rules send pages; empty: outside

	mu    sync.Mutex // guards below
	is    map[string]control.TransportStatus
	asks  map[string]control.SignIn
	calls []string
	then  func(call string) // what a call leads to; is called with mu held
}

func newOffice() *office {
	return &office{
		opened: make(chan string, 1), asks: make(map[string]control.SignIn), then: func(string) {},
		is: map[string]control.TransportStatus{
			"corp": {Name: "corp", Kind: "openvpn", State: "connecting"}, "lab": {Name: "lab", Kind: "openvpn", State: "connected"},
			"best": {Name: "best", Kind: "failover", State: "connecting", Active: "corp"},
		},
	}
}

// becomesLocked gives a transport a state and a reason.
func (o *office) becomesLocked(name, state, why string) {
	t := o.is[name]
	t.State, t.Error, t.Since, t.SignInID = state, why, time.Now(), 0
	o.is[name] = t
	delete(o.asks, name)
	if state == "waiting" && why != "" {
		o.asks[name] = control.SignIn{Again: true, Why: why}
	}
}

// askLocked makes the server of a transport ask.
func (o *office) askLocked(name string, s control.SignIn) {
	o.becomesLocked(name, "waiting", "")
	t := o.is[name]
	t.SignInID = s.ID
	o.is[name], o.asks[name] = t, s
}

func (o *office) called(format string, args ...any) {
	call := fmt.Sprintf(format, args...)
	o.mu.Lock()
	defer o.mu.Unlock()
	o.calls = append(o.calls, call)
	o.then(call)
}

func (o *office) Status(context.Context) (control.Status, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return control.Status{State: "waiting", Started: time.Now(), Transports: []control.TransportStatus{o.is["best"], o.is["corp"], o.is["lab"]}}, nil
}

func (o *office) SignIns(_ context.Context, q control.Steer) ([]control.SignIn, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	var list []control.SignIn
	for _, name := range []string{"corp", "lab"} {
		if s, ok := o.asks[name]; ok && (q.Name == "" || q.Name == name) {
			s.Transport, s.Needed = name, true
			list = append(list, s)
		}
	}
	return list, nil
}

func (o *office) Answer(_ context.Context, q control.AnswerQuery) error {
	o.mu.Lock()
	late := q.ID != o.is[q.Transport].SignInID
	o.mu.Unlock()
	if late {
		return errors.New("the server asks something else by now")
	}
	o.called("answer %s %d %s", q.Transport, q.ID, q.Answer)
	return nil
}

func (o *office) Reconnect(_ context.Context, q control.Steer) error {
	o.called("reconnect %s", q.Name)
	return nil
}

func (o *office) Explain(_ context.Context, q control.ExplainQuery) (control.Explanation, error) {
	if o.via == "" || q.Target != "https://sso.example/" {
		return control.Explanation{Verdict: "direct"}, nil
	}
	return control.Explanation{Verdict: "via", Via: o.via, Rule: "rest"}, nil
}

// login runs penstock login.
func (o *office) login(ctx context.Context, t *testing.T, socket, stdin string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	e := &env{
		stdin: strings.NewReader(stdin), stdout: &out, stderr: &errs, getenv: func(string) string { return "" },
		open: func(_ context.Context, page string) error { o.called("open %s", page); return nil },
	}
	code = execute(ctx, e, append(append([]string{"login"}, args...), "--socket", socket))
	return code, out.String(), errs.String()
}

func TestLoginLeadsThroughWhatAServerAsks(t *testing.T) {
	const page = "https://sso.example/login?state=4711"
	web, code := control.SignIn{ID: 1, URL: page}, control.SignIn{ID: 1, Question: "Code"}
	again := control.SignIn{ID: 2, Question: "Code", Why: `the server did not take the last answer`}
	for _, row := range []struct {
		name, stdin, args string
		begin             func(o *office)
		then              func(o *office, call string)
		code              int
		stdout            string
		stderr            []string
		calls             []string
	}{
		{
			"a page is opened, and the server lets its user in", "", "",
			func(o *office) { o.askLocked("corp", web) },
			func(o *office, call string) { o.becomesLocked("corp", "connected", "") },
			0, page + "\n", []string{"corp: waiting until you have signed in there\n", "corp: signed in\n"}, []string{"open " + page},
		},
		{
			"the rules send the page to where it cannot be reached", "", "corp",
			func(o *office) { o.via = "best"; o.askLocked("corp", web) },
			func(o *office, call string) { o.becomesLocked("corp", "connected", "") },
			0, page + "\n", []string{"rule rest sends sso.example through corp, which is not up before you have signed in"}, []string{"open " + page},
		},
		{
			"only the URL is wanted", "", "--print",
			func(o *office) { o.askLocked("corp", web) }, nil,
			0, page + "\n", nil, nil,
		},
		{
			"after the page the server asks for a code, too", "42\n", "",
			func(o *office) { o.askLocked("corp", web) },
			func(o *office, call string) {
				if o.askLocked("corp", control.SignIn{ID: 2, Question: "Code"}); call == "answer corp 2 42" {
					o.becomesLocked("corp", "connected", "")
				}
			},
			0, page + "\n", []string{"Code: \ncorp: signed in\n"}, []string{"open " + page, "answer corp 2 42"},
		},
		{
			"a wrong code is asked for again", "41\n42\n", "",
			func(o *office) { o.askLocked("corp", code) },
			func(o *office, call string) {
				if o.askLocked("corp", again); call == "answer corp 2 42" {
					o.becomesLocked("corp", "connected", "")
				}
			},
			0, "", []string{"Code: \ncorp: the server did not take the last answer\nCode: \ncorp: signed in\n"}, []string{"answer corp 1 41", "answer corp 2 42"},
		},
		{
			"and there is no other", "41\n", "",
			func(o *office) { o.askLocked("corp", code) },
			func(o *office, call string) { o.askLocked("corp", again) },
			1, "", []string{"corp: the server did not take the last answer\n", "there is no answer on the standard input"}, []string{"answer corp 1 41"},
		},
		{
			"the server refuses, and a script is told why", "41\n42\n", "",
			func(o *office) { o.askLocked("corp", code) },
			func(o *office, call string) { o.becomesLocked("corp", "waiting", `the server refuses: "no"`) },
			1, "", []string{`corp: the server refuses: "no"; to try again: penstock login corp`}, []string{"answer corp 1 41"},
		},
		{
			"the server's time is over", "", "",
			func(o *office) { o.askLocked("corp", web) },
			func(o *office, call string) {
				o.becomesLocked("corp", "waiting", "nobody has signed in within the server's 1m0s")
			},
			1, page + "\n", []string{"corp: nobody has signed in within the server's 1m0s; to try again: penstock login corp"}, []string{"open " + page},
		},
		{
			"where nobody answered, the server asks again", "42\n", "",
			func(o *office) { o.becomesLocked("corp", "waiting", "nobody has signed in") },
			func(o *office, call string) {
				if o.askLocked("corp", code); call == "answer corp 1 42" {
					o.becomesLocked("corp", "connected", "")
				}
			},
			0, "", []string{"corp: nobody has signed in\nCode: \ncorp: signed in\n"}, []string{"reconnect corp", "answer corp 1 42"},
		},
		{
			"also where it had refused a password", "", "",
			func(o *office) {
				o.becomesLocked("corp", "blocked", "wrong")
				t := o.is["corp"]
				t.Reason = "auth_failed"
				o.is["corp"] = t
			},
			func(o *office, call string) { o.becomesLocked("corp", "connected", "") },
			0, "", []string{"corp: wrong\ncorp: signed in\n"}, []string{"reconnect corp"},
		},
		{
			"of several one must be named", "42\n", "",
			func(o *office) { o.askLocked("corp", code); o.askLocked("lab", web) }, nil,
			exitUsage, "", []string{"corp and lab want their users to sign in: name one, as in: penstock login corp"}, nil,
		},
		{
			"the one that is named", "42\n", "corp",
			func(o *office) { o.askLocked("corp", code); o.askLocked("lab", web) },
			func(o *office, call string) { o.becomesLocked("corp", "connected", "") },
			0, "", []string{"corp: signed in\n"}, []string{"answer corp 1 42"},
		},
		{
			"the transport is taken down meanwhile", "", "",
			func(o *office) { o.askLocked("corp", web) },
			func(o *office, call string) { o.becomesLocked("corp", "down", "") },
			1, page + "\n", []string{"corp is down"}, []string{"open " + page},
		},
		{
			"a page that is none", "", "",
			func(o *office) { o.askLocked("corp", control.SignIn{ID: 1, URL: "file:///etc/passwd"}) }, nil,
			1, "", []string{`"file:///etc/passwd" is not the URL of a page`}, nil,
		},
	} {
		t.Run(row.name, func(t *testing.T) {
			o := newOffice()
			row.begin(o)
			o.then = func(call string) {
				if row.then != nil {
					row.then(o, call)
				}
			}
			socket := serveAll(t, control.Config{Process: o, Flows: o, Policy: o, Transports: o})
			got, stdout, stderr := o.login(t.Context(), t, socket, row.stdin, strings.Fields(row.args)...)
			if got != row.code || stdout != row.stdout {
				t.Errorf("got code %d and %q, want %d and %q; stderr:\n%s", got, stdout, row.code, row.stdout, stderr)
			}
			for _, want := range row.stderr {
				if !strings.Contains(stderr, want) {
					t.Errorf("stderr: got %q, want %q in it", stderr, want)
				}
			}
			if !slices.Equal(o.calls, row.calls) {
				t.Errorf("calls: got %q, want %q", o.calls, row.calls)
			}
		})
	}
}

func TestTwoLoginsAtOnce(t *testing.T) {
	o := newOffice()
	o.askLocked("corp", control.SignIn{ID: 1, Question: "Code"})
	o.then = func(string) { o.becomesLocked("corp", "connected", "") }
	socket := serveAll(t, control.Config{Process: o, Flows: o, Policy: o, Transports: o})
	read := make(chan struct{})
	typed := make(chan string)
	late := &env{
		stdin: lineReader{read, typed}, stdout: new(bytes.Buffer), stderr: new(bytes.Buffer), getenv: func(string) string { return "" },
	}
	second := make(chan int, 1)
	go func() { second <- execute(t.Context(), late, []string{"login", "--socket", socket}) }()
	<-read // it asks its user
	if code, _, stderr := o.login(t.Context(), t, socket, "42\n"); code != 0 {
		t.Errorf("the first: got code %d: %s", code, stderr)
	}
	typed <- "43\n"
	if code := <-second; code != exitFailure {
		t.Errorf("the second: got code %d: %s", code, late.stderr)
	}
	if want := []string{"answer corp 1 42"}; !slices.Equal(o.calls, want) {
		t.Errorf("calls: got %q, want %q", o.calls, want)
	}
}

// lineReader says when somebody reads, and gives what comes.
type lineReader struct {
	read  chan<- struct{}
	lines <-chan string
}

func (l lineReader) Read(p []byte) (int, error) {
	l.read <- struct{}{}
	return copy(p, <-l.lines), nil
}

func TestALoginEndsWhenItIsInterrupted(t *testing.T) {
	o := newOffice()
	o.askLocked("corp", control.SignIn{ID: 1, URL: "https://sso.example/"})
	ctx, interrupt := context.WithCancel(t.Context())
	o.then = func(string) { interrupt() } // while the browser opens
	socket := serveAll(t, control.Config{Process: o, Flows: o, Policy: o, Transports: o})
	if code, _, stderr := o.login(ctx, t, socket, ""); code == 0 {
		t.Errorf("got code 0: %s", stderr)
	}
}
