package machine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"penstock/e2e/netlab"
)

// bridge is the router's side of the access network. controls are sent from probe.
const (
	bridge = "br0"
	port   = "machine"
	probe  = "probe"
)

const (
	bootTime = 90 * time.Second
	stopTime = 90 * time.Second
)

// Machine is a Debian that can be booted, and its files. Its methods must not be called concurrently, except Run and Console.
type Machine struct {
	lab     *netlab.Lab
	dir     string // of the overlay
	root    string // the machine's file system
	dnsmasq *netlab.Cmd
	console transcript

	nspawn *exec.Cmd
	over   chan struct{} // closed when nspawn has ended
	leader int           // the machine's first process, as seen from here
}

// transcript collects what a program prints while others read it.
type transcript struct {
	mu  sync.Mutex // guards below
	buf bytes.Buffer
}

func (t *transcript) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.buf.Write(b)
}

func (t *transcript) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.buf.String()
}

// Available returns nil if machines can be booted here, and otherwise ErrUnavailable, wrapped with the reason.
func Available() error {
	switch image := os.Getenv(Image); {
	case image == "":
		return fmt.Errorf("%w: %s is not set: make a Debian with .ci/machine DIR and set it to DIR", ErrUnavailable, Image)
	case os.Geteuid() != 0:
		return fmt.Errorf("%w: that needs root", ErrUnavailable)
	default:
		if _, err := os.Stat(filepath.Join(image, "usr/lib/systemd/systemd")); err != nil {
			return fmt.Errorf("%w: %s has no systemd: %w", ErrUnavailable, image, err)
		}
	}
	for _, program := range []string{"systemd-nspawn", "dnsmasq", "nsenter"} {
		if _, err := exec.LookPath(program); err != nil {
			return fmt.Errorf("%w: %w", ErrUnavailable, err)
		}
	}
	return nil
}

// New lays an empty layer for the machine's own files over the image, in dir, and connects the lab's access router to a network
// for the machine. The machine is off. Close removes its files.
func New(ctx context.Context, lab *netlab.Lab, dir string) (*Machine, error) {
	if err := Available(); err != nil {
		return nil, err
	}
	m := &Machine{lab: lab, dir: dir, root: filepath.Join(dir, "root")}
	for _, step := range []func() error{m.layer, m.connect, func() error { return m.serveDHCP(ctx) }} {
		if err := step(); err != nil {
			return nil, errors.Join(fmt.Errorf("make machine: %w", err), m.Close())
		}
	}
	return m, nil
}

// layer mounts the machine's root. The upper layer is on a tmpfs, because an overlay cannot be the upper layer of another.
func (m *Machine) layer() error {
	if err := unix.Mount("machine", m.dir, "tmpfs", unix.MS_NODEV, "mode=0700,size=2g"); err != nil {
		return fmt.Errorf("mount %s: %w", m.dir, err)
	}
	upper, work := filepath.Join(m.dir, "upper"), filepath.Join(m.dir, "work")
	for _, d := range []string{upper, work, m.root} {
		if err := os.Mkdir(d, 0o755); err != nil {
			return err
		}
	}
	options := "lowerdir=" + os.Getenv(Image) + ",upperdir=" + upper + ",workdir=" + work
	if err := unix.Mount("machine", m.root, "overlay", 0, options); err != nil {
		return fmt.Errorf("%w: mount overlay: %w", ErrUnavailable, err)
	}
	return nil
}

// connect makes the bridge, with a port from which Capture sends its controls.
func (m *Machine) connect() error {
	links := m.lab.Access.Netlink()
	snooping := false // the bridge would report groups of its own
	br := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: bridge}, MulticastSnooping: &snooping}
	if err := links.LinkAdd(br); err != nil {
		return fmt.Errorf("make bridge: %w", err)
	}
	if err := links.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: probe + "0", MasterIndex: br.Index}, PeerName: probe}); err != nil {
		return fmt.Errorf("make probe: %w", err)
	}
	for _, name := range []string{bridge, probe + "0", probe} {
		if err := m.lab.Access.SetLink(name, true); err != nil {
			return err
		}
	}
	for _, addr := range []string{RouterIPv4 + "/24", RouterIPv6 + "/64"} {
		if err := m.lab.Access.AddAddr(bridge, netip.MustParsePrefix(addr)); err != nil {
			return err
		}
	}
	for dst, via := range map[string]string{"192.168.70.0/24": "192.0.2.2", "fd70::/64": "2001:db8:50::2"} {
		err := m.lab.Internet.AddRoute(netlab.Route{Dst: netip.MustParsePrefix(dst), Via: netip.MustParseAddr(via)})
		if err != nil {
			return err
		}
	}
	return nil
}

// serveDHCP runs the router's DHCP server and its router advertisements.
func (m *Machine) serveDHCP(ctx context.Context) error {
	m.dnsmasq = m.lab.Access.Command(context.WithoutCancel(ctx), "dnsmasq", "--no-daemon", "--conf-file=/dev/null", "--user=root", "--group=root",
		"--port=0", "--interface="+bridge, "--bind-interfaces", "--dhcp-range=192.168.70.100,192.168.70.200,1h", "--dhcp-authoritative",
		"--dhcp-leasefile="+filepath.Join(m.dir, "leases"), "--pid-file="+filepath.Join(m.dir, "dnsmasq.pid"),
		"--no-ping", "--domain="+Domain, "--dhcp-option=option:dns-server,"+RouterIPv4, "--enable-ra", "--dhcp-range=fd70::,slaac")
	if err := m.dnsmasq.Start(); err != nil {
		return fmt.Errorf("start dnsmasq: %w", err)
	}
	return nil
}

// Boot switches the machine on and waits until systemd has started everything, or has given up on something.
func (m *Machine) Boot(ctx context.Context) error {
	if m.nspawn != nil {
		return errors.New("the machine is on")
	}
	// A network for each boot: nothing of the last one's rules may be left. systemd-nspawn could take the interface alone, but
	// not without udev.
	holder := exec.Command("unshare", "--net", "cat")
	hold, err := holder.StdinPipe()
	if err != nil {
		return err
	}
	if err := holder.Start(); err != nil {
		return fmt.Errorf("start unshare: %w", err)
	}
	defer func() {
		hold.Close()
		_ = holder.Wait() // how it ended tells nothing
	}()
	if err := m.plug(holder.Process.Pid); err != nil {
		return err
	}
	// Control groups of its own, in each hierarchy that systemd uses: it would take the services of another machine for its own.
	const inGroup = `for root in /sys/fs/cgroup/systemd /sys/fs/cgroup/unified /sys/fs/cgroup; do
			[ -e "$root/cgroup.procs" ] && mkdir "$root/$0" && echo $$ > "$root/$0/cgroup.procs"
		done 2>/dev/null
		exec "$@"`
	m.nspawn = exec.Command("sh", "-c", inGroup, m.group(), "systemd-nspawn", "--quiet", "--boot", "--directory="+m.root,
		fmt.Sprintf("--machine=machine%d", holder.Process.Pid), // unlike those that run beside it
		"--register=no", "--keep-unit", "--console=pipe", "--link-journal=no", "--resolv-conf=off", "--timezone=off", "--settings=no",
		fmt.Sprintf("--network-namespace-path=/proc/%d/ns/net", holder.Process.Pid),
		"--bind=/dev/net/tun", "--capability=CAP_NET_ADMIN")
	m.nspawn.Env = append(os.Environ(), "SYSTEMD_NSPAWN_API_VFS_WRITABLE=network") // sysctls of the network can be set, as on a host
	m.nspawn.Stdout, m.nspawn.Stderr = &m.console, &m.console
	m.nspawn.SysProcAttr = &unix.SysProcAttr{Setpgid: true, Pdeathsig: unix.SIGKILL}
	over, started := make(chan struct{}), make(chan error, 1)
	go func(nspawn *exec.Cmd) {
		defer close(over)
		runtime.LockOSThread() // it is killed with the thread that starts it, and those of other labs end with them
		defer runtime.UnlockOSThread()
		err := nspawn.Start()
		started <- err
		if err == nil {
			_ = nspawn.Wait() // how it ended tells nothing
		}
	}(m.nspawn)
	if err := <-started; err != nil {
		m.nspawn = nil
		return fmt.Errorf("start systemd-nspawn: %w", err)
	}
	m.over = over
	ctx, cancel := context.WithTimeout(ctx, bootTime)
	defer cancel()
	return m.await(ctx, m.booted)
}

// plug makes the cable between the router and the network namespace of a process. It goes with that namespace.
func (m *Machine) plug(pid int) error {
	links := m.lab.Access.Netlink()
	if err := unshared(pid); err != nil {
		return err
	}
	// The last one goes with the machine's network, which the kernel removes some time after the machine.
	if old, err := links.LinkByName(port); err == nil {
		if err := links.LinkDel(old); err != nil && !errors.Is(err, unix.ENODEV) {
			return fmt.Errorf("unplug: %w", err)
		}
	}
	if last, err := links.LinkByName(port); err == nil { // something still holds the machine's network
		if err := links.LinkDel(last); err != nil {
			return fmt.Errorf("unplug: %w", err)
		}
	}
	br, err := links.LinkByName(bridge)
	if err != nil {
		return err
	}
	veth := &netlink.Veth{
		LinkAttrs:     netlink.LinkAttrs{Name: port, MasterIndex: br.Attrs().Index},
		PeerName:      Interface,
		PeerNamespace: netlink.NsPid(pid),
	}
	if err := links.LinkAdd(veth); err != nil {
		return fmt.Errorf("plug in: %w", err)
	}
	return m.lab.Access.SetLink(port, true)
}

// unshared waits until a process has a network namespace of its own.
func unshared(pid int) error {
	here, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		return err
	}
	for range 1000 {
		if there, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", pid)); err == nil && there != here {
			return nil
		}
		time.Sleep(5 * time.Millisecond)
	}
	return fmt.Errorf("%w: no network namespace", ErrUnavailable)
}

// await calls done until it returns nil. It fails if ctx ends or the machine goes off.
func (m *Machine) await(ctx context.Context, done func(context.Context) error) error {
	for {
		err := done(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %w\n%s", ctx.Err(), err, m.Console())
		case <-m.over:
			m.off()
			return fmt.Errorf("the machine went off: %w\n%s", err, m.Console())
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// booted returns nil when systemd has finished starting.
func (m *Machine) booted(ctx context.Context) error {
	if m.leader == 0 {
		m.leader = firstProcess(m.nspawn.Process.Pid)
	}
	if m.leader == 0 {
		return errors.New("systemd has not started")
	}
	r, err := m.Run(ctx, "systemctl", "is-system-running")
	if err != nil {
		return err
	}
	switch state := strings.TrimSpace(r.Stdout); state {
	case "running", "degraded":
		return nil
	default:
		return fmt.Errorf("systemd is %s %s", state, r.Stderr)
	}
}

// firstProcess returns the descendant of a process that is the first of a PID namespace, or 0.
func firstProcess(pid int) int {
	children, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if err != nil {
		return 0
	}
	for _, file := range children {
		list, _ := os.ReadFile(file) // gone with its thread
		for _, field := range strings.Fields(string(list)) {
			child, _ := strconv.Atoi(field)
			if isFirst(child) {
				return child
			}
			if found := firstProcess(child); found > 0 {
				return found
			}
		}
	}
	return 0
}

// isFirst reports whether a process has the ID 1 in a PID namespace of its own and runs systemd.
func isFirst(pid int) bool {
	status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	for line := range strings.Lines(string(status)) {
		if ids, ok := strings.CutPrefix(line, "NSpid:"); ok {
			f := strings.Fields(ids)
			return len(f) > 1 && f[len(f)-1] == "1" && bytes.HasPrefix(status, []byte("Name:\tsystemd\n"))
		}
	}
	return false
}

// Result is what a program left.
type Result struct {
	Stdout, Stderr string
	Code           int // exit code; -1 if it was killed
}

// String returns all of it, for messages.
func (r Result) String() string {
	return fmt.Sprintf("exit code %d\nstdout: %s\nstderr: %s", r.Code, r.Stdout, r.Stderr)
}

// Run runs a program as the machine's root. While the machine is off, the program sees the machine's files and nothing else of
// it, which is enough to enable a service. The error is nil if the program could be run, whatever its exit code.
func (m *Machine) Run(ctx context.Context, name string, args ...string) (Result, error) {
	argv := []string{"chroot", m.root}
	if m.leader != 0 {
		argv = []string{"nsenter", "--target=" + strconv.Itoa(m.leader), "--mount", "--uts", "--ipc", "--net", "--pid", "--"}
	}
	argv = append(argv, "env", "-i", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/tmp", "LANG=C.UTF-8", name)
	argv = append(argv, args...)
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.WaitDelay = time.Second
	cmd.SysProcAttr = &unix.SysProcAttr{Pdeathsig: unix.SIGKILL}
	runtime.LockOSThread() // of which that is the death
	defer runtime.UnlockOSThread()
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return Result{}, fmt.Errorf("%s: %w", name, err)
	}
	return Result{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}, nil
}

// PowerOff shuts the machine down as systemctl poweroff does, and waits until it is off.
func (m *Machine) PowerOff(ctx context.Context) error {
	if m.nspawn == nil {
		return nil
	}
	if _, err := m.Run(ctx, "systemctl", "--no-block", "poweroff"); err != nil {
		return err
	}
	select {
	case <-m.over:
		m.off()
		return nil
	case <-ctx.Done():
	case <-time.After(stopTime):
	}
	return fmt.Errorf("the machine does not power off\n%s", m.Console())
}

// Cut takes the machine's power away.
func (m *Machine) Cut() error {
	if m.nspawn == nil {
		return nil
	}
	victim := m.leader
	if victim == 0 {
		victim = m.nspawn.Process.Pid
	}
	if err := unix.Kill(victim, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
		return err
	}
	select {
	case <-m.over:
	case <-time.After(stopTime):
		return errors.New("systemd-nspawn does not end")
	}
	m.off()
	return nil
}

func (m *Machine) off() {
	m.nspawn, m.leader = nil, 0
	for _, root := range []string{"/sys/fs/cgroup/systemd", "/sys/fs/cgroup/unified", "/sys/fs/cgroup"} {
		removeGroups(filepath.Join(root, m.group()))
	}
}

// group is the name of the machine's control group.
func (m *Machine) group() string {
	return "penstock-machine-" + strings.Trim(strings.ReplaceAll(m.dir, "/", "-"), "-")
}

// removeGroups removes a control group and those below it. One with a process that has not quite ended stays.
func removeGroups(dir string) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return
	}
	for _, e := range entries {
		if e.IsDir() {
			removeGroups(filepath.Join(dir, e.Name()))
		}
	}
	_ = unix.Rmdir(dir) // what stays is empty and does no harm
}

// Capture starts a capture on the access network, and proves that it sees packets in clear. It continues while the machine is
// off. Packets to and from the allowed endpoints are the tunnel's.
func (m *Machine) Capture(ctx context.Context, allowed ...netlab.Endpoint) (*netlab.Capture, error) {
	c, err := m.lab.Access.Capture(bridge, allowed...)
	if err != nil {
		return nil, err
	}
	return c, c.Control(ctx, m.lab.Access, probe)
}

// Write writes a file of the machine, with the folders above it. The machine may be off.
func (m *Machine) Write(name string, content []byte, mode uint32) error {
	path := filepath.Join(m.root, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(path, content, os.FileMode(mode)); err != nil {
		return err
	}
	return os.Chmod(path, os.FileMode(mode))
}

// Read reads a file of the machine. The machine may be off.
func (m *Machine) Read(name string) ([]byte, error) { return os.ReadFile(filepath.Join(m.root, name)) }

// Console returns what the machine has printed on its console since it was made.
func (m *Machine) Console() string { return m.console.String() }

// Close switches the machine off and removes its files.
func (m *Machine) Close() error {
	err := m.Cut()
	if m.dnsmasq != nil {
		_ = m.dnsmasq.Process.Kill() // it may have ended with the lab
		_ = m.dnsmasq.Wait()
	}
	for _, mounted := range []string{m.root, m.dir} {
		if unmount := unix.Unmount(mounted, unix.MNT_DETACH); !errors.Is(unmount, unix.EINVAL) && !errors.Is(unmount, unix.ENOENT) {
			err = errors.Join(err, unmount)
		}
	}
	return err
}
