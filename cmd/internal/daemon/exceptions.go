package daemon

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"penstock/cmd/internal/config"
	"penstock/cmd/internal/control"
	"penstock/policy"
	"penstock/router"
)

// allow lifts a block for a while.
func (d *Daemon) allow(_ context.Context, q control.AllowQuery) (control.Allowed, error) {
	e := policy.Exception{Peer: q.Peer, Until: time.Now().Add(q.For)}
	if category, ok := strings.CutPrefix(q.Target, "category:"); ok {
		if !slices.Contains(categoryNames(d.config()), category) {
			return control.Allowed{}, fmt.Errorf("there is no category %q", category)
		}
		e.Category = category
	} else {
		host, err := policy.CanonicalName(q.Target)
		if err != nil {
			return control.Allowed{}, err
		}
		e.Name = host
	}
	if q.Peer != "" && !slices.ContainsFunc(d.config().Peers, func(p config.Peer) bool { return p.Name == q.Peer }) {
		return control.Allowed{}, fmt.Errorf("there is no peer %q", q.Peer)
	}
	d.rules.except(e)
	d.log.Info("a block is lifted for a while", "target", q.Target, "peer", q.Peer, "until", e.Until, "generation", d.rules.generation())
	return control.Allowed{Target: q.Target, Peer: q.Peer, Until: e.Until}, nil
}

// except lifts a block until the exception's end.
func (r *rules) except(e policy.Exception) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.exceptions = append(r.exceptions, e)
	now := r.now.Load()
	r.putLocked(now.policy, now.lists)
	select {
	case r.excepted <- struct{}{}:
	default:
	}
}

// expire takes out the exceptions that are over at a time, and says when the next one is; zero if there is none.
func (r *rules) expire(at time.Time) (over []policy.Exception, next time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.exceptions = slices.DeleteFunc(r.exceptions, func(e policy.Exception) bool {
		if e.Until.After(at) {
			if next.IsZero() || e.Until.Before(next) {
				next = e.Until
			}
			return false
		}
		over = append(over, e)
		return true
	})
	if len(over) > 0 {
		now := r.now.Load()
		r.putLocked(now.policy, now.lists)
	}
	return over, next
}

// endExceptions takes exceptions back when their time is over, with the flows that only they let through.
func (d *Daemon) endExceptions(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-d.rules.excepted:
		case <-timer.C:
		}
		over, next := d.rules.expire(time.Now())
		for _, e := range over {
			d.log.Info("a block is in force again", "host", e.Name, "category", e.Category, "peer", e.Peer,
				"generation", d.rules.generation(), "ended", d.endExcepted(e))
		}
		wait := time.Hour // a clock that was set is noticed
		if !next.IsZero() {
			wait = min(wait, max(time.Until(next), 0))
		}
		timer.Reset(wait)
	}
}

// endExcepted ends the live flows that an exception let through and nothing does any more, and returns how many.
func (d *Daemon) endExcepted(e policy.Exception) int {
	now := d.rules.current()
	with := now.WithExceptions(append(slices.Clone(now.Exceptions()), e))
	return d.router.Kill(func(f router.Flow) bool {
		facts := f.Facts
		facts.Sniffed = true
		facts.Time = e.Until.Add(-time.Nanosecond)
		then := with.Decide(facts)
		facts.Time = time.Now()
		return then.Action == policy.Forward && now.Decide(facts).Action != policy.Forward
	})
}
