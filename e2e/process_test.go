package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"penstock/e2e/netlab"
)

// patience is how long a test waits for something that must come. It bounds failures; it measures nothing.
const patience = 30 * time.Second

// penstock is one that runs, or ran, on a host.
type penstock struct {
	host    *netlab.Host
	binary  string // the program
	config  string
	socket  string
	environ []string        // of the process, beside that of the test
	manage  func(*exec.Cmd) // by the test's service manager; nil: there is none
	cmd     *netlab.Cmd
	said    transcript
	over    chan struct{} // closed once it has ended
}

// transcript collects what a program says while others read it.
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

// start runs a penstock, with environ beside the test's environment, and waits until it answers on its socket. It is stopped when the
// test ends, if it still runs.
func start(t *testing.T, h *netlab.Host, config string, environ ...string) *penstock {
	t.Helper()
	return startProgram(t, h, config, built("penstock"), environ...)
}

// startProgram does the same with a penstock that was built in another way.
func startProgram(t *testing.T, h *netlab.Host, config, binary string, environ ...string) *penstock {
	t.Helper()
	p := &penstock{host: h, binary: binary, config: config, socket: strings.TrimSuffix(config, ".yaml") + ".sock", environ: environ}
	t.Cleanup(func() {
		if p.over != nil {
			p.stop(t, syscall.SIGTERM)
		}
		if t.Failed() {
			t.Logf("penstock of %s said:\n%s", h.Name(), p.said.String())
		}
	})
	p.start(t)
	return p
}

// start runs it, again if it has ended.
func (p *penstock) start(t *testing.T) {
	t.Helper()
	p.over = make(chan struct{})
	// Not the test's context: that ends before the cleanup, which stops it as a user would.
	p.cmd = p.host.Command(context.WithoutCancel(t.Context()), p.binary, "run", "-c", p.config, "--socket", p.socket)
	p.cmd.Env = append(os.Environ(), p.environ...)
	p.cmd.Stdout, p.cmd.Stderr = &p.said, &p.said
	if p.manage != nil {
		p.manage(p.cmd.Cmd)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	over := p.over
	go func() {
		defer close(over)
		_ = p.cmd.Wait() // how it ended is in ProcessState
	}()
	eventually(t, p.host.Name()+"'s penstock answers", func() error {
		select {
		case <-p.over:
			t.Fatalf("%s's penstock ended:\n%s", p.host.Name(), p.said.String())
		default:
		}
		if r := p.cli(t, "status"); strings.HasPrefix(r.stdout, "down: ") || r.stdout == "" {
			return fmt.Errorf("status: %s", r)
		}
		return nil
	})
}

// stop ends it by a signal and wants it to end well. It may have ended before.
func (p *penstock) stop(t *testing.T, by os.Signal) {
	t.Helper()
	select {
	case <-p.over:
		return
	default:
	}
	if err := p.cmd.Process.Signal(by); err != nil {
		t.Errorf("signal %s's penstock: %v", p.host.Name(), err)
	}
	select {
	case <-p.over:
	case <-time.After(patience):
		_ = p.cmd.Process.Signal(syscall.SIGABRT) // says where it hangs
		<-p.over
		t.Errorf("%s's penstock did not stop on %v:\n%s", p.host.Name(), by, p.said.String())
		return
	}
	if code := p.cmd.ProcessState.ExitCode(); code != 0 {
		t.Errorf("%s's penstock: exit code %d after %v, want 0:\n%s", p.host.Name(), code, by, p.said.String())
	}
}

// kill ends it as the kernel's memory killer would.
func (p *penstock) kill(t *testing.T) {
	t.Helper()
	if err := p.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-p.over
}

// signal sends a signal by its name, such as STOP: not every system that compiles this has a constant for each.
func (p *penstock) signal(t *testing.T, name string) {
	t.Helper()
	if r := run(t, p.host, "sh", "-c", fmt.Sprintf("kill -%s %d", name, p.cmd.Process.Pid)); r.code != 0 {
		t.Fatalf("kill -%s: %s", name, r)
	}
}

// cli runs a command that talks to this penstock.
func (p *penstock) cli(t *testing.T, args ...string) result {
	t.Helper()
	return run(t, p.host, built("penstock"), append([]string{"--socket", p.socket}, args...)...)
}

// must is what a command prints that must succeed.
func (p *penstock) must(t *testing.T, args ...string) string {
	t.Helper()
	r := p.cli(t, args...)
	if r.code != 0 {
		t.Fatalf("penstock %s: %s", strings.Join(args, " "), r)
	}
	return r.stdout
}

// ask decodes what a command prints with --json, whatever its exit code.
func (p *penstock) ask(t *testing.T, into any, args ...string) {
	t.Helper()
	r := p.cli(t, append(args, "--json")...)
	if err := json.Unmarshal([]byte(r.stdout), into); err != nil {
		t.Fatalf("penstock %s --json: %v: %s", strings.Join(args, " "), err, r)
	}
}

// flow is what the tests read of a flow.
type flow struct {
	ID         string `json:"flow_id"`
	Proto      string `json:"proto"`
	Src        string `json:"src"`
	Dst        string `json:"dst"`
	Peer       string `json:"peer"`
	Host       string `json:"host"`
	HostSource string `json:"host_source"`
	Verdict    string `json:"verdict"`
	Rule       string `json:"rule"`
	Via        string `json:"via"`
	Reason     string `json:"reason"`
	Datapath   string `json:"datapath"`
	TxBytes    int64  `json:"txBytes"`
	RxBytes    int64  `json:"rxBytes"`
}

// flows lists flows; args are more flags.
func (p *penstock) flows(t *testing.T, args ...string) []flow {
	t.Helper()
	var answer struct {
		APIVersion string
		Flows      []flow
	}
	p.ask(t, &answer, append([]string{"flows"}, args...)...)
	if answer.APIVersion != "penstock/v1" {
		t.Errorf("flows --json: got apiVersion %q, want penstock/v1", answer.APIVersion)
	}
	return answer.Flows
}

// denied waits for a refused flow to a destination and returns it: it is noted a moment after its client has heard.
func (p *penstock) denied(t *testing.T, dst string) flow {
	t.Helper()
	return p.deniedOne(t, "to "+dst, func(f flow) bool { return f.Dst == dst })
}

// deniedOne waits for a refused flow that is wanted, and returns it.
func (p *penstock) deniedOne(t *testing.T, what string, wanted func(flow) bool) flow {
	t.Helper()
	var found flow
	eventually(t, "a refused flow "+what, func() error {
		for _, f := range p.flows(t, "--denied") {
			if wanted(f) {
				found = f
				return nil
			}
		}
		return errors.New("flows --denied does not show it")
	})
	return found
}

// rss is the process's resident memory in bytes.
func (p *penstock) rss(t *testing.T) int64 {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("/proc", fmt.Sprint(p.cmd.Process.Pid), "status"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		var kib int64
		if n, _ := fmt.Sscanf(line, "VmRSS: %d kB", &kib); n == 1 {
			return kib << 10
		}
	}
	t.Fatal("no VmRSS in /proc/PID/status")
	return 0
}

// result is what a program left.
type result struct {
	stdout, stderr string
	code           int // exit code; -1 if it was killed
}

func (r result) String() string {
	return fmt.Sprintf("exit code %d\nstdout: %s\nstderr: %s", r.code, r.stdout, r.stderr)
}

// run runs a program on a host to its end.
func run(t *testing.T, h *netlab.Host, name string, args ...string) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 2*patience)
	defer cancel()
	return finish(t, h.Command(ctx, name, args...))
}

// finish runs a prepared program to its end.
func finish(t *testing.T, cmd *netlab.Cmd) result {
	t.Helper()
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.WaitDelay = patience
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("%s: %v", cmd.Path, err)
	}
	return result{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}
}

// eventually asks again until there is no error.
func eventually(t *testing.T, what string, ask func() error) {
	t.Helper()
	eventuallyWithin(t, patience, what, ask)
}

// eventuallyWithin is eventually with another patience.
func eventuallyWithin(t *testing.T, patience time.Duration, what string, ask func() error) {
	t.Helper()
	limit := time.Now().Add(patience)
	for {
		err := ask()
		if err == nil {
			return
		}
		if time.Now().After(limit) {
			t.Fatalf("%s: not within %v: %v", what, patience, err)
		}
		time.Sleep(25 * time.Millisecond)
	}
}
