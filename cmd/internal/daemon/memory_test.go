package daemon

import "testing"

func TestABurstIsOverOnceHalfOfItHasEnded(t *testing.T) {
	type look struct {
		most, now int
		want      bool
	}
	for _, row := range []struct {
		name  string
		looks []look
	}{
		{"flows that come and go are none", []look{{900, 3, false}, {999, 0, false}}},
		{"while most of its flows are live it goes on", []look{{5000, 5000, false}, {5000, 2501, false}, {2501, 2500, true}}},
		{"it is over once", []look{{5000, 10, true}, {10, 10, false}, {10, 0, false}}},
		{"one between two looks counts", []look{{0, 0, false}, {5000, 0, true}}},
		{"the next one counts too", []look{{5000, 600, true}, {600, 0, false}, {2000, 2000, false}, {2000, 0, true}}},
		{"steady load is one until it falls", []look{{5000, 4900, false}, {5100, 5000, false}, {5000, 1000, true}, {1000, 1000, false}, {1000, 400, true}}},
	} {
		t.Run(row.name, func(t *testing.T) {
			var b burst
			for i, l := range row.looks {
				if got := b.over(l.most, l.now); got != l.want {
					t.Errorf("look %d: got %v, want %v", i+1, got, l.want)
				}
			}
		})
	}
}
