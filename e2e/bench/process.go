package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"penstock/e2e/netlab"
)

// build builds penstock and wireguard-go into a directory.
func build(ctx context.Context, dir string) error {
	fmt.Fprintln(os.Stderr, "building penstock and wireguard-go")
	cmd := exec.CommandContext(ctx, "go", "build", "-o", dir+string(filepath.Separator), "penstock/cmd/penstock", "golang.zx2c4.com/wireguard")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build penstock and wireguard-go: %w\n%s", err, out)
	}
	return nil
}

// process is a program that runs in the lab.
type process struct {
	name string
	host *netlab.Host
	cmd  *netlab.Cmd
	said transcript
	over chan struct{} // closed once it has ended
}

// transcript collects the output of a program. It can be read at the same time.
type transcript struct {
	mu  sync.Mutex // guards below
	buf bytes.Buffer
}

func (s *transcript) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buf.Write(b)
}

func (s *transcript) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buf.String()
}

// start starts one of the binaries on a host. It runs until the world is closed.
func (w *world) start(ctx context.Context, h *netlab.Host, name string, args ...string) (*process, error) {
	p := &process{name: name, host: h, over: make(chan struct{})}
	p.cmd = h.Command(ctx, filepath.Join(w.binaries, name), args...)
	p.cmd.Stdout, p.cmd.Stderr = &p.said, &p.said
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	w.processes = append(w.processes, p)
	go func() {
		defer close(p.over)
		_ = p.cmd.Wait() // its output shows how it ended
	}()
	return p, nil
}

func (p *process) ended() bool {
	select {
	case <-p.over:
		return true
	default:
		return false
	}
}

// stop interrupts a process, as a user would.
func (p *process) stop() error {
	if p.ended() {
		return fmt.Errorf("%s on %s ended by itself:\n%s", p.name, p.host.Name(), p.said.String())
	}
	if err := p.cmd.Process.Signal(os.Interrupt); err != nil {
		return err
	}
	select {
	case <-p.over:
		return nil
	case <-time.After(10 * time.Second):
		err := p.cmd.Process.Kill()
		<-p.over
		return errors.Join(fmt.Errorf("%s on %s did not stop", p.name, p.host.Name()), err)
	}
}

// penstock runs a penstock with a configuration and waits until it is ready. It fills in DIR and MONITOR in the configuration.
func (w *world) penstock(ctx context.Context, h *netlab.Host, config string) (*process, error) {
	name := h.Name()
	text := strings.NewReplacer("DIR", w.dir, "MONITOR", monitor).Replace(config)
	if err := w.write(name+".yaml", text); err != nil {
		return nil, err
	}
	p, err := w.start(ctx, h, "penstock", "run", "-c", filepath.Join(w.dir, name+".yaml"), "--socket", filepath.Join(w.dir, name+".sock"))
	if err != nil {
		return nil, err
	}
	for limit := time.Now().Add(20 * time.Second); time.Now().Before(limit); time.Sleep(50 * time.Millisecond) {
		if p.ended() {
			return nil, fmt.Errorf("penstock on %s ended:\n%s", name, p.said.String())
		}
		if _, err := p.ask(ctx, "/readyz"); err == nil {
			return p, nil
		}
	}
	return nil, fmt.Errorf("penstock on %s does not become ready:\n%s", name, p.said.String())
}

// ask fetches a page from the process's metrics listener.
func (p *process) ask(ctx context.Context, page string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+monitor+page, nil)
	if err != nil {
		return "", err
	}
	client := http.Client{Transport: &http.Transport{DialContext: p.host.DialContext, DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = errors.New(resp.Status)
	}
	return string(b), err
}

// counters returns the process's metrics by name and labels, as exposed.
func (p *process) counters(ctx context.Context) (map[string]float64, error) {
	text, err := p.ask(ctx, "/metrics")
	if err != nil {
		return nil, err
	}
	found := make(map[string]float64)
	for line := range strings.Lines(text) {
		at := strings.LastIndexByte(strings.TrimSpace(line), ' ')
		if at < 0 || line[0] == '#' {
			continue
		}
		if v, err := strconv.ParseFloat(strings.TrimSpace(line[at:]), 64); err == nil {
			found[line[:at]] = v
		}
	}
	return found, nil
}

// written returns the packets and bytes that the process's stacks have written so far.
func (p *process) written(ctx context.Context) (packets, bytes float64, err error) {
	c, err := p.counters(ctx)
	return c[`penstock_stack_packets_total{direction="out"}`], c[`penstock_stack_bytes_total{direction="out"}`], err
}

// refusals returns the process's counts of failed dials and dropped packets.
func (p *process) refusals(ctx context.Context) (string, error) {
	c, err := p.counters(ctx)
	var list []string
	for name, v := range c {
		rest, isDial := strings.CutPrefix(name, "penstock_dial_errors_total")
		rest, isDrop := strings.CutPrefix(rest, "penstock_drops_total")
		if v > 0 && (isDial || isDrop) {
			list = append(list, fmt.Sprintf("%s%s %.0f", map[bool]string{true: "dial", false: "drop"}[isDial], rest, v))
		}
	}
	slices.Sort(list)
	return p.host.Name() + ": " + strings.Join(list, ", "), err
}

// rss returns the process's resident memory in KiB, and how much of it is pages of the program's file: how many of those are
// resident depends on the system's cache.
func (p *process) rss() (all, file int, err error) {
	b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(p.cmd.Process.Pid), "status"))
	if err != nil {
		return 0, 0, err
	}
	for line := range strings.Lines(string(b)) {
		var kib int
		if n, _ := fmt.Sscanf(line, "VmRSS: %d kB", &kib); n == 1 {
			all = kib
		}
		if n, _ := fmt.Sscanf(line, "RssFile: %d kB", &kib); n == 1 {
			file = kib
		}
	}
	if all == 0 {
		return 0, 0, errors.New("no VmRSS in /proc/PID/status")
	}
	return all, file, nil
}

// cpu returns the CPU time of the process so far, in seconds.
func (p *process) cpu() (float64, error) {
	b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(p.cmd.Process.Pid), "stat"))
	if err != nil {
		return 0, err
	}
	// pid (name) state ppid ...: the name may hold anything, so count from its end.
	fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	if len(fields) < 13 {
		return 0, errors.New("/proc/PID/stat is short")
	}
	user, err := strconv.ParseFloat(fields[11], 64)
	if err != nil {
		return 0, err
	}
	system, err := strconv.ParseFloat(fields[12], 64)
	return (user + system) / ticks, err
}

// wakes returns how often the process's threads have gone to sleep so far, and been woken. It misses threads that have ended.
func (p *process) wakes() (n float64, err error) {
	files, err := filepath.Glob(filepath.Join("/proc", strconv.Itoa(p.cmd.Process.Pid), "task/*/status"))
	if err != nil {
		return 0, err
	}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
			continue
		}
		if err != nil {
			return 0, err
		}
		_, rest, _ := strings.Cut(string(b), "\nvoluntary_ctxt_switches:")
		count, _, _ := strings.Cut(rest, "\n")
		v, err := strconv.ParseFloat(strings.TrimSpace(count), 64)
		if err != nil {
			return 0, err
		}
		n += v
	}
	return n, nil
}

// ticks is the number of clock ticks per second in /proc, on every Linux.
const ticks = 100
