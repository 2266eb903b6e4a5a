package netlab

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Host is one machine of the lab. It is a locked thread in its own network and mount namespace. It is safe for concurrent use.
type Host struct {
	name  string
	inode string          // of the network namespace, as in /proc: "net:[...]"
	tid   int             // of the locked thread
	links *netlink.Handle // for netlink inside the namespace

	jobs   chan job
	alive  context.Context // until Close
	die    context.CancelFunc
	closed sync.Once
	over   sync.WaitGroup // the locked thread

	mu      sync.Mutex // guards below
	net     *os.File   // the network namespace
	cleanup []func()   // run by Close, last first
}

type job struct {
	fn  func() error
	err chan<- error
}

// newHost returns a host with loopback up and an empty /run. It lives until Close, even if ctx ends. nameservers are written to
// its resolv.conf.
func newHost(ctx context.Context, name string, nameservers []string) (*Host, error) {
	h := &Host{name: name, jobs: make(chan job)}
	h.alive, h.die = context.WithCancel(context.WithoutCancel(ctx))
	ready := make(chan error, 1)
	h.over.Go(func() { h.run(ready, nameservers) })
	if err := <-ready; err != nil {
		h.die()
		h.over.Wait()
		h.release()
		return nil, fmt.Errorf("host %s: %w", name, err)
	}
	return h, nil
}

// run owns the host's thread for the life of its namespaces.
func (h *Host) run(ready chan<- error, nameservers []string) {
	// Never unlocked, so that the thread, and the namespaces with it, end with this goroutine.
	runtime.LockOSThread()
	if unix.Gettid() == unix.Getpid() {
		// The runtime cannot end the main thread. Hold it until this goroutine runs on another one.
		defer runtime.UnlockOSThread()
		var over sync.WaitGroup
		over.Go(func() { h.run(ready, nameservers) })
		over.Wait()
		return
	}
	err := h.open(nameservers)
	ready <- err
	if err != nil {
		return
	}
	for {
		select {
		case j := <-h.jobs:
			j.err <- j.fn()
		case <-h.alive.Done():
			return
		}
	}
}

// open makes the namespaces of the calling thread and opens handles in them.
func (h *Host) open(nameservers []string) error {
	if err := unix.Unshare(unix.CLONE_NEWNET | unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("%w: unshare: %w", ErrUnavailable, err)
	}
	if err := privateFiles(nameservers); err != nil {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	h.tid = unix.Gettid()
	var err error
	if h.net, err = os.Open("/proc/thread-self/ns/net"); err != nil {
		return err
	}
	if h.inode, err = os.Readlink("/proc/thread-self/ns/net"); err != nil {
		return err
	}
	if h.links, err = netlink.NewHandle(unix.NETLINK_ROUTE); err != nil {
		return fmt.Errorf("%w: netlink: %w", ErrUnavailable, err)
	}
	for key, value := range map[string]string{
		"net/ipv6/conf/all/accept_dad":     "0", // addresses are usable at once
		"net/ipv6/conf/default/accept_dad": "0",
		"net/ipv4/conf/all/rp_filter":      "0", // two uplinks
		"net/ipv4/conf/default/rp_filter":  "0",
		"net/ipv4/ping_group_range":        "0 0", // ping without CAP_NET_RAW; group 0 alone is mapped in a user namespace
	} {
		if err := sysctl(key, value); err != nil {
			return fmt.Errorf("%w: %w", ErrUnavailable, err)
		}
	}
	return h.SetLink("lo", true)
}

// Name returns the host's name, as in the drawing of the package comment.
func (h *Host) Name() string { return h.name }

// Do calls fn on the host's thread, in both its namespaces, and returns its error. Calls run one at a time, so fn must not
// block for long, and must not call Do.
func (h *Host) Do(fn func() error) error {
	done := make(chan error, 1)
	select {
	case h.jobs <- job{fn, done}:
		return <-done
	case <-h.alive.Done():
		return fmt.Errorf("host %s: %w", h.name, ErrClosed)
	}
}

// Nsenter returns the util-linux command line that runs a program in the host from outside; append the program. It
// works while the lab lives, for the user who made it.
func (h *Host) Nsenter() []string {
	argv := []string{"nsenter", "--target=" + strconv.Itoa(h.tid), "--net", "--mount"}
	if inUserNamespace() {
		argv = append(argv, "--user", "--preserve-credentials")
	}
	return argv
}

// NetworkNamespace returns the path of the host's network namespace, for programs that need nothing else of the host.
func (h *Host) NetworkNamespace() string {
	return fmt.Sprintf("/proc/%d/task/%d/ns/net", os.Getpid(), h.tid)
}

// onClose registers what Close must do before the thread ends.
func (h *Host) onClose(fn func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.cleanup = append(h.cleanup, fn)
}

// Close ends captures and impairments, kills every process in the host's network namespace and releases the namespaces. Sockets
// made through the host keep the network namespace alive until they are closed.
func (h *Host) Close() error {
	h.closed.Do(func() {
		h.mu.Lock()
		cleanup := h.cleanup
		h.cleanup = nil
		h.mu.Unlock()
		for i := len(cleanup) - 1; i >= 0; i-- {
			cleanup[i]()
		}
		h.kill()
		h.die()
		h.over.Wait() // children started in the meantime get their Pdeathsig here
		h.release()
	})
	return nil
}

// release closes what open opened.
func (h *Host) release() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.links != nil {
		h.links.Close()
	}
	if h.net != nil {
		h.net.Close()
	}
}

// kill kills every process in the host's network namespace, because grandchildren do not get our Pdeathsig. It waits at most 2 s
// until they are gone.
func (h *Host) kill() {
	for range 2000 {
		found := false
		for _, pid := range processes() {
			ns, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", pid))
			if err != nil || ns != h.inode {
				continue // ended, a zombie, or not ours
			}
			found = unix.Kill(pid, unix.SIGKILL) == nil || found
		}
		if !found {
			return
		}
		time.Sleep(time.Millisecond)
	}
}

// processes returns the ids of all processes in /proc except our own.
func processes() []int {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	var pids []int
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil && pid != os.Getpid() {
			pids = append(pids, pid)
		}
	}
	return pids
}

// inUserNamespace reports whether Enter made a user namespace.
func inUserNamespace() bool {
	b, err := os.ReadFile("/proc/self/uid_map")
	var inside, outside, size uint64
	if err == nil {
		_, err = fmt.Sscan(string(b), &inside, &outside, &size)
	}
	return err == nil && size != 1<<32-1
}

// ReadFile reads a file as the host sees it.
func (h *Host) ReadFile(name string) (b []byte, err error) {
	err = h.Do(func() error { b, err = os.ReadFile(name); return err })
	return b, err
}

// WriteFile writes a file as the host sees it, in place, with mode 0644 if it is new. Files under /run, and
// resolv.conf, hosts and nsswitch.conf in /etc, are the host's own. All other files are shared with the machine.
func (h *Host) WriteFile(name string, b []byte) error {
	return h.Do(func() error { return os.WriteFile(name, b, 0o644) })
}

// Sysctl sets a kernel parameter of the host's network namespace, named as sysctl(8) names it ("net.ipv4.ip_forward").
func (h *Host) Sysctl(key, value string) error {
	return h.Do(func() error { return sysctl(key, value) })
}

// dieWithThread makes a program die with the thread that starts it.
func dieWithThread() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL}
}
