package edition

import (
	"slices"
	"time"

	"penstock/policy"
)

// Except lifts a block until the exception's end.
func (l *Live) Except(e policy.Exception) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.exceptions = append(l.exceptions, e)
	now := l.now.Load()
	l.useLocked(now)
	select {
	case l.excepted <- struct{}{}:
	default:
	}
}

// Expire takes out the exceptions that are over at a time, and says when the next one is; zero if there is none.
func (l *Live) Expire(at time.Time) (over []policy.Exception, next time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.exceptions = slices.DeleteFunc(l.exceptions, func(e policy.Exception) bool {
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
		now := l.now.Load()
		l.useLocked(now)
	}
	return over, next
}

// Excepted receives a value when there is a new exception.
func (l *Live) Excepted() <-chan struct{} { return l.excepted }
