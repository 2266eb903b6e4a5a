package openvpn

import (
	"context"

	"penstock/router/transport"
)

// mailbox takes work for a session's goroutine from other goroutines.
type mailbox struct {
	events   chan func() error
	lifetime context.Context // ends when nobody takes events any more
}

// do runs f in the session's goroutine and returns what it returned.
func (m *mailbox) do(f func() error) error {
	result := make(chan error, 1)
	m.post(func() error { result <- f(); return nil })
	select {
	case err := <-result:
		return err
	case <-m.lifetime.Done(): // it was not run, or by a session that was ending
		return transport.ErrNotUp
	}
}

// post hands f to the session's goroutine, which ends the session if f returns an error.
func (m *mailbox) post(f func() error) {
	select {
	case m.events <- f:
	case <-m.lifetime.Done():
	}
}
