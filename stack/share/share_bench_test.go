package share

import "testing"

// A new datagram flow in a table that is full: the longest silent goes, of many that were active since they were ranked.
func BenchmarkEviction(b *testing.B) {
	const limit = 8192
	s := NewTable(limit, limit/4)
	places := make([]Place, limit)
	now := int64(0)
	for i := range places {
		places[i].Yields = true
		s.Add(&places[i], client(uint64(i%8)))
	}
	b.ReportAllocs()
	for b.Loop() {
		now++
		places[now*7919%limit].Active.Store(now)
		p, _ := s.Add(&Place{Yields: true}, client(uint64(now%8)))
		if p == nil {
			b.Fatal("nothing was pushed out")
		}
	}
}
