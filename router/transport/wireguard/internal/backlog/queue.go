package backlog

import "slices"

// queue is the counters of packets in the order in which they came. The zero value is empty.
type queue struct {
	counters []uint32
	first    int // of counters
}

func (q *queue) len() int { return len(q.counters) - q.first }

func (q *queue) push(counter uint32) {
	if q.first > 0 && len(q.counters) == cap(q.counters) && q.first >= len(q.counters)/2 {
		q.counters = q.counters[:copy(q.counters, q.counters[q.first:])]
		q.first = 0
	}
	q.counters = append(q.counters, counter)
}

// popTo takes out all up to the first with a counter, and returns how many. If there is none it takes nothing out.
func (q *queue) popTo(counter uint32) int {
	at := slices.Index(q.counters[q.first:], counter)
	if at < 0 {
		return 0
	}
	if q.first += at + 1; q.first == len(q.counters) {
		q.first, q.counters = 0, q.counters[:0]
	}
	return at + 1
}

// clear takes out all, gives their memory back, and returns how many there were.
func (q *queue) clear() int {
	n := q.len()
	*q = queue{}
	return n
}
