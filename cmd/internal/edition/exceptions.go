package edition

import (
	"slices"
	"time"

	"penstock/policy"
)

// Except puts an exception in force until it expires.
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

// Expire removes the exceptions that have expired at a time and returns them. next is when the next one expires; zero: never.
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
