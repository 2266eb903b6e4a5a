package report

import (
	"context"
	"slices"
	"sync"
	"time"

	"penstock/cmd/internal/control"
	"penstock/cmd/internal/record"
)

const (
	sampleEvery = 5 * time.Second
	samplesKept = 121 // ten minutes
)

// Feed is what those who watch are told.
type Feed struct {
	*record.Watchers
	Process *Process

	mu      sync.Mutex // guards below
	samples []control.Sample
}

// Run takes samples until ctx ends.
func (f *Feed) Run(ctx context.Context) error {
	tick := time.NewTicker(sampleEvery)
	defer tick.Stop()
	for {
		f.add(f.Process.sample(time.Now()))
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func (f *Feed) add(s control.Sample) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.samples) == samplesKept {
		f.samples = slices.Delete(f.samples, 0, 1)
	}
	f.samples = append(f.samples, s)
}

// Samples returns what has been carried over the last ten minutes, oldest first, and now.
func (f *Feed) Samples(context.Context) ([]control.Sample, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append(slices.Clone(f.samples), f.Process.sample(time.Now())), nil
}

func (r *Process) sample(at time.Time) control.Sample {
	s := control.Sample{Time: at}
	for _, h := range r.Egress.Health() {
		s.RxBytes += h.Stats.RxBytes
		s.TxBytes += h.Stats.TxBytes
	}
	if r.Gateway != nil { // seen from this machine, as with transports
		for _, p := range r.Gateway.Callers() {
			s.RxBytes += p.RxBytes
			s.TxBytes += p.TxBytes
		}
	}
	s.Forwarded, s.Denied = r.Flows.counts()
	return s
}
