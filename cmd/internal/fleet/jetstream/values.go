package jetstream

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"penstock/cmd/internal/fleet/store"
)

const (
	// markerLife is how long a bucket remembers that a value is gone, at least.
	markerLife = 10 * time.Second
	// headerSpace is what the headers of a message need at most, bytes.
	headerSpace = 1 << 10
	// mostTries bounds how often something is tried whose state changes meanwhile, or of which a server does not know yet.
	mostTries = 8
)

// The names that nats.go gives to a key-value bucket's stream and subjects are public knowledge: docs.nats.io, ADR-8.
func streamOf(b store.Bucket) string              { return "KV_" + string(b) }
func subjectOf(b store.Bucket, key string) string { return "$KV." + string(b) + "." + key }
func lastSubject(b store.Bucket, key string) string {
	return "$JS.API.DIRECT.GET." + streamOf(b) + "." + subjectOf(b, key)
}

// in runs f with the stream of a bucket, which it makes if it is missing.
func (s *Store) in(ctx context.Context, b store.Bucket, f func(*link, jetstream.Stream) error) error {
	l, err := s.connection(ctx)
	if err != nil {
		return err
	}
	return l.withStream(ctx, streamOf(b), s.create(l, b), func(stream jetstream.Stream) error { return f(l, stream) })
}

// at runs f, which needs nothing of the stream of a bucket but that it is there. If it is not, at makes it and runs f again. Unlike in, it
// does not ask for the stream first: a server answers such questions one after the other, and when it does not keep up with those of
// many gateways that start, each asks again.
func (s *Store) at(ctx context.Context, b store.Bucket, f func(*link) error) error {
	l, err := s.connection(ctx)
	if err != nil {
		return err
	}
	if err := f(l); !isGone(err) {
		return hint(err)
	}
	l.forget(streamOf(b))
	return l.withStream(ctx, streamOf(b), s.create(l, b), func(jetstream.Stream) error { return f(l) })
}

// create makes a bucket.
func (s *Store) create(l *link, b store.Bucket) func(context.Context) error {
	return func(ctx context.Context) error {
		_, err := l.js.CreateKeyValue(ctx, s.bucket(b))
		return err
	}
}

// bucket says how a bucket is made.
func (s *Store) bucket(b store.Bucket) jetstream.KeyValueConfig {
	c := jetstream.KeyValueConfig{Bucket: string(b), Replicas: s.config.NATS.Replicas, MaxValueSize: store.MaxValue + headerSpace}
	switch b {
	case store.State:
		c.Storage, c.TTL, c.LimitMarkerTTL = jetstream.MemoryStorage, store.StateLife, markerLife
	case store.Sessions:
		c.Storage, c.TTL, c.LimitMarkerTTL = jetstream.MemoryStorage, store.SessionLife, markerLife
	case store.Leases:
		c.LimitMarkerTTL = markerLife
	}
	return c
}

// Get returns the value of a key.
func (s *Store) Get(ctx context.Context, b store.Bucket, key string) (e store.Entry, err error) {
	if err := store.CheckKey(key); err != nil {
		return store.Entry{}, err
	}
	err = s.in(ctx, b, func(l *link, stream jetstream.Stream) error {
		e, err = l.last(ctx, stream, b, key)
		return err
	})
	switch {
	case err != nil:
		return store.Entry{}, fmt.Errorf("%s/%s: %w", b, key, err)
	case e.Value == nil:
		return store.Entry{}, fmt.Errorf("%s/%s: %w", b, key, store.ErrNone)
	}
	return e, nil
}

// last returns the last message of a key. It has no value if that says that the value is gone, and no version if there never was one.
func (l *link) last(ctx context.Context, stream jetstream.Stream, b store.Bucket, key string) (store.Entry, error) {
	e := store.Entry{Key: key}
	err := l.ask(ctx, lastSubject(b, key), func(ctx context.Context) error {
		m, err := stream.GetLastMsgForSubject(ctx, subjectOf(b, key))
		if err != nil {
			return err
		}
		e.Version = m.Sequence
		if len(m.Data) > 0 { // a message that says that a value is gone has none
			e.Value = m.Data
		}
		return nil
	})
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return e, nil
	}
	return e, err
}

// Put writes a value if that of the key is at the version after.
func (s *Store) Put(ctx context.Context, b store.Bucket, key string, value []byte, after uint64) (version uint64, err error) {
	if err := errors.Join(store.CheckKey(key), store.CheckValue(key, value)); err != nil {
		return 0, err
	}
	err = s.at(ctx, b, func(l *link) error {
		version, err = l.publish(ctx, b, key, value, after, 0)
		return err
	})
	var c *conflict
	if after == 0 && errors.As(err, &c) {
		version, err = s.putAgain(ctx, b, key, value, c.last)
	}
	if err != nil {
		return 0, fmt.Errorf("%s/%s: %w", b, key, err)
	}
	return version, nil
}

// putAgain writes a value of a key that had one before, if that is gone: then what says so is the last message. last is its sequence
// number, or 0 if that is not known. Which of several servers answers has a say: one that is behind is asked again.
func (s *Store) putAgain(ctx context.Context, b store.Bucket, key string, value []byte, last uint64) (version uint64, err error) {
	err = s.in(ctx, b, func(l *link, stream jetstream.Stream) error {
		for try := 1; ; try++ {
			gone, err := l.last(ctx, stream, b, key)
			switch {
			case err != nil:
				return err
			case gone.Value == nil && gone.Version > 0 && gone.Version >= last:
				version, err = l.publish(ctx, b, key, value, gone.Version, 0)
				return err
			case gone.Version >= last || try == mostTries:
				return store.ErrConflict
			}
			if err := pause(ctx, try); err != nil {
				return err
			}
		}
	})
	return version, err
}

// pause waits before something is tried again.
func pause(ctx context.Context, try int) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(time.Duration(try) * 10 * time.Millisecond):
		return nil
	}
}

// conflict says that a key was changed by somebody else: it is store.ErrConflict.
type conflict struct {
	last uint64 // sequence number of the key's last message, or 0 if the server does not say
	said string
}

func (c *conflict) Error() string { return fmt.Sprintf("%s (%s)", store.ErrConflict, c.said) }
func (c *conflict) Unwrap() error { return store.ErrConflict }

func conflictOf(said string) *conflict {
	c := &conflict{said: said}
	_, number, _ := strings.Cut(said, "wrong last sequence: ") // as of nats-server 2.15
	c.last, _ = strconv.ParseUint(number, 10, 64)
	return c
}

// publish writes a value, or without one that it is gone, if the last message of the key has the sequence number after. A life that
// is not 0 ends it.
func (l *link) publish(ctx context.Context, b store.Bucket, key string, value []byte, after uint64, life time.Duration) (uint64, error) {
	m := nats.NewMsg(subjectOf(b, key))
	m.Data = value
	if len(value) == 0 {
		m.Header.Set("KV-Operation", "DEL") // as other programs that read the bucket expect it
	}
	var options []jetstream.PublishOpt
	if after != store.Any {
		options = append(options, jetstream.WithExpectLastSequencePerSubject(after))
	}
	if life > 0 {
		options = append(options, jetstream.WithMsgTTL(life))
	}
	var version uint64
	err := l.ask(ctx, m.Subject, func(ctx context.Context) error {
		ack, err := l.js.PublishMsg(ctx, m, options...)
		if err != nil {
			return err
		}
		version = ack.Sequence
		return nil
	})
	var api *jetstream.APIError
	if errors.As(err, &api) && (api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence || api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequenceConstant) {
		return 0, conflictOf(api.Description)
	}
	return version, err
}

// Lease takes, renews or gives back a lease. The server measures its time in whole seconds; a part of one is rounded up.
func (s *Store) Lease(ctx context.Context, key, holder string, lasts time.Duration) error {
	if err := errors.Join(store.CheckKey(key), store.CheckValue(key, []byte(holder))); err != nil {
		return err
	}
	if holder == "" {
		return fmt.Errorf("the lease of %s needs a holder", key)
	}
	value, life := []byte(holder), (lasts + time.Second - 1).Truncate(time.Second)
	if lasts <= 0 {
		value, life = nil, markerLife
	}
	err := s.in(ctx, store.Leases, func(l *link, stream jetstream.Stream) error {
		for try := 1; ; try++ {
			now, err := l.last(ctx, stream, store.Leases, key)
			switch {
			case err != nil:
				return err
			case now.Value != nil && string(now.Value) != holder:
				return fmt.Errorf("%w: %q", store.ErrHeld, now.Value)
			}
			// The answer may be old. Then this is a conflict, also where there seems to be nothing to give back.
			_, err = l.publish(ctx, store.Leases, key, value, now.Version, life)
			if !errors.Is(err, store.ErrConflict) || try == mostTries {
				return err
			}
			if err := pause(ctx, try); err != nil {
				return err
			}
		}
	})
	if err != nil {
		return fmt.Errorf("lease %s: %w", key, err)
	}
	return nil
}
