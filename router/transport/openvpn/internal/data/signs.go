package data

import (
	"errors"
	"sync/atomic"
	"time"

	"penstock/router/transport/openvpn/internal/framing"
)

// Signs are the signs of life of a session. Anyone may call their methods.
type Signs struct {
	start   time.Time
	heard   instant
	spoke   instant
	refused atomic.Bool
	read    atomic.Bool           // a packet was read: both sides frame alike
	puzzled atomic.Pointer[error] // nil: no packet that authenticated was unreadable
}

// Heard is when the last packet came that authenticated.
func (s *Signs) Heard() time.Time { return s.heard.get(s.start) }

// Hear notes a packet that authenticated.
func (s *Signs) Hear(now time.Time) { s.heard.set(s.start, now) }

// Spoke is when the last data packet was sent.
func (s *Signs) Spoke() time.Time { return s.spoke.get(s.start) }

func (s *Signs) speak(now time.Time) { s.spoke.set(s.start, now) }

// Begin starts the clocks of liveness: from now on the server is to be heard.
func (s *Signs) Begin(now time.Time) {
	s.Hear(now)
	s.speak(now)
}

// Refused reports, once, that the server's host said that nobody listens: a hint, no proof.
func (s *Signs) Refused() bool { return s.refused.Swap(false) }

// Puzzled returns why the server's packets cannot be read although they authenticate: they are compressed, or none has
// been readable so far. Nil: they can.
func (s *Signs) Puzzled() error {
	err := s.puzzled.Load()
	if err == nil || s.read.Load() && !errors.Is(*err, framing.ErrCompression) {
		return nil
	}
	return *err
}

// puzzle notes why a packet could not be read, and reports whether that is news: the first such packet, or the first that is
// compressed.
func (s *Signs) puzzle(err error) bool {
	old := s.puzzled.Load()
	if old != nil && (errors.Is(*old, framing.ErrCompression) || !errors.Is(err, framing.ErrCompression)) {
		return false
	}
	return s.puzzled.CompareAndSwap(old, &err)
}

// instant is an atomic point on the monotonic clock, as the time since a session began.
type instant struct{ since atomic.Int64 }

func (i *instant) set(start, now time.Time) { i.since.Store(int64(now.Sub(start))) }

func (i *instant) get(start time.Time) time.Time { return start.Add(time.Duration(i.since.Load())) }
