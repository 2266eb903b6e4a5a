package record

import (
	"strconv"
	"testing"

	"penstock/cmd/internal/control"
)

// hosts returns the IDs and hosts of what a watcher has not seen.
func hosts(w control.Watcher) (ids []int64, missed int64) {
	list, missed := w.Next()
	for _, r := range list {
		if r.Flow == nil || r.Flow.Host != strconv.FormatInt(r.ID, 10) {
			panic("a record is not the one with its ID")
		}
		ids = append(ids, r.ID)
	}
	return ids, missed
}

// send records flows whose hosts are their numbers.
func send(b *Book, from, to int) (made int) {
	for i := from; i <= to; i++ {
		b.Flow(func() control.Flow { made++; return control.Flow{Host: strconv.Itoa(i)} })
	}
	return made
}

func TestWatchersSeeEachRecordOnce(t *testing.T) {
	b := new(Book)
	if made := send(b, 100, 110); made != 0 {
		t.Errorf("records that nobody wants: got %d, want 0", made)
	}
	w := b.Watchers().Watch(0)
	send(b, 1, 3)
	<-w.Wake()
	if ids, missed := hosts(w); len(ids) != 3 || ids[0] != 1 || missed != 0 {
		t.Errorf("got %v and %d missed, want 1, 2, 3", ids, missed)
	}
	w.Close()
	send(b, 4, 5) // remembered: whoever left may come back
	again := b.Watchers().Watch(3)
	defer again.Close()
	<-again.Wake()
	if ids, missed := hosts(again); len(ids) != 2 || ids[0] != 4 || missed != 0 {
		t.Errorf("after a pause: got %v and %d missed, want 4 and 5", ids, missed)
	}
	send(b, 6, 6+3*remembered-1)
	ids, missed := hosts(again)
	if len(ids) != remembered || ids[len(ids)-1] != 5+3*remembered || missed != 2*remembered {
		t.Errorf("a slow watcher: got %d records and %d missed, want %d and %d", len(ids), missed, remembered, 2*remembered)
	}
	if other := b.Watchers().Watch(1 << 40); other.(*watcher).seen != 5+3*remembered {
		t.Errorf("a watcher that saw the future: got %d, want to begin now", other.(*watcher).seen)
	}
}

// BenchmarkNobodyWatches is the cost of a flow's record where nobody keeps or watches any.
func BenchmarkNobodyWatches(b *testing.B) {
	b.ReportAllocs()
	book := new(Book)
	for b.Loop() {
		book.Flow(func() control.Flow { return control.Flow{} })
	}
}
