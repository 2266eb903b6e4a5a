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
	// beat is how often a server says that a watch is alive. After two beats without it the watch ends.
	beat = 5 * time.Second
	// ahead is how many messages a server sends before it is asked for more.
	ahead = 256
)

// words is how many words the keys of a bucket have, where that is known.
func words(b store.Bucket) int {
	switch b {
	case store.Truth:
		return 1
	case store.Peers, store.State:
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
	err := s.in(ctx, b, func(l *link, _ jetstream.Stream) error {
		w := &watch{changed: changed, above: len(subjectOf(b, ""))}
		return l.read(ctx, streamOf(b), filters(b, prefix), jetstream.DeliverLastPerSubjectPolicy, w.start, w.take)
	})
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return fmt.Errorf("watch %s/%s: %w", b, prefix, err)
}

// watch turns the messages of a stream into entries.
type watch struct {
	changed  func(store.Entry)
	above    int    // length of what stands before the key in a subject
	waiting  uint64 // messages that were there at the start, and have not come yet
	complete bool   // changed was called with the entry without a key
}

func (w *watch) start(waiting uint64) (more bool) {
	w.waiting = waiting
	w.complete = waiting == 0
	if w.complete {
		w.changed(store.Entry{})
	}
	return true
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

var errGap = errors.New("messages were lost on the way")

// read hands take the messages of a stream in their order, without a gap, until it has enough. Before that it hands start how many
// there are. It ends with the first error, because what a server knew of it may be gone with the server.
func (l *link) read(ctx context.Context, stream string, filters []string, policy jetstream.DeliverPolicy, start func(waiting uint64) (more bool),
	take func(jetstream.Msg, *jetstream.MsgMetadata) (more bool, err error)) error {

	c := jetstream.ConsumerConfig{
		DeliverPolicy:     policy,
		AckPolicy:         jetstream.AckNonePolicy,
		MemoryStorage:     true,
		Replicas:          1,
		InactiveThreshold: idleLife,
	}
	subject := "$JS.API.CONSUMER.CREATE." + stream + ".*" // nats.go chooses a name that nobody can guess
	if len(filters) == 1 {
		c.FilterSubject = filters[0]
		subject += "." + filters[0]
	} else {
		c.FilterSubjects = filters
	}
	var consumer jetstream.Consumer
	err := l.ask(ctx, subject, func(ctx context.Context) (err error) {
		consumer, err = l.js.CreateConsumer(ctx, stream, c)
		return err
	})
	if err != nil {
		return err
	}
	if !start(consumer.CachedInfo().NumPending) {
		return nil
	}
	return l.ask(ctx, "$JS.API.CONSUMER.MSG.NEXT."+stream+"."+consumer.CachedInfo().Name, func(ctx context.Context) error {
		messages, err := consumer.Messages(jetstream.PullMaxMessages(ahead), jetstream.PullHeartbeat(beat), jetstream.PullExpiry(6*beat),
			jetstream.WithMessagesErrOnMissingHeartbeat(true))
		if err != nil {
			return err
		}
		defer messages.Stop()
		for next := uint64(1); ; next++ {
			m, err := messages.Next(jetstream.NextContext(ctx))
			if err != nil {
				return err
			}
			about, err := m.Metadata()
			if err != nil {
				return err
			}
			if about.Sequence.Consumer != next {
				return errGap
			}
			if more, err := take(m, about); err != nil || !more {
				return err
			}
		}
	})
}
