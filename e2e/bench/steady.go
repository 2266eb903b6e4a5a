package main

import (
	"context"
	"fmt"
	"math"
	"time"
)

const (
	stepTime  = 700 * time.Millisecond // that one rate is tried for
	stepsMost = 9                      // about 12 s
	lossMost  = 0.01
	lossSure  = 0.05 // a rate that loses more is not tried again
	rateGap   = 1.06 // between the highest rate that did and the lowest that did not, when the search is over
)

// step is what came of one rate.
type step struct {
	rate float64 // datagrams received per second
	lost float64 // of those sent, from 0 to 1
}

// steadyDatagrams measures UDP in thousands of datagrams received per second, at the highest rate that loses less than 1 %.
func steadyDatagrams(name string, size int, down bool) func(context.Context, *options, *world, *table) error {
	return func(ctx context.Context, o *options, w *world, t *table) error {
		stop, err := w.record(ctx, o, name)
		if err != nil {
			return err
		}
		best, steps, err := steadiest(func(rate int) (step, error) {
			return w.step(ctx, order{Down: down, Size: size, Time: stepTime, Rate: rate})
		})
		stop()
		if err != nil {
			return err
		}
		t.add(row{path: w.path, measure: name, value: best.rate / 1e3, unit: "kpps", note: fmt.Sprintf("%.1f %% lost, %d steps", 100*best.lost, steps)})
		return nil
	}
}

// step carries out one order.
func (w *world) step(ctx context.Context, o order) (step, error) {
	near, far, err := w.datagrams(ctx, o)
	if err != nil {
		return step{}, err
	}
	sent, got := near, far
	if o.Down {
		sent, got = far, near
	}
	// Queues that empty after the last was sent must not make the time longer, nor the first tick of the receiver shorter.
	return step{rate: float64(got.Received) / max(sent.Seconds, got.Seconds, 0.1), lost: 1 - float64(got.Received)/float64(max(sent.Sent, 1))}, nil
}

// steadiest searches the highest rate that loses less than lossMost. It begins near what arrives of as many datagrams as can be
// sent; try with a rate of 0 sends those. Nothing received means that all rates lost more.
func steadiest(try func(rate int) (step, error)) (best step, steps int, err error) {
	first, err := try(0)
	if err != nil || first.lost < lossMost {
		return first, 1, err
	}
	rate, did, didNot, again := first.rate*0.9, 0.0, math.Inf(1), false
	for steps = 1; steps < stepsMost && didNot > did*rateGap && rate >= 1; steps++ {
		s, err := try(int(rate))
		if err != nil {
			return best, steps, err
		}
		switch {
		case s.lost < lossMost && s.rate > best.rate*1.02:
			best, did = s, rate
		case s.lost < lossMost: // the sender sends no more than before
			didNot = rate
		case s.lost < lossSure && !again: // something else may have run for a moment
			again = true
			continue
		default:
			didNot = rate
		}
		again = false
		switch {
		case math.IsInf(didNot, 1):
			rate = did * 2
		case did == 0:
			rate *= 0.75
		default:
			rate = math.Sqrt(did * didNot)
		}
	}
	return best, steps, nil
}
