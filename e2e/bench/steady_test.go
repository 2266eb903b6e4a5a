package main

import (
	"math"
	"testing"
)

func TestTheHighestSteadyRateIsFound(t *testing.T) {
	for _, tc := range []struct {
		name           string
		carries, sends float64 // datagrams per second
		flood          step
		blips          int // steps that lose a little for no reason of the path
		min, max       float64
	}{
		{"a path that carries all that can be sent", 500e3, 300e3, step{rate: 300e3, lost: 0}, 0, 300e3, 300e3},
		{"a path that carries most of a flood", 100e3, 300e3, step{rate: 100e3, lost: 0.7}, 0, 93e3, 102e3},
		{"a path that a flood brings down to a fifth", 70e3, 300e3, step{rate: 14e3, lost: 0.95}, 0, 64e3, 72e3},
		{"a path that carries less than arrives of a flood", 40e3, 300e3, step{rate: 90e3, lost: 0.7}, 0, 36e3, 41e3},
		{"something else runs in the first step", 100e3, 300e3, step{rate: 100e3, lost: 0.7}, 1, 93e3, 102e3},
		{"a sender that paces less than it floods", 100e3, 50e3, step{rate: 80e3, lost: 0.2}, 0, 50e3, 50e3},
		{"a path that loses all", 0, 300e3, step{rate: 0, lost: 1}, 0, 0, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			blips := tc.blips
			found, err := steadiest(func(rate int) (step, error) {
				if rate == 0 {
					return tc.flood, nil
				}
				sent := min(float64(rate), tc.sends)
				got := min(sent, tc.carries)
				if got == sent && blips > 0 {
					blips--
					got *= 0.97
				}
				return step{rate: got, lost: 1 - got/sent}, nil
			})
			if err != nil {
				t.Fatal(err)
			}
			best := found.best
			if math.Round(best.rate) < tc.min || math.Round(best.rate) > tc.max || best.lost >= lossMost {
				t.Errorf("got %.0f per second with %.3f lost, want %.0f to %.0f with less than %g", best.rate, best.lost, tc.min, tc.max, lossMost)
			}
			if found.steps > stepsMost {
				t.Errorf("got %d steps, want at most %d", found.steps, stepsMost)
			}
		})
	}
}
