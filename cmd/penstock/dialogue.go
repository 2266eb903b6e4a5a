package main

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/term"

	"penstock/cmd/internal/control"
)

const (
	lookAgain    = 200 * time.Millisecond // while a server makes up its mind
	connectLimit = time.Minute            // for a server to ask or to let its user in; while it waits for the user, it has its own
	explainLimit = 5 * time.Second        // it may ask a DNS server that is not reached
	wrongAnswers = 3                      // on a terminal, where a person can try again
)

// dialogue leads a person through what the server of an OpenVPN transport asks.
type dialogue struct {
	*env
	client    *control.Client
	show      func(page string) error
	printOnly bool
	in        *bufio.Reader
}

// outcome is what a transport is after something was answered.
type outcome struct {
	state, reason string
	since         time.Time
}

func outcomeOf(t control.TransportStatus) outcome { return outcome{t.State, t.Error, t.Since} }

// run asks for what the server asks, until it is content, refuses, or waits for its user no longer.
func (d *dialogue) run(ctx context.Context, s control.SignIn) error {
	for wrong := 0; ; {
		before, err := d.transport(ctx, s.Transport)
		if err != nil {
			return err
		}
		if s.Why != "" {
			fmt.Fprintf(d.stderr, "%s: %s\n", s.Transport, s.Why)
		}
		switch {
		case s.Question != "" && d.printOnly:
			fmt.Fprintf(d.stderr, "%s: its server asks: %s\n", s.Transport, s.Question)
			return nil
		case s.Question != "":
			err = d.answer(ctx, s)
		case s.URL != "":
			if err = d.page(ctx, s); err == nil && d.printOnly {
				return nil
			}
		default:
			err = d.client.Reconnect(ctx, control.Steer{Name: s.Transport})
		}
		if err != nil {
			return err
		}
		next, err := d.await(ctx, s, outcomeOf(before))
		var refused *refusedError
		if wrong++; errors.As(err, &refused) && s.Question != "" && wrong < wrongAnswers && d.terminal() {
			next, err = &control.SignIn{Transport: s.Transport, Again: true, Why: refused.why}, nil
		}
		if err != nil || next == nil {
			return err
		}
		s = *next
	}
}

// page shows the page on which to sign in.
func (d *dialogue) page(ctx context.Context, s control.SignIn) error {
	if err := d.show(s.URL); err != nil || d.printOnly {
		return err
	}
	d.warn(ctx, s)
	fmt.Fprintf(d.stderr, "%s: waiting until you have signed in there\n", s.Transport)
	return nil
}

// warn says so if the rules send the page through the transport that waits for it.
func (d *dialogue) warn(ctx context.Context, s control.SignIn) {
	u, err := url.Parse(s.URL)
	if err != nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, explainLimit)
	defer cancel()
	x, err := d.client.Explain(ctx, control.ExplainQuery{Target: u.Scheme + "://" + u.Host + "/"}) // the rest may be a secret
	if err != nil || x.Verdict != "via" {
		return // nothing is known, or it is not by way of a transport
	}
	via, err := d.transport(ctx, x.Via)
	if err == nil && (via.Name == s.Transport || via.Active == s.Transport) {
		fmt.Fprintf(d.stderr, "rule %s sends %s through %s, which is not up before you have signed in: a rule above it with do: direct for this host lets a browser of this machine open the page\n",
			printable(x.Rule), u.Host, s.Transport)
	}
}

// answer reads what the server asks, and passes it on.
func (d *dialogue) answer(ctx context.Context, s control.SignIn) error {
	q := control.AnswerQuery{Transport: s.Transport, ID: s.ID, User: s.User}
	var err error
	if s.NeedUser {
		fmt.Fprintf(d.stderr, "User name for %s: ", s.Transport)
		if q.User, err = d.read(ctx, true); q.User == "" {
			return errors.Join(errors.New("there is no user name on the standard input"), unlessEOF(err))
		}
	}
	fmt.Fprintf(d.stderr, "%s: ", s.Question)
	if q.Answer, err = d.read(ctx, s.Echo); q.Answer == "" {
		return errors.Join(errors.New("there is no answer on the standard input"), unlessEOF(err))
	}
	if !d.terminal() {
		fmt.Fprintln(d.stderr) // what was typed is not shown there
	}
	_, err = control.Ask[control.Done](ctx, d.client, "answer", q)
	return err
}

func unlessEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// terminal reports whether a person types.
func (d *dialogue) terminal() bool {
	f, ok := d.stdin.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// read reads a line, which a terminal shows if echo is true. If ctx ends first, the terminal is as it was before; what reads from it
// ends with the process.
func (d *dialogue) read(ctx context.Context, echo bool) (string, error) {
	read := func() (string, error) { return d.in.ReadString('\n') }
	restore := func() {}
	if d.terminal() && !echo {
		fd := int(d.stdin.(*os.File).Fd())
		state, err := term.GetState(fd)
		if err != nil {
			return "", err
		}
		restore = func() { _ = term.Restore(fd, state) } // best effort on the way out
		read = func() (string, error) {
			secret, err := term.ReadPassword(fd)
			fmt.Fprintln(d.stderr)
			return string(secret), err
		}
	}
	type line struct {
		text string
		err  error
	}
	lines := make(chan line, 1)
	go func() {
		text, err := read()
		lines <- line{text, err}
	}()
	select {
	case l := <-lines:
		return strings.TrimRight(l.text, "\r\n"), l.err
	case <-ctx.Done():
		restore()
		return "", ctx.Err()
	}
}

// refusedError says that the transport is stuck until somebody signs in again.
type refusedError struct{ name, why string }

func (e *refusedError) Error() string {
	return fmt.Sprintf("%s: %s; to try again: penstock login %s", e.name, e.why, e.name)
}

// await waits for what comes of an answer: it returns the server's next question, nil once the server has let its user in, or an error
// if it has not. Before is how the transport was when the answer was given.
func (d *dialogue) await(ctx context.Context, asked control.SignIn, before outcome) (*control.SignIn, error) {
	name := asked.Transport
	for begun := time.Now(); ; {
		t, err := d.transport(ctx, name)
		if err != nil {
			return nil, err
		}
		stuck := t.State == "blocked" || t.State == "waiting" && t.SignInID == 0 && t.Error != ""
		switch {
		case t.State == "connected":
			fmt.Fprintf(d.stderr, "%s: signed in\n", name)
			return nil, nil
		case t.SignInID != 0 && t.SignInID != asked.ID:
			if next, err := d.question(ctx, name); next != nil || err != nil {
				return next, err
			}
		case stuck && outcomeOf(t) != before:
			return nil, &refusedError{name, t.Error}
		case t.State == "down" || t.State == "offline" || t.State == "quiesced":
			return nil, fmt.Errorf("%s is %s: penstock status says more", name, t.State)
		case t.State == "waiting" && !stuck:
			begun = time.Now() // the server's time
		case time.Since(begun) > connectLimit:
			return nil, fmt.Errorf("%s is still %s: %s", name, t.State, cmp.Or(t.Error, "penstock status says more"))
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(lookAgain):
		}
	}
}

// question returns what a transport's server asks now, or nil.
func (d *dialogue) question(ctx context.Context, name string) (*control.SignIn, error) {
	answer, err := d.client.SignIns(ctx, control.Steer{Name: name})
	if err != nil {
		return nil, err
	}
	list := plain(answer).SignIns
	i := slices.IndexFunc(list, func(s control.SignIn) bool { return s.ID != 0 })
	if i < 0 {
		return nil, nil
	}
	return &list[i], nil
}

// transport returns how a transport is.
func (d *dialogue) transport(ctx context.Context, name string) (control.TransportStatus, error) {
	status, err := d.client.Status(ctx)
	if err != nil {
		return control.TransportStatus{}, err
	}
	list := plain(status).Transports
	i := slices.IndexFunc(list, func(t control.TransportStatus) bool { return t.Name == name })
	if i < 0 {
		return control.TransportStatus{}, fmt.Errorf("there is no transport %q: \"penstock status\" lists them", name)
	}
	return list[i], nil
}
