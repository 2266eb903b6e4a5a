package datagram

import (
	"sync"

	"penstock/stack/packet"
)

// inbox is what has come for a flow and was not read yet.
type inbox struct {
	mu     sync.Mutex // guards below
	queue  []queued
	head   int // first of queue that was not taken
	bytes  int
	err    error  // why reads end: the flow was shut
	failed error  // an ICMP error that the next Read returns, once
	then   func() // what waits to be told that there is something; nil unless somebody does
	onEnd  func() // called when the flow is shut; nil if nobody asked

	signal chan struct{} // capacity 1: there may be something to take
}

// queued is a datagram that waits for its reader.
type queued struct {
	b  *[]byte
	as packet.Manner // how it came
}

var datagramPool = sync.Pool{New: func() any { b := make([]byte, 0, 2048); return &b }}

// OnEnd has f called once, when the flow is shut, or now if it was. f must not block. A later f takes its place, and so does an answer to
// the client, after which there is none.
func (i *inbox) OnEnd(f func()) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.err != nil {
		f()
		return
	}
	i.onEnd = f
}

// thenLocked ends the wait of whoever waits to be told.
func (i *inbox) thenLocked() (then func()) {
	then, i.then = i.then, nil
	return then
}

// notify says that there is something to take: to then, if it is not nil, or else to a reader.
func (i *inbox) notify(then func()) {
	if then != nil {
		go then()
		return
	}
	select {
	case i.signal <- struct{}{}:
	default:
	}
}

// take adds the next queued datagrams to the list, most at most. If there are none, it returns an ICMP error or the error that ended the
// flow, or neither.
func (i *inbox) take(list []queued, most int) ([]queued, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.head == len(i.queue) {
		if i.err != nil {
			i.notify(nil) // for other readers
		}
		if err := i.failed; err != nil {
			i.failed = nil
			return list, err
		}
		return list, i.err
	}
	some := i.queue[i.head:min(i.head+most, len(i.queue))]
	for _, q := range some {
		i.bytes -= len(*q.b)
	}
	list = append(list, some...)
	clear(some)
	i.head += len(some)
	if i.head < len(i.queue) {
		i.notify(nil)
		return list, nil
	}
	i.queue, i.head = i.queue[:0], 0
	if cap(i.queue) > 64 { // a burst is over
		i.queue = nil
	}
	return list, nil
}

// taken is room for datagrams that are handed on together.
type taken struct {
	queued [mostSegments]queued
	list   [mostSegments][]byte
}

var takenPool = sync.Pool{New: func() any { return new(taken) }}

// some hands f what waits, if anything does.
func (i *inbox) some(f func([][]byte) error) (some bool, err error) {
	room := takenPool.Get().(*taken)
	defer takenPool.Put(room)
	got, err := i.take(room.queued[:0], len(room.queued))
	if err != nil || len(got) == 0 {
		return false, err
	}
	list := room.list[:0]
	for _, q := range got {
		list = append(list, *q.b)
	}
	err = f(list)
	for _, q := range got {
		datagramPool.Put(q.b)
	}
	clear(got)
	clear(list)
	return true, err
}
