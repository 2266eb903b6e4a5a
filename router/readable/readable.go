// Package readable tells when sockets have something to read, without a goroutine that waits for each.
//
// It does not read them, and does not notice that somebody closes one: see Socket.Wake.
package readable

import (
	"sync"
	"syscall"

	"penstock/stack/shrink"
)

// Set is a number of sockets that somebody waits for. The zero Set is empty. It has a goroutine while there are any. Its methods and
// those of its sockets may be called by several goroutines at once.
type Set struct {
	mu      sync.Mutex // guards below
	last    uint64     // id of a socket
	waiting shrink.Map[uint64, *Socket]
	poll    poll
}

// Socket is a socket that may be waited for.
type Socket struct {
	set  *Set
	conn syscall.Conn
	id   uint64

	then func() // guarded by set.mu; nil unless somebody waits
}

// Socket returns a way to wait for c. It costs nothing until somebody does.
func (s *Set) Socket(c syscall.Conn) *Socket {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last++
	return &Socket{set: s, conn: c, id: s.last}
}

// Wake calls what waits, as if the socket were readable. Whoever closes the socket calls it afterwards.
func (k *Socket) Wake() {
	if then := k.set.take(k); then != nil {
		go then()
	}
}

// take ends the wait for a socket.
func (s *Set) take(k *Socket) (then func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.takeLocked(k)
}

func (s *Set) takeLocked(k *Socket) (then func()) {
	if k == nil || k.then == nil {
		return nil
	}
	then, k.then = k.then, nil
	s.waiting.Delete(k.id)
	if s.waiting.Len() == 0 {
		s.poll.interrupt()
	}
	return then
}
