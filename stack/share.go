package stack

import (
	"container/heap"
	"sync/atomic"
)

// owner is whom a flow belongs to.
type owner struct {
	client uint64
	own    bool // the stack dialled the flow itself: client is 0, and no client's
}

// shares bounds a table of flows that several owners use. One owner may fill the table as long as nobody else wants a
// place. Once it is full, an owner that holds less than its share takes a place from whoever holds most; any other owner
// has to make room itself, or is refused. Its user holds a lock around every call.
type shares struct {
	limit  int // of the table
	share  int // of one owner, at the expense of others
	count  int
	owners map[owner]*holding
	most   ranking[*holding] // first: whoever holds most
}

// holding is what one owner has of a table.
type holding struct {
	owner  owner
	index  int             // in shares.most
	places ranking[*place] // first: who has to go first
}

// place is a flow's place in a table.
type place struct {
	flow   any // the flow itself, a *datagramConn or a *tcpFlow
	active atomic.Int64
	// ranked is what active was when the place was ranked. It is brought up to date only for a place that comes up to be
	// pushed out: packets cost no more than the store to active.
	ranked int64
	yields bool // a newer flow of the same owner may push it out. These go before all others
	index  int  // in holding.places
	holder *holding
}

func newShares(limit, share int) shares {
	return shares{limit: limit, share: share, owners: make(map[owner]*holding)}
}

// payer is who has to make room when o wants a place in a full table.
func (s *shares) payer(o owner) *holding {
	h, most := s.owners[o], s.most.list[0]
	switch {
	case h == nil:
		return most
	case len(h.places.list) >= s.share || len(h.places.list) == len(most.places.list):
		return h
	}
	return most
}

// room reports whether add would find a place for o.
func (s *shares) room(o owner) bool {
	if s.count < s.limit {
		return true
	}
	h := s.payer(o)
	return h.owner != o || h.oldest().yields
}

// add gives p a place among those of o. A full table loses the longest silent place of whoever has to make room, which
// add removes and returns: its flow is the caller's to end. ok is false if o has to make room itself and cannot.
func (s *shares) add(p *place, o owner) (evicted *place, ok bool) {
	if s.count >= s.limit {
		h := s.payer(o)
		evicted = h.oldest()
		if h.owner == o && !evicted.yields {
			return nil, false
		}
		s.remove(evicted)
	}
	h := s.owners[o]
	if h == nil {
		h = &holding{owner: o}
		s.owners[o] = h
		heap.Push(&s.most, h)
	}
	p.holder, p.ranked = h, p.active.Load()
	heap.Push(&h.places, p)
	heap.Fix(&s.most, h.index)
	s.count++
	return evicted, true
}

// remove gives a place back. It does nothing for one that was given back before.
func (s *shares) remove(p *place) {
	h := p.holder
	if h == nil {
		return
	}
	p.holder = nil
	heap.Remove(&h.places, p.index)
	s.count--
	if len(h.places.list) == 0 {
		heap.Remove(&s.most, h.index)
		delete(s.owners, h.owner)
		return
	}
	heap.Fix(&s.most, h.index)
}

// yield lets newer flows of the same owner push p out.
func (s *shares) yield(p *place) {
	p.yields = true
	if p.holder != nil {
		heap.Fix(&p.holder.places, p.index)
	}
}

// removeOwner gives back all places of o, and returns them.
func (s *shares) removeOwner(o owner) []*place {
	h := s.owners[o]
	if h == nil {
		return nil
	}
	list := h.places.list
	for _, p := range list {
		p.holder = nil
	}
	s.count -= len(list)
	heap.Remove(&s.most, h.index)
	delete(s.owners, o)
	return list
}

// oldest is the place that has to go first: the longest silent. A place that was active since it was ranked is ranked
// anew, which costs each packet at most one step of a heap.
func (h *holding) oldest() *place {
	for {
		p := h.places.list[0]
		active := p.active.Load()
		if active == p.ranked {
			return p
		}
		p.ranked = active
		heap.Fix(&h.places, 0)
	}
}

func (h *holding) before(other *holding) bool { return len(h.places.list) > len(other.places.list) }
func (h *holding) at(index int)               { h.index = index }

func (p *place) before(other *place) bool {
	if p.yields != other.yields {
		return p.yields
	}
	return p.ranked < other.ranked
}

func (p *place) at(index int) { p.index = index }

// ranked is an element of a ranking, which tells it where it stands.
type ranked[T any] interface {
	before(other T) bool
	at(index int)
}

// ranking is a heap whose elements know their index.
type ranking[T ranked[T]] struct{ list []T }

func (r *ranking[T]) Len() int           { return len(r.list) }
func (r *ranking[T]) Less(i, j int) bool { return r.list[i].before(r.list[j]) }

func (r *ranking[T]) Swap(i, j int) {
	r.list[i], r.list[j] = r.list[j], r.list[i]
	r.list[i].at(i)
	r.list[j].at(j)
}

func (r *ranking[T]) Push(x any) {
	e := x.(T)
	e.at(len(r.list))
	r.list = append(r.list, e)
}

func (r *ranking[T]) Pop() any {
	var zero T
	last := len(r.list) - 1
	e := r.list[last]
	r.list[last] = zero
	r.list = r.list[:last]
	return e
}
