package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"penstock/e2e/netlab"
)

// laptop [pen0, deleted again and again -> penstock] lan0 --- access (captures) === WireGuard ===> [penstock] gateway --- intranet
func TestADeletedDeviceComesBack(t *testing.T) {
	t.Parallel()
	w := newWorld(t).up(t)
	before := settled(t, w.Laptop)
	stop := chatter(t, w)
	for range 3 {
		if r := run(t, w.Laptop, program(t, "ip"), "link", "del", "pen0"); r.code != 0 {
			t.Fatalf("ip link del: %s", r)
		}
		w.untilCarrying(t)
		w.connected(t)
		w.works(t)
	}
	stop()
	if !strings.Contains(w.laptop.said.String(), "pen0") {
		t.Errorf("the log does not name the device:\n%s", w.laptop.said.String())
	}
	eventually(t, "the host is set up as before", func() error {
		if now := lasting(settled(t, w.Laptop)); now != lasting(before) {
			return fmt.Errorf("(- before, + now)\n%s", difference(lasting(before), now))
		}
		return nil
	})
	t.Run("while it cannot come back, status says so", func(t *testing.T) {
		// Somebody else's device gets the name. penstock is frozen meanwhile, or it would be faster.
		w.laptop.signal(t, "STOP")
		for _, step := range []string{"link del pen0", "link add pen0 type veth peer name pen0-peer"} {
			if r := run(t, w.Laptop, program(t, "ip"), strings.Fields(step)...); r.code != 0 {
				t.Fatalf("ip %s: %s", step, r)
			}
		}
		w.laptop.signal(t, "CONT")
		eventually(t, "status names the device", func() error {
			if r := w.laptop.cli(t, "status"); r.code == 0 || !strings.Contains(r.stdout, "pen0") {
				return fmt.Errorf("status: %s", r)
			}
			return nil
		})
		if r := run(t, w.Laptop, program(t, "curl"), "-sS", "-o", "/dev/null", "-w", "%{http_code}", "http://"+monitor+"/readyz"); r.stdout == "200" {
			t.Errorf("readyz: got %s, want not ready", r)
		}
		if r := run(t, w.Laptop, program(t, "ip"), "link", "del", "pen0"); r.code != 0 {
			t.Fatalf("ip link del: %s", r)
		}
		w.untilCarrying(t)
		w.connected(t)
	})
	if n := strings.Count(w.laptop.said.String(), "\n"); n > 200 {
		t.Errorf("the log has %d lines, want one for each change", n)
	}
	w.nothingInClear(t)
}

// laptop [pen0 -> penstock; nc, of somebody who wants to keep it from starting, at its metrics and console ports] === WireGuard ===> gateway
func TestATakenPortDoesNotKeepTheFilterOff(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	t.Run("an address of another machine is a mistake", func(t *testing.T) {
		w.write(t, "mistaken.yaml", strings.Replace(w.read(t, "gateway.yaml"), monitor, "192.0.2.1:9477", 1))
		r := run(t, w.Gateway, built("penstock"), "run", "-c", w.path("mistaken.yaml"), "--socket", w.path("mistaken.sock"))
		if r.code != 5 || !strings.Contains(r.stderr, "mistaken.yaml:") || !strings.Contains(r.stderr, "choose an address of this host") {
			t.Errorf("got %s, want exit code 5 and where", r)
		}
	})
	const page = "127.0.0.1:9478"
	w.write(t, "laptop.yaml", w.read(t, "laptop.yaml")+"console: {listen: \""+page+"\"}\n")
	var squatters []*netlab.Cmd
	for _, address := range []string{monitor, page} {
		host, port, _ := strings.Cut(address, ":")
		nc := w.Laptop.Command(t.Context(), program(t, "nc"), "-lk", host, port)
		if err := nc.Start(); err != nil {
			t.Fatal(err)
		}
		squatters = append(squatters, nc)
		eventually(t, "the port is taken", func() error {
			if r := run(t, w.Laptop, program(t, "ss"), "-Hntl"); !strings.Contains(r.stdout, address) {
				return fmt.Errorf("ss: %s", r)
			}
			return nil
		})
	}
	stop := sync.OnceFunc(func() {
		for _, nc := range squatters {
			_ = nc.Process.Kill()
			_ = nc.Wait()
		}
	})
	defer stop()
	w.up(t)
	w.works(t)
	status := w.laptop.must(t, "status")
	for _, key := range []string{"metrics.listen", "console.listen"} {
		if !strings.Contains(status, "\nwarning: "+key+" is not served: ") || !strings.Contains(w.laptop.said.String(), `"key":"`+key+`"`) {
			t.Errorf("%s is in the status or the log of a taken port only:\n%s\n%s", key, status, w.laptop.said.String())
		}
	}
	stop()
	eventually(t, "the metrics are served", func() error {
		if r := run(t, w.Laptop, program(t, "curl"), "-sS", "http://"+monitor+"/metrics"); !strings.Contains(r.stdout, `penstock_port_taken{key="metrics.listen"} 0`) {
			return fmt.Errorf("curl: %s", r)
		}
		return nil
	})
	eventually(t, "links lead to the console's own port", func() error {
		r := run(t, w.Laptop, program(t, "curl"), "-sS", "--unix-socket", w.laptop.socket, "-X", "POST", "http://penstock/v1/console")
		if !strings.Contains(r.stdout, "http://"+page+"/#t=") {
			return fmt.Errorf("curl: %s", r)
		}
		return nil
	})
	if status := w.laptop.must(t, "status"); strings.Contains(status, "warning:") {
		t.Errorf("got a warning of a port that is served:\n%s", status)
	}
}

// laptop [pen0 -> penstock <- penstock down, up] === WireGuard ===> [penstock] gateway
func TestTheLastOfDownAndUpHolds(t *testing.T) {
	t.Parallel()
	w := newWorld(t).up(t)
	const timer = 2 * time.Second
	begun := time.Now()
	w.laptop.must(t, "down", "corp", "--for", timer.String())
	w.laptop.must(t, "up", "corp")
	w.connected(t)
	w.laptop.must(t, "down", "corp")
	// The first command's time runs out in here: no other event tells that it was forgotten.
	for time.Since(begun) < timer+time.Second {
		var s struct{ State string }
		if w.laptop.ask(t, &s, "status"); s.State != "down" {
			t.Fatalf("%v after the first of down, up, down: got state %q, want down", time.Since(begun), s.State)
		}
	}
	w.laptop.must(t, "up", "corp")
	w.connected(t)
	w.nothingInClear(t)
}

// laptop [pen0 -> penstock -> a pipe as the flow log] === WireGuard ===> [penstock] gateway --- intranet
func TestALogThatIsNotReadStopsNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "dns:\n", "flow_log: {file: flows.pipe}\ndns:\n  query_log: true\n")
	pipe := w.path("flows.pipe")
	if r := run(t, w.Laptop, "mkfifo", "-m", "600", pipe); r.code != 0 {
		t.Fatalf("mkfifo: %s", r)
	}
	w.up(t) // nobody reads, so that opening the pipe would wait
	questions := func(t *testing.T, n int) {
		t.Helper()
		for i := range n {
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			_, err := w.Laptop.Lookup(ctx, netlab.IntranetSite)
			cancel()
			if err != nil {
				t.Fatalf("question %d: %v", i, err)
			}
		}
		w.works(t)
	}
	stops := func() {
		t.Helper()
		begun := time.Now()
		w.laptop.stop(t, syscall.SIGTERM)
		if took := time.Since(begun); took > 5*time.Second {
			t.Errorf("the stop took %v", took)
		}
	}
	t.Run("without a reader", func(t *testing.T) { questions(t, 1000); stops() })
	r, err := os.OpenFile(pipe, os.O_RDONLY|syscall.O_NONBLOCK, 0) // or the open waits for penstock
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	w.laptop.start(t)
	w.connected(t)
	t.Run("with one that does not read", func(t *testing.T) {
		questions(t, 6000) // twice as many records: more than the pipe and the queue behind it hold
		eventually(t, "what is lost is counted", func() error {
			if n := w.metric(t, w.Laptop, "penstock_flow_log_dropped_total"); n == 0 {
				return fmt.Errorf("got %v", n)
			}
			return nil
		})
	})
	t.Run("with one that begins to read", func(t *testing.T) {
		if err := r.SetReadDeadline(time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
		d := json.NewDecoder(r)
		for range 500 {
			var record map[string]any
			if err := d.Decode(&record); err != nil && err != io.EOF {
				t.Fatalf("a record of the log: %v", err)
			}
		}
	})
	stops()
	w.nothingInClear(t)
}
