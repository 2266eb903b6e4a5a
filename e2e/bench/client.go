package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"penstock/e2e/netlab"
)

// echoPort is where this program serves echoes for its own clients.
const echoPort = 7777

// self starts this program again on a host, in one of the roles. Each role needs its own process because the kernel limits
// descriptors per process.
func self(ctx context.Context, h *netlab.Host, args ...string) (*netlab.Cmd, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := h.Command(ctx, exe, args...)
	cmd.Env = append(os.Environ(), roleVar+"=1")
	cmd.Stderr = os.Stderr
	return cmd, nil
}

// echo runs the echo server at the far end of the path until stop is called.
func (w *world) echo(ctx context.Context) (stop func(), err error) {
	cmd, err := self(ctx, w.host(), roleEcho, fmt.Sprintf("%s:%d", w.path.server, echoPort))
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	stop = func() {
		cmd.Process.Kill()
		cmd.Wait()
	}
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil { // it reports that it is listening
		stop()
		return nil, fmt.Errorf("echo server: %w", err)
	}
	return stop, nil
}

// connect makes a series of connections from the laptop.
func (w *world) connect(ctx context.Context, s series) (connectResult, error) {
	ctx, cancel := context.WithTimeout(ctx, 90*time.Second)
	defer cancel()
	stop, err := w.echo(ctx)
	if err != nil {
		return connectResult{}, err
	}
	defer stop()
	cmd, err := self(ctx, w.Laptop, roleConnect, fmt.Sprintf("%s:%d", w.path.server, echoPort),
		strconv.Itoa(s.count), strconv.Itoa(s.size), strconv.Itoa(s.parallel))
	if err != nil {
		return connectResult{}, err
	}
	out, err := cmd.Output()
	if err != nil {
		return connectResult{}, err
	}
	var r connectResult
	return r, json.Unmarshal(out, &r)
}

// hold calls look while n idle connections from the laptop are open.
func (w *world) hold(ctx context.Context, n int, look func() error) error {
	ctx, cancel := context.WithTimeout(ctx, 90*time.Second)
	defer cancel()
	stop, err := w.echo(ctx)
	if err != nil {
		return err
	}
	defer stop()
	cmd, err := self(ctx, w.Laptop, roleHold, fmt.Sprintf("%s:%d", w.path.server, echoPort), strconv.Itoa(n))
	if err != nil {
		return err
	}
	in, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		return fmt.Errorf("hold %d flows: %w", n, err)
	}
	err = look()
	in.Close()
	io.Copy(io.Discard, out)
	if werr := cmd.Wait(); err == nil {
		err = werr
	}
	return err
}

// machine describes the machine and the time of a run.
func machine(took time.Duration) string {
	cpu, cores := "unknown CPU", 0
	b, _ := os.ReadFile("/proc/cpuinfo") // shown as unknown if it cannot be read
	for line := range strings.Lines(string(b)) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == "model name" {
			cpu, cores = strings.TrimSpace(value), cores+1
		}
	}
	kernel, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	goVersion, _ := exec.Command("go", "env", "GOVERSION").Output()
	load, _ := os.ReadFile("/proc/loadavg")
	return fmt.Sprintf("%d x %s, Linux %s, %s, load %s, took %s", cores, cpu, strings.TrimSpace(string(kernel)),
		strings.TrimSpace(string(goVersion)), strings.Join(strings.Fields(string(load))[:3], " "), took.Round(time.Second))
}
