package e2e

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

// usage is what a process has used so far.
type usage struct {
	cpu      time.Duration
	switches int // voluntary context switches: each is a wake-up that went back to sleep
}

// used reads the usage of all threads of a penstock.
func (p *penstock) used(t *testing.T) usage {
	t.Helper()
	var u usage
	tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", p.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, task := range tasks {
		dir := fmt.Sprintf("/proc/%d/task/%s/", p.cmd.Process.Pid, task.Name())
		status, err := os.ReadFile(dir + "status")
		if err != nil {
			continue // the thread has ended
		}
		for line := range strings.Lines(string(status)) {
			var n int
			if got, _ := fmt.Sscanf(line, "voluntary_ctxt_switches: %d", &n); got == 1 {
				u.switches += n
			}
		}
		sched, err := os.ReadFile(dir + "schedstat")
		if err != nil {
			continue
		}
		var ns int64
		fmt.Sscan(string(sched), &ns)
		u.cpu += time.Duration(ns)
	}
	return u
}

// laptop [pen0 -> penstock, nothing to do] === WireGuard ===> [penstock, nothing to do] gateway
func TestIdleCostsLittle(t *testing.T) {
	t.Parallel()
	w := newWorld(t).up(t)
	w.untilCarrying(t)
	time.Sleep(3 * time.Second) // what the start has left to do
	const window = 10 * time.Second
	for _, p := range []*penstock{w.laptop, w.gateway} {
		before := p.used(t)
		time.Sleep(window)
		after := p.used(t)
		cpu := 100 * float64(after.cpu-before.cpu) / float64(window)
		wakes := float64(after.switches-before.switches) / window.Seconds()
		t.Logf("idle %-8s %5.2f %% of a core, %5.1f wake-ups a second, %d MiB", p.host.Name(), cpu, wakes, p.rss(t)>>20)
		if cpu > 20 {
			t.Errorf("%s: %.1f %% of a core with nothing to do: something spins", p.host.Name(), cpu)
		}
	}
}
