package replay

import "testing"

func TestWindow(t *testing.T) {
	tests := []struct {
		name    string
		seen    []uint64
		counter uint64
		want    bool
	}{
		{"zero is never fresh", nil, 0, false},
		{"the first packet", nil, 1, true},
		{"a repeat", []uint64{1}, 1, false},
		{"a late packet inside the window", []uint64{1, 5000}, 1200, true},
		{"a late packet seen before a jump inside the window", []uint64{4000, 5000}, 4000, false},
		{"a late packet beyond the window", []uint64{5000}, 5000 - size, false},
		{"the oldest packet of the window", []uint64{5000}, 5000 - size + 1, true},
		{"a jump of the time half forgets the old counters", []uint64{7, 1 << 40}, 7, false},
		{"after a jump, a bit of an old round is not taken for a repeat", []uint64{100, 100 + 64*64}, 101 + 64, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var w Window
			for _, c := range tt.seen {
				w.Mark(c)
			}
			if got := w.Fresh(tt.counter); got != tt.want {
				t.Errorf("Fresh(%d) after %v: got %v, want %v", tt.counter, tt.seen, got, tt.want)
			}
		})
	}
}

func TestWindowAcceptsEachCounterOnceInAnyOrder(t *testing.T) {
	var w Window
	for base := uint64(1); base < 100_000; base += 1000 {
		for i := range uint64(1000) {
			c := base + (i*7)%1000
			if !w.Fresh(c) {
				t.Fatalf("Fresh(%d): got false, want true", c)
			}
			w.Mark(c)
			if w.Fresh(c) {
				t.Fatalf("Fresh(%d) after Mark: got true, want false", c)
			}
		}
	}
}
