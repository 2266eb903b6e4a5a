package main

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// record records the path's programs with perf during a measurement, if -perf is set.
func (w *world) record(ctx context.Context, o *options, name string) (stop func(), err error) {
	if o.perf == "" || len(w.processes) == 0 {
		return func() {}, nil
	}
	if err := os.MkdirAll(o.perf, 0o755); err != nil {
		return nil, err
	}
	var pids []string
	for _, p := range w.processes {
		pids = append(pids, strconv.Itoa(p.cmd.Process.Pid))
	}
	file := filepath.Join(o.perf, strings.NewReplacer(" ", "-", ",", "").Replace(w.path.name+"-"+name)+".perf")
	cmd := w.Laptop.Command(ctx, "perf", "record", "-q", "-F", "499", "-g", "-p", strings.Join(pids, ","), "-o", file)
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	return func() {
		cmd.Process.Signal(os.Interrupt)
		cmd.Wait()
	}, nil
}
