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
	rate   float64 // datagrams received per second
	lost   float64 // of those sent, from 0 to 1
	behind bool    // far fewer were sent than asked for
}

// steadiness is what a search has found.
type steadiness struct {
	best    step
	tooFast float64 // the lowest rate that lost more; infinite: none did
	steps   int
}

// steadyDatagrams measures UDP in thousands of datagrams received per second, at the highest rate that loses less than 1 %.
func steadyDatagrams(name string, size int, down bool) func(context.Context, *options, *world, *table) error {
	return func(ctx context.Context, o *options, w *world, t *table) error {
		stop, err := w.record(ctx, o, name)
		if err != nil {
			return err
		}
		found, err := steadiest(func(rate int) (step, error) {
			return w.step(ctx, order{Down: down, Size: size, Time: stepTime, Rate: rate})
		})
		stop()
		if err != nil {
			return err
		}
		note := fmt.Sprintf("%.1f %% lost, %d steps", 100*found.best.lost, found.steps)
		if !math.IsInf(found.tooFast, 1) {
			note += fmt.Sprintf(", too fast at %s", figure(found.tooFast/1e3))
		}
		t.add(row{path: w.path, measure: name, value: found.best.rate / 1e3, unit: "kpps", note: note})
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
	return step{rate: float64(got.Received) / max(sent.Seconds, got.Seconds, 0.1), lost: 1 - float64(got.Received)/float64(max(sent.Sent, 1)),
		behind: float64(sent.Sent) < 0.8*float64(o.Rate)*o.Time.Seconds()}, nil
}

// steadiest searches the highest rate that loses less than lossMost. It begins near what arrives of as many datagrams as can be
// sent; try with a rate of 0 sends those. If all rates lose more, the best is 0.
func steadiest(try func(rate int) (step, error)) (found steadiness, err error) {
	found = steadiness{tooFast: math.Inf(1), steps: 1}
	first, err := try(0)
	if err != nil {
		return found, err
	}
	if first.lost < lossMost {
		found.best = first
		return found, nil
	}
	rate, did, again := first.rate*0.9, 0.0, false
	for ; found.steps < stepsMost && found.tooFast > did*rateGap && rate >= 1; found.steps++ {
		s, err := try(int(rate))
		if err != nil {
			return found, err
		}
		switch {
		case s.lost < lossMost && s.rate > found.best.rate*1.02:
			found.best, did, again = s, rate, false
		case !again && (s.lost < lossSure || s.behind):
			again = true // something else may have run for a moment
			continue
		default: // or no more arrives than of a lower rate, because the sender cannot send more
			found.tooFast, again = rate, false
		}
		switch {
		case math.IsInf(found.tooFast, 1):
			rate = did * 2
		case did == 0:
			rate *= 0.75
		default:
			rate = math.Sqrt(did * found.tooFast)
		}
	}
	return found, nil
}
