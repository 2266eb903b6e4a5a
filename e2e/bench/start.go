package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"penstock/e2e/netlab"
)

const (
	dialTime  = 15 * time.Millisecond // for one attempt to connect; a lost SYN would be repeated only after a second
	startTime = 20 * time.Second
)

// takeStart measures how long the laptop's penstock takes from its start to the first connection that it carries, and how long
// nothing is carried when a service manager restarts it.
func takeStart(ctx context.Context, o *options, w *world, t *table) error {
	if w.laptop == nil {
		return nil
	}
	rounds := 9
	if o.quick {
		rounds = 3
	}
	var starts, gaps []time.Duration
	for range rounds {
		stopping := time.Now()
		if err := w.stopLaptop(); err != nil {
			return err
		}
		starting := time.Now()
		carrying, err := w.startLaptop(ctx)
		if err != nil {
			return err
		}
		starts = append(starts, carrying.Sub(starting))
		gaps = append(gaps, carrying.Sub(stopping))
	}
	for _, row := range []struct {
		name string
		took []time.Duration
	}{{"start to first reply", starts}, {"restart, nothing carried", gaps}} {
		slices.Sort(row.took)
		t.add(takenRow(w.path, row.name, row.took))
	}
	return nil
}

func takenRow(p path, name string, took []time.Duration) row {
	ms := func(d time.Duration) float64 { return float64(d) / 1e6 }
	return row{path: p, measure: name, value: ms(took[len(took)/2]), unit: "ms",
		note: fmt.Sprintf("median of %d, %.0f to %.0f", len(took), ms(took[0]), ms(took[len(took)-1]))}
}

// stopLaptop stops the laptop's penstock and forgets it.
func (w *world) stopLaptop() error {
	w.processes = slices.DeleteFunc(w.processes, func(p *process) bool { return p == w.laptop })
	return w.laptop.stop()
}

// startLaptop starts the laptop's penstock again, with its configuration, and returns when it has carried a connection.
func (w *world) startLaptop(ctx context.Context) (carrying time.Time, err error) {
	name := w.Laptop.Name()
	w.laptop, err = w.start(ctx, w.Laptop, "penstock", "run", "-c", filepath.Join(w.dir, name+".yaml"), "--socket", filepath.Join(w.dir, name+".sock"))
	if err != nil {
		return carrying, err
	}
	server := net.JoinHostPort(w.path.server, strconv.Itoa(netlab.EchoPort))
	for limit := time.Now().Add(startTime); time.Now().Before(limit); time.Sleep(200 * time.Microsecond) {
		if w.laptop.ended() {
			return carrying, errors.New("penstock ended:\n" + w.laptop.said.String())
		}
		// Before that, connections are the kernel's.
		if !strings.Contains(w.laptop.said.String(), "host configured") {
			continue
		}
		dial, cancel := context.WithTimeout(ctx, dialTime)
		c, err := w.Laptop.DialContext(dial, "tcp", server)
		cancel()
		if err == nil {
			return time.Now(), c.Close()
		}
	}
	return carrying, errors.New("penstock carries nothing:\n" + w.laptop.said.String())
}
