package jetstream

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"penstock/cmd/internal/fleet/store"
)

const (
	// idleLife is how long a server keeps what it knows of a watch that nobody asks for any more.
	idleLife = 30 * time.Second
	// endedLife is the same for what is read to its end. What is asked for later goes on where it was.
	endedLife = 5 * time.Second
	// beat is how often a server says that a watch is alive. After two beats without that it is asked again: the server that asks for
	// us may not know yet where in the cluster the watch is. After mostMisses of these the watch ends.
	beat       = time.Second
	mostMisses = 10
	askFor     = 30 * time.Second
	// ahead is how many messages a server sends before it is asked for more.
	ahead = 256
)

// words is how many words the keys of a bucket have, where that is known.
func words(b store.Bucket) int {
	switch b {
	case store.Truth:
		return 1
	case store.Peers, store.Joins, store.State:
		return 2
	case store.Sessions:
		return 3
	}
	return 0
}

// filters returns the subjects of the keys that begin with prefix. It is a single one where it can be, because only then a server can
// forbid to read the others.
func filters(b store.Bucket, prefix string) []string {
	if prefix == "" {
		return []string{subjectOf(b, ">")}
	}
	one, below := subjectOf(b, prefix), subjectOf(b, prefix+".>")
	switch n := strings.Count(prefix, ".") + 1; {
	case words(b) == 0:
		return []string{one, below}
	case n >= words(b):
		return []string{one}
	}
	return []string{below}
}

// Watch calls changed with each value of a bucket, and with each change.
func (s *Store) Watch(ctx context.Context, b store.Bucket, prefix string, changed func(store.Entry)) error {
	if prefix != "" {
		if err := store.CheckKey(prefix); err != nil {
			return err
		}
	}
	var ended error
	err := s.at(ctx, b, func(l *link) error {
		w := &watch{changed: changed, above: len(subjectOf(b, ""))}
		err := l.read(ctx, streamOf(b), filters(b, prefix),
			jetstream.ConsumerConfig{DeliverPolicy: jetstream.DeliverLastPerSubjectPolicy}, reading{start: w.start, take: w.take})
		if w.started { // what was told must not be told again by the same watch
			ended = err
			return nil
		}
		return err
	})
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	err = errors.Join(err, ended)
	return fmt.Errorf("watch %s/%s: %w", b, prefix, err)
}

// watch turns the messages of a stream into entries.
type watch struct {
	changed  func(store.Entry)
	above    int    // length of what stands before the key in a subject
	waiting  uint64 // messages that were there at the start, and have not come yet
	started  bool
	complete bool // changed was called with the entry without a key
}

func (w *watch) start(waiting uint64) {
	w.started, w.waiting, w.complete = true, waiting, waiting == 0
	if w.complete {
		w.changed(store.Entry{})
	}
}

func (w *watch) take(m jetstream.Msg, about *jetstream.MsgMetadata) (more bool, err error) {
	e := store.Entry{Key: m.Subject()[w.above:], Version: about.Sequence.Stream}
	if len(m.Data()) > 0 {
		e.Value = m.Data()
	}
	if e.Value != nil || w.complete {
		w.changed(e)
	}
	if w.complete {
		return true, nil
	}
	w.waiting--
	if w.waiting == 0 || about.NumPending == 0 {
		w.complete = true
		w.changed(store.Entry{})
	}
	return true, nil
}

var (
	errGap     = errors.New("messages were lost on the way")
	errMissing = errors.New("a part of it does not come")
)

// reading is what is done with the messages of a stream.
type reading struct {
	start   func(waiting uint64) // how many there are; it is called first
	take    func(jetstream.Msg, *jetstream.MsgMetadata) (more bool, err error)
	longest time.Duration // that the next message may take; 0: for good
}

// read reads the messages of a stream, of some subjects and from somewhere on, in their order and without a gap. It ends with the first
// error, because what a server knew of it may be gone with the server.
func (l *link) read(ctx context.Context, stream string, filters []string, c jetstream.ConsumerConfig, r reading) error {
	c.AckPolicy = jetstream.AckNonePolicy
	c.MemoryStorage = true
	c.Replicas = 1
	c.InactiveThreshold = idleLife
	if r.longest > 0 {
		c.InactiveThreshold = endedLife
	}
	subject := "$JS.API.CONSUMER.CREATE." + stream + ".*" // nats.go chooses a name that nobody can guess
	if len(filters) == 1 {
		c.FilterSubject = filters[0]
		subject += "." + filters[0]
	} else {
		c.FilterSubjects = filters
	}
	var consumer jetstream.Consumer
	err := l.askAPI(ctx, subject, func(ctx context.Context) (err error) {
		consumer, err = l.js.CreateConsumer(ctx, stream, c)
		return err
	})
	if err != nil {
		return err
	}
	r.start(consumer.CachedInfo().NumPending)
	return l.ask(ctx, "$JS.API.CONSUMER.MSG.NEXT."+stream+"."+consumer.CachedInfo().Name, func(ctx context.Context) error {
		messages, err := consumer.Messages(jetstream.PullMaxMessages(ahead), jetstream.PullHeartbeat(beat), jetstream.PullExpiry(askFor),
			jetstream.WithMessagesErrOnMissingHeartbeat(true))
		if err != nil {
			return err
		}
		defer messages.Stop()
		for number := uint64(1); ; number++ {
			m, err := next(ctx, messages, r.longest)
			if err != nil {
				return err
			}
			about, err := m.Metadata()
			if err != nil {
				return err
			}
			if about.Sequence.Consumer != number {
				return errGap
			}
			if more, err := r.take(m, about); err != nil || !more {
				return err
			}
		}
	})
}

// next returns the next message, or an error if it takes longer than longest.
func next(ctx context.Context, messages jetstream.MessagesContext, longest time.Duration) (jetstream.Msg, error) {
	if longest > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, longest, errMissing)
		defer cancel()
	}
	m, err := messages.Next(jetstream.NextContext(ctx))
	for misses := 1; errors.Is(err, jetstream.ErrNoHeartbeat) && misses < mostMisses; misses++ {
		m, err = messages.Next(jetstream.NextContext(ctx))
	}
	if err != nil && context.Cause(ctx) != nil {
		err = context.Cause(ctx)
	}
	return m, err
}
