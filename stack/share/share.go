// Package share bounds how much of a table each of its users may hold.
//
// It ranks flows and says which has to go; ending it is the caller's. It takes no lock and knows no clock: times are
// whatever numbers its caller counts in.
package share

import (
	"container/heap"
	"maps"
	"slices"
	"sync/atomic"
)

// Owner is whom a flow belongs to.
type Owner struct {
	Client uint64
	Own    bool // the stack dialled the flow itself: for a client of another stack's, or if Client is 0 for nobody
}

// Table bounds the flows of several owners. One owner may fill the table as long as nobody else wants a place. Once it is
// full, an owner that holds less than its share takes a place from whoever holds most; any other owner has to make room
// itself, or is refused. Its user holds a lock around every call.
type Table struct {
	limit  int // of the table
	share  int // of one owner, at the expense of others
	count  int
	owners map[Owner]*holding
	most   ranking[*holding] // first: whoever holds most
}

// holding is what one owner has of a table.
type holding struct {
	owner  Owner
	index  int             // in Table.most
	places ranking[*Place] // first: who has to go first
}

// Place is a flow's place in a table. The caller sets Flow and Yields before Add, and Active whenever the flow is.
type Place struct {
	Flow   any          // whose place it is
	Active atomic.Int64 // when the flow was active last
	// ranked is what Active was when the place was ranked. It is brought up to date only for a place that comes up to be
	// pushed out: packets cost no more than the store to Active.
	ranked int64
	Yields bool // a newer flow of the same owner may push it out. These go before all others
	index  int  // in holding.places
	holder *holding
}

// NewTable makes a table of limit places. share is how many one owner keeps when others want places.
func NewTable(limit, share int) Table {
	return Table{limit: limit, share: share, owners: make(map[Owner]*holding)}
}

// payer is who has to make room when o wants a place in a full table.
func (t *Table) payer(o Owner) *holding {
	h, most := t.owners[o], t.most.list[0]
	switch {
	case h == nil:
		return most
	case len(h.places.list) >= t.share || len(h.places.list) == len(most.places.list):
		return h
	}
	return most
}

// Room reports whether Add would find a place for o.
func (t *Table) Room(o Owner) bool {
	if t.count < t.limit {
		return true
	}
	h := t.payer(o)
	return h.owner != o || h.oldest().Yields
}

// Add gives p a place among those of o. A full table loses the longest silent place of whoever has to make room, which
// Add removes and returns: its flow is the caller's to end. ok is false if o has to make room itself and cannot.
func (t *Table) Add(p *Place, o Owner) (evicted *Place, ok bool) {
	if t.count >= t.limit {
		h := t.payer(o)
		evicted = h.oldest()
		if h.owner == o && !evicted.Yields {
			return nil, false
		}
		t.Remove(evicted)
	}
	h := t.owners[o]
	if h == nil {
		h = &holding{owner: o}
		t.owners[o] = h
		heap.Push(&t.most, h)
	}
	p.holder, p.ranked = h, p.Active.Load()
	heap.Push(&h.places, p)
	heap.Fix(&t.most, h.index)
	t.count++
	return evicted, true
}

// Remove gives a place back. It does nothing for one that was given back before.
func (t *Table) Remove(p *Place) {
	h := p.holder
	if h == nil {
		return
	}
	p.holder = nil
	heap.Remove(&h.places, p.index)
	t.count--
	if len(h.places.list) == 0 {
		heap.Remove(&t.most, h.index)
		delete(t.owners, h.owner)
		return
	}
	heap.Fix(&t.most, h.index)
}

// Yield lets newer flows of the same owner push p out.
func (t *Table) Yield(p *Place) {
	p.Yields = true
	if p.holder != nil {
		heap.Fix(&p.holder.places, p.index)
	}
}

// Settle ends what Yield began.
func (t *Table) Settle(p *Place) {
	p.Yields = false
	if p.holder != nil {
		heap.Fix(&p.holder.places, p.index)
	}
}

// Len is how many places are taken.
func (t *Table) Len() int { return t.count }

// Held is how many places an owner has.
func (t *Table) Held(o Owner) int {
	if h := t.owners[o]; h != nil {
		return len(h.places.list)
	}
	return 0
}

// Above are the owners that have at least n places; nil if none has.
func (t *Table) Above(n int) (owners map[Owner]bool) {
	for o, h := range t.owners {
		if len(h.places.list) >= n {
			if owners == nil {
				owners = make(map[Owner]bool)
			}
			owners[o] = true
		}
	}
	return owners
}

// Owners are those who have places.
func (t *Table) Owners() []Owner { return slices.Collect(maps.Keys(t.owners)) }

// RemoveOwner gives back all places of o, and returns them.
func (t *Table) RemoveOwner(o Owner) []*Place {
	h := t.owners[o]
	if h == nil {
		return nil
	}
	list := h.places.list
	for _, p := range list {
		p.holder = nil
	}
	t.count -= len(list)
	heap.Remove(&t.most, h.index)
	delete(t.owners, o)
	return list
}

// oldest is the place that has to go first: the longest silent. A place that was active since it was ranked is ranked
// anew, which costs each packet at most one step of a heap.
func (h *holding) oldest() *Place {
	for {
		p := h.places.list[0]
		active := p.Active.Load()
		if active == p.ranked {
			return p
		}
		p.ranked = active
		heap.Fix(&h.places, 0)
	}
}

func (h *holding) before(other *holding) bool { return len(h.places.list) > len(other.places.list) }
func (h *holding) at(index int)               { h.index = index }

func (p *Place) before(other *Place) bool {
	if p.Yields != other.Yields {
		return p.Yields
	}
	return p.ranked < other.ranked
}

func (p *Place) at(index int) { p.index = index }

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
