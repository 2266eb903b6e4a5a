package jetstream

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"penstock/cmd/internal/fleet/store"
)

// link is one connection, from its handshake to its end.
type link struct {
	nc   *nats.Conn
	js   jetstream.JetStream
	ctx  context.Context // ends when the connection is gone
	lose context.CancelCauseFunc

	mu      sync.Mutex // guards below
	asking  map[*question]struct{}
	streams map[string]jetstream.Stream // by name, as they were found
}

// question is something that the server was asked, and may forbid.
type question struct {
	subject string // that it is published on; one * stands for any text
	cancel  context.CancelCauseFunc
}

// denied finds the kind and the subject in a complaint of a server.
var denied = regexp.MustCompile(`for (Publish|Subscription) to "([^"]+)"`)

func newLink(ctx context.Context) *link {
	ctx, lose := context.WithCancelCause(ctx)
	return &link{ctx: ctx, lose: lose, asking: make(map[*question]struct{}), streams: make(map[string]jetstream.Stream)}
}

func (l *link) options() []nats.Option {
	return []nats.Option{
		nats.ClosedHandler(func(*nats.Conn) { l.lose(errLost) }),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			if errors.Is(err, nats.ErrPermissionViolation) {
				l.forbid(err.Error())
			}
		}),
	}
}

// use begins the use of a connection.
func (l *link) use(nc *nats.Conn) (err error) {
	l.nc = nc
	if l.js, err = jetstream.New(nc, jetstream.WithDefaultTimeout(apiTime)); err != nil {
		nc.Close()
	}
	return err
}

func (l *link) server() string { return l.nc.ConnectedUrlRedacted() }

// wait returns when the connection is gone, and why. It ends with the context that the link was made with.
func (l *link) wait() error {
	<-l.ctx.Done()
	l.nc.Close()
	if err := l.nc.LastError(); err != nil {
		return err
	}
	return errLost
}

var errLost = errors.New("the connection to NATS was lost")

// ask runs f, which asks something on a subject. It ends when the server forbids that or the connection is lost.
func (l *link) ask(ctx context.Context, subject string, f func(context.Context) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	q := &question{subject, cancel}
	l.mu.Lock()
	l.asking[q] = struct{}{}
	l.mu.Unlock()
	defer func() {
		l.mu.Lock()
		delete(l.asking, q)
		l.mu.Unlock()
	}()
	defer context.AfterFunc(l.ctx, func() { cancel(context.Cause(l.ctx)) })()
	err := f(ctx)
	if cause := context.Cause(ctx); err != nil && cause != nil {
		return fmt.Errorf("NATS: %w", cause)
	}
	return err
}

// apiTime is how long a server may take for a question about a stream. In a cluster that has no leader yet, the servers drop them, or the
// answer, so each is asked again after againTime.
const (
	apiTime   = 15 * time.Second
	againTime = 4 * time.Second
)

var (
	errUnanswered = fmt.Errorf("no server has answered within %v", apiTime)
	errAskAgain   = errors.New("no server has answered yet")
)

// askAPI is ask with a bound on how long f takes. f may run several times: what it asks for may have been done already.
func (l *link) askAPI(ctx context.Context, subject string, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, apiTime, errUnanswered)
	defer cancel()
	for {
		once, cancel := context.WithTimeoutCause(ctx, againTime, errAskAgain)
		err := l.ask(once, subject, f)
		cancel()
		if !errors.Is(err, errAskAgain) {
			return err
		}
	}
}

// forbid ends the questions that a server's complaint is about. Without answers no question has a use.
func (l *link) forbid(complaint string) {
	found := denied.FindStringSubmatch(complaint)
	l.mu.Lock()
	defer l.mu.Unlock()
	for q := range l.asking {
		if found == nil || found[1] == "Subscription" || matches(q.subject, found[2]) {
			q.cancel(fmt.Errorf("%w: %s", store.ErrForbidden, strings.TrimPrefix(complaint, "nats: permissions violation: ")))
		}
	}
}

// matches tells whether a subject is that of a pattern with at most one *.
func matches(pattern, subject string) bool {
	before, after, wild := strings.Cut(pattern, "*")
	if !wild {
		return pattern == subject
	}
	return len(subject) >= len(before)+len(after) && strings.HasPrefix(subject, before) && strings.HasSuffix(subject, after)
}

// stream returns a stream, which it makes if there is none. The error is ErrNone if there is none.
func (l *link) stream(ctx context.Context, name string, create func(context.Context) error) (jetstream.Stream, error) {
	l.mu.Lock()
	found := l.streams[name]
	l.mu.Unlock()
	if found != nil {
		return found, nil
	}
	look := func() error {
		return l.askAPI(ctx, "$JS.API.STREAM.INFO."+name, func(ctx context.Context) (err error) {
			found, err = l.js.Stream(ctx, name)
			return err
		})
	}
	err := look()
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		err = l.make(ctx, create)
		switch {
		case errors.Is(err, store.ErrForbidden):
			return nil, fmt.Errorf("%w: the stream %s, and this user may not make it: an operator's user can (%w)", store.ErrNone, name, err)
		case err != nil && !errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) && !errors.Is(err, jetstream.ErrBucketExists):
			return nil, fmt.Errorf("make the stream %s: %w", name, hint(err))
		}
		err = look()
	}
	if err != nil {
		return nil, fmt.Errorf("stream %s: %w", name, hint(err))
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.streams[name] = found
	return found, nil
}

// How long servers that have just started, or come back, may take to know each other, and how often to ask meanwhile.
const (
	meetTime  = 5 * time.Second
	meetEvery = 200 * time.Millisecond
)

// make makes a stream. A server that has not heard of another for a moment takes it for offline, and finds too few for the replicas.
func (l *link) make(ctx context.Context, create func(context.Context) error) (err error) {
	for end := time.Now().Add(meetTime); ; {
		err = l.askAPI(ctx, "$JS.API.*", create) // nats.go asks more than to make it
		var api *jetstream.APIError
		if !errors.As(err, &api) || api.ErrorCode != codePeers || !strings.Contains(api.Description, "offline") || time.Now().After(end) {
			return err
		}
		select {
		case <-time.After(meetEvery):
		case <-ctx.Done():
			return err
		}
	}
}

// withStream runs f with a stream. If that is gone since it was found, it is made, and f runs again. Servers that have just made it, or
// look for a new leader, answer for it a moment later, so f runs for some time.
func (l *link) withStream(ctx context.Context, name string, create func(context.Context) error, f func(jetstream.Stream) error) error {
	for end := time.Now().Add(meetTime); ; {
		s, err := l.stream(ctx, name, create)
		if err != nil {
			return err
		}
		err = f(s)
		if !isGone(err) || time.Now().After(end) {
			return hint(err)
		}
		l.forget(name)
		select {
		case <-time.After(meetEvery):
		case <-ctx.Done():
			return hint(err)
		}
	}
}

// forget lets a stream be looked for again.
func (l *link) forget(name string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.streams, name)
}

// isGone tells whether an error may mean that a stream is not there.
func isGone(err error) bool {
	return errors.Is(err, jetstream.ErrStreamNotFound) || errors.Is(err, jetstream.ErrNoStreamResponse) || errors.Is(err, nats.ErrNoResponders)
}

// hint adds the mend to errors of servers whose own words do not have it.
func hint(err error) error {
	var api *jetstream.APIError
	switch {
	case errors.As(err, &api) && (api.ErrorCode == codeReplicas || api.ErrorCode == codePeers):
		return fmt.Errorf("%w: there are fewer servers than the setting replicas of the store asks for", err)
	case errors.Is(err, jetstream.ErrJetStreamNotEnabled), errors.Is(err, jetstream.ErrJetStreamNotEnabledForAccount):
		return fmt.Errorf("%w: the servers need jetstream in their configuration, and the account, too", err)
	case isGone(err):
		return fmt.Errorf("%w: no server has the stream, or those that have it do not agree on a leader", err)
	}
	return err
}

// Codes of the server's errors that nats.go does not name.
const (
	codePeers    jetstream.ErrorCode = 10005 // no suitable peers for placement
	codeReplicas jetstream.ErrorCode = 10074 // replicas > 1 not supported in non-clustered mode
)
