package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
)

// measure is one measurement on a path. Those of memory need a penstock.
type measure struct {
	name string
	in   scope
	once bool // measured in the first round only
	take func(ctx context.Context, o *options, w *world, t *table) error
}

// scope says which runs and paths have a measure.
type scope int

const (
	every scope = iota
	full        // skipped with -quick
	wide        // skipped with -quick, and on brief paths
)

func measures() []measure {
	return []measure{
		{"memory idle", every, true, takeIdle},
		{"allocation idle", wide, true, takeGarbage},
		{"start", every, true, takeStart},
		{"TCP up, 1 stream", every, false, throughput(1, false)},
		{"TCP down, 1 stream", every, false, throughput(1, true)},
		{"TCP up, 8 streams", every, false, throughput(8, false)},
		{"TCP down, 8 streams", every, false, throughput(8, true)},
		{"UDP up, 64 B", every, false, datagrams(64, false)},
		{"UDP down, 64 B", wide, false, datagrams(64, true)},
		{"UDP up, 1400 B", wide, false, datagrams(1400, false)},
		{"UDP down, 1400 B", every, false, datagrams(1400, true)},
		{"UDP up, 1200 B, < 1 % lost", full, false, steadyDatagrams("UDP up, 1200 B, < 1 % lost", 1200, false)},
		{"UDP down, 1200 B, < 1 % lost", full, false, steadyDatagrams("UDP down, 1200 B, < 1 % lost", 1200, true)},
		{"connect and close", wide, false, connects("connect and close", series{count: 30000, parallel: parallel})},
		{"connect, 1 KiB and back, close", every, false,
			connects("connect, 1 KiB and back, close", series{count: 30000, size: 1024, parallel: parallel})},
		{"connect, 1 at a time", full, false, connects("connect, 1 at a time", series{count: 6000, size: 1024, parallel: 1})},
		{"keep-alive, 1 connection", full, false, keepsAlive("keep-alive, 1 connection", 1)},
		{"keep-alive, 32 connections", full, false, keepsAlive("keep-alive, 32 connections", 32)},
		{"memory of idle flows", full, true, takeFlows},
		{"memory after flows", wide, true, takeAfter},
	}
}

// throughput measures TCP in Gbit/s. It notes the average size of penstock's writes, and the CPU time of all programs on the
// path. Unlike the other figures, CPU time hardly depends on the load of the machine.
func throughput(streams int, down bool) func(context.Context, *options, *world, *table) error {
	name := fmt.Sprintf("TCP %s, %d stream", direction(down), streams)
	if streams > 1 {
		name += "s"
	}
	return func(ctx context.Context, o *options, w *world, t *table) error {
		var r iperfResult
		did, err := w.during(ctx, o, name, func() (err error) {
			r, err = w.iperf(ctx, iperfRun{streams: streams, down: down, seconds: o.seconds()})
			return err
		})
		if err != nil {
			return err
		}
		var notes []string
		if w.laptop != nil {
			notes = append(notes, fmt.Sprintf("laptop writes %.0f B", did.bytes/max(did.packets, 1)))
		}
		if len(w.processes) > 0 {
			notes = append(notes, fmt.Sprintf("%.2f CPU s per GB", did.cpu/max(r.sent/1e9, 1e-3)),
				fmt.Sprintf("%.0f wake-ups per MB", did.wakes/max(r.sent/1e6, 1)))
		}
		if r.retransmits > 0 {
			notes = append(notes, fmt.Sprintf("%d retransmits", r.retransmits))
		}
		t.add(row{path: w.path, measure: name, value: r.bits / 1e9, unit: "Gbit/s", note: strings.Join(notes, ", ")})
		return nil
	}
}

// effort is the work that the programs of a path have done so far.
type effort struct {
	packets, bytes float64 // written by the laptop's stacks
	cpu            float64 // seconds, of all programs
	wakes          float64 // of their threads
}

func (w *world) effort(ctx context.Context) (e effort, err error) {
	if w.laptop != nil {
		if e.packets, e.bytes, err = w.laptop.written(ctx); err != nil {
			return e, err
		}
	}
	for _, p := range w.processes {
		s, err := p.cpu()
		if err != nil {
			return e, err
		}
		n, err := p.wakes()
		if err != nil {
			return e, err
		}
		e.cpu, e.wakes = e.cpu+s, e.wakes+n
	}
	return e, nil
}

// each tells what each of n exchanges has cost.
func (e effort) each(n int) string {
	return fmt.Sprintf("%.0f CPU µs and %.1f wake-ups each", e.cpu*1e6/float64(max(n, 1)), e.wakes/float64(max(n, 1)))
}

// during returns what the programs of the path do while run runs, which is recorded if it has to be.
func (w *world) during(ctx context.Context, o *options, name string, run func() error) (did effort, err error) {
	before, err := w.effort(ctx)
	if err != nil {
		return did, err
	}
	stop, err := w.record(ctx, o, name)
	if err != nil {
		return did, err
	}
	err = run()
	stop()
	if err != nil {
		return did, err
	}
	after, err := w.effort(ctx)
	return effort{after.packets - before.packets, after.bytes - before.bytes, after.cpu - before.cpu, after.wakes - before.wakes}, err
}

func direction(down bool) string {
	if down {
		return "down"
	}
	return "up"
}

// datagrams measures UDP in thousands of datagrams received per second.
func datagrams(size int, down bool) func(context.Context, *options, *world, *table) error {
	name := fmt.Sprintf("UDP %s, %d B", direction(down), size)
	return func(ctx context.Context, o *options, w *world, t *table) error {
		stop, err := w.record(ctx, o, name)
		if err != nil {
			return err
		}
		near, far, err := w.datagrams(ctx, order{Down: down, Size: size, Time: time.Duration(min(o.seconds(), 3)) * time.Second})
		stop()
		if err != nil {
			return err
		}
		sent, got := near.Sent, far
		if down {
			sent, got = far.Sent, near
		}
		t.add(row{path: w.path, measure: name, value: float64(got.Received) / max(got.Seconds, 0.1) / 1e3, unit: "kpps",
			note: fmt.Sprintf("%.0f %% lost", 100*(1-float64(got.Received)/float64(max(sent, 1))))})
		return nil
	}
}

// connects measures new connections per second.
func connects(name string, s series) func(context.Context, *options, *world, *table) error {
	return func(ctx context.Context, o *options, w *world, t *table) error {
		s := s
		if o.quick {
			s.count /= 6
		}
		var r connectResult
		did, err := w.during(ctx, o, name, func() (err error) {
			r, err = w.connect(ctx, s)
			return err
		})
		if err != nil {
			return err
		}
		notes := []string{fmt.Sprintf("%d hung, %d failed of %d", r.Hung, r.Failed, s.count)}
		if len(w.processes) > 0 {
			notes = append(notes, did.each(s.count))
		}
		if r.Hung+r.Failed > 0 {
			notes = append(notes, r.Why)
			for _, p := range w.penstocks() {
				said, err := p.refusals(ctx)
				if err != nil {
					return err
				}
				notes = append(notes, said)
			}
		}
		t.add(row{path: w.path, measure: name, value: float64(s.count) / r.Seconds, unit: "1/s", note: strings.Join(notes, "; ")})
		return nil
	}
}

// takeIdle records the memory of the penstocks before any traffic.
func takeIdle(_ context.Context, _ *options, w *world, t *table) error {
	for _, p := range w.penstocks() {
		kib, _, err := p.rss()
		if err != nil {
			return err
		}
		t.add(row{path: w.path, measure: "RSS of the " + p.host.Name() + " before any traffic", value: float64(kib) / 1024, unit: "MiB"})
	}
	return nil
}

// settle is how long to wait before reading memory, so that the garbage collector can return what a burst used.
const settle = 4 * time.Second

// settled is how long to wait once many flows were opened: penstock gives back what that took in the 30 s that follow.
const settled = 35 * time.Second

// takeFlows measures memory with many flows that have carried data and are now idle. It starts with a fresh world, because
// memory that other measurements left in pools would hide that of the flows.
func takeFlows(ctx context.Context, o *options, w *world, t *table) error {
	if len(w.penstocks()) == 0 {
		return nil
	}
	counts := []int{1000, 10000}
	if o.quick {
		counts = counts[:1]
	}
	for _, n := range counts {
		idle, err := w.fresh(ctx)
		if err != nil {
			return err
		}
		if err := w.hold(ctx, n, func() error {
			time.Sleep(settled)
			for _, p := range w.penstocks() {
				kib, _, err := p.rss()
				if err != nil {
					return err
				}
				before := idle[p].all
				t.add(row{path: w.path, measure: fmt.Sprintf("RSS of the %s with %d idle flows", p.host.Name(), n), value: float64(kib) / 1024,
					unit: "MiB", note: fmt.Sprintf("%.1f KiB per flow, %.1f MiB before", float64(kib-before)/float64(n), float64(before)/1024)})
			}
			return nil
		}); err != nil {
			return err
		}
	}
	return w.reopen(ctx)
}

// resident is what process.rss returns, in KiB.
type resident struct{ all, file int }

// fresh restarts the path's programs, and returns the memory of the penstocks before any traffic.
func (w *world) fresh(ctx context.Context) (idle map[*process]resident, err error) {
	if err := w.reopen(ctx); err != nil {
		return nil, err
	}
	time.Sleep(settle)
	idle = make(map[*process]resident)
	for _, p := range w.penstocks() {
		var r resident
		if r.all, r.file, err = p.rss(); err != nil {
			return nil, err
		}
		idle[p] = r
	}
	return idle, nil
}

// afterwards is when memory is read once a burst of flows has closed.
const afterwards = 60 * time.Second

// takeAfter measures memory a minute after many flows have closed, beside that before them.
func takeAfter(ctx context.Context, o *options, w *world, t *table) error {
	if len(w.penstocks()) == 0 {
		return nil
	}
	n := 10000
	if o.quick {
		n = 1000
	}
	idle, err := w.fresh(ctx)
	if err != nil {
		return err
	}
	if err := w.hold(ctx, n, func() error { return nil }); err != nil {
		return err
	}
	time.Sleep(afterwards)
	for _, p := range w.penstocks() {
		kib, file, err := p.rss()
		if err != nil {
			return err
		}
		before := idle[p]
		t.add(row{path: w.path, measure: fmt.Sprintf("RSS of the %s %.0f s after %d flows closed", p.host.Name(), afterwards.Seconds(), n),
			value: float64(kib) / 1024, unit: "MiB", note: fmt.Sprintf("%.2f x the %.1f MiB before; without the program's file %.1f, before %.1f MiB",
				float64(kib)/float64(before.all), float64(before.all)/1024, float64(kib-file)/1024, float64(before.all-before.file)/1024)})
	}
	return nil
}

// idleWindow is how long idle garbage is counted: the laptop looks at its whole host once in it.
const idleWindow = time.Minute

// takeGarbage measures how much the penstocks allocate with nothing to do. What reading the counter costs is taken off.
func takeGarbage(ctx context.Context, _ *options, w *world, t *table) error {
	time.Sleep(settle)
	for _, p := range w.penstocks() {
		var total [3]float64
		for i := range total {
			if i == 2 {
				time.Sleep(idleWindow)
			}
			c, err := p.counters(ctx)
			if err != nil {
				return err
			}
			total[i] = c["go_memstats_alloc_bytes_total"]
		}
		rate := max(total[2]-total[1]-(total[1]-total[0]), 0) / idleWindow.Seconds()
		t.add(row{path: w.path, measure: "garbage of the idle " + p.host.Name(), value: rate / 1024, unit: "KiB/s"})
	}
	return nil
}

// penstocks returns the running penstocks.
func (w *world) penstocks() []*process {
	var list []*process
	for _, p := range []*process{w.laptop, w.gateway} {
		if p != nil {
			list = append(list, p)
		}
	}
	return list
}

// reopen restarts the path's programs.
func (w *world) reopen(ctx context.Context) error {
	var err error
	for i := len(w.processes) - 1; i >= 0; i-- {
		err = errors.Join(err, w.processes[i].stop())
	}
	w.processes, w.laptop, w.gateway = nil, nil, nil
	if err != nil {
		return err
	}
	return w.path.open(ctx, w)
}
