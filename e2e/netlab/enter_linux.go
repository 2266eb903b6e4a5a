package netlab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strings"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// marker is an environment variable that Enter sets: to the network namespace that it left ("net:[4026531840]"), or to the
// reason why it could not.
const marker = "PENSTOCK_NETLAB"

// inherits is an environment variable that says to the second process that it has a listener as descriptor 3.
const inherits = "PENSTOCK_NETLAB_LISTENER"

// Enter calls run in a process that may make labs, and returns its exit code.
//
// In the first process, Enter starts the program again, with the same arguments and streams, in new network and mount
// namespaces. If CAP_SYS_ADMIN or CAP_NET_ADMIN is missing, it also uses a new user namespace, with the caller mapped to root.
// It waits for that second process, kills its leftover children, and returns its exit code without calling run. In the second
// process, Enter just calls run. If namespaces are not available, the first process calls run itself, and Available and New
// return the reason.
//
// Call it first in main or TestMain, before goroutines and child processes: os.Exit(netlab.Enter(m.Run)).
func Enter(run func() int) int { return enter(run) }

// EnterServing is like Enter. It hands run a listener on a free port of 127.0.0.1 outside, in the network namespace that Enter leaves, so
// that programs there can reach this one. The listener is nil if there is no such port.
func EnterServing(run func(outside net.Listener) int) int {
	if os.Getenv(marker) != "" {
		given := os.Getenv(inherits)
		os.Unsetenv(inherits) // children have none
		if given == "" {
			return enter(func() int { return run(nil) }) // descriptor 3 is something else
		}
		inherited := os.NewFile(3, "outside") // the first of cmd.ExtraFiles
		l, err := net.FileListener(inherited)
		inherited.Close()
		if err != nil {
			l = nil
		}
		return enter(func() int { return run(l) })
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return enter(func() int { return run(nil) })
	}
	defer l.Close()
	file, err := l.(*net.TCPListener).File()
	if err != nil {
		return enter(func() int { return run(nil) })
	}
	defer file.Close()
	return enter(func() int { return run(l) }, file)
}

// enter does what Enter says. The second process inherits keep, from descriptor 3 on.
func enter(run func() int, keep ...*os.File) int {
	if home := os.Getenv(marker); home != "" {
		if strings.HasPrefix(home, "net:") {
			if err := raiseLoopback(); err != nil {
				os.Setenv(marker, err.Error())
			}
		}
		return run()
	}
	code, err := reexec(keep)
	if err != nil {
		os.Setenv(marker, err.Error())
		return run()
	}
	return code
}

// raiseLoopback sets the loopback interface up. In a new namespace it is down, and what needs no lab, such as two daemons
// that talk over 127.0.0.1, runs there too.
func raiseLoopback() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find the loopback interface: %w", err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return fmt.Errorf("set the loopback interface up: %w", err)
	}
	return nil
}

// reexec runs this program in new namespaces and returns its exit code, or an error if it could not be started.
func reexec(keep []*os.File) (int, error) {
	home, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		return 0, err
	}
	exe, err := os.Executable()
	if err != nil {
		return 0, err
	}
	cmd := exec.Command(exe, os.Args[1:]...)
	cmd.Args[0] = os.Args[0]
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.ExtraFiles = keep
	cmd.Env = append(os.Environ(), marker+"="+home)
	if len(keep) > 0 {
		cmd.Env = append(cmd.Env, inherits+"=3")
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS,
		Pdeathsig:  unix.SIGKILL,
	}
	if !privileged() {
		cmd.SysProcAttr.Cloneflags |= unix.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}
	}

	// Adopt orphans of the second process, so that none outlives us.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return 0, fmt.Errorf("become subreaper: %w", err)
	}
	// Pdeathsig fires when the starting thread dies.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGQUIT)
	defer signal.Stop(signals)
	if err := cmd.Start(); err != nil {
		return 0, explainClone(err)
	}
	over := make(chan error, 1)
	go func() { over <- cmd.Wait() }()
	for {
		select {
		case s := <-signals:
			if s == unix.SIGINT && inForeground() {
				continue // the terminal sends it to the second process too
			}
			_ = cmd.Process.Signal(s) // it may have ended already
		case <-over:
			buryOrphans()
			status := cmd.ProcessState.Sys().(syscall.WaitStatus)
			if status.Signaled() {
				return 128 + int(status.Signal()), nil
			}
			return status.ExitStatus(), nil
		}
	}
}

// privileged reports whether this process can make namespaces without a user namespace.
func privileged() bool {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&hdr, &data[0]); err != nil {
		return false
	}
	const need = 1<<unix.CAP_SYS_ADMIN | 1<<unix.CAP_NET_ADMIN
	return data[0].Effective&need == need
}

// inForeground reports whether the terminal's interrupt key reaches our whole process group.
func inForeground() bool {
	group, err := unix.IoctlGetInt(unix.Stdin, unix.TIOCGPGRP)
	return err == nil && group == unix.Getpgrp()
}

// buryOrphans kills and reaps every child of this process, until there is none.
func buryOrphans() {
	for {
		for _, pid := range children() {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
		if _, err := unix.Wait4(-1, nil, 0, nil); err != nil && !errors.Is(err, unix.EINTR) {
			return
		}
	}
}

// children returns the ids of this process's direct children.
func children() []int {
	var pids []int
	self := fmt.Sprint(os.Getpid())
	for _, pid := range processes() {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			continue // it has ended
		}
		// pid (name) state ppid ...: the name may hold anything, so count from its end.
		fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
		if len(fields) > 1 && fields[1] == self {
			pids = append(pids, pid)
		}
	}
	return pids
}

// explainClone adds the likely reason to an error from starting a process in new namespaces.
func explainClone(err error) error {
	switch {
	case errors.Is(err, unix.ENOSPC):
		return fmt.Errorf("new namespaces: %w: a limit under /proc/sys/user is reached", err)
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		return fmt.Errorf("new namespaces: %w: unprivileged users may not create user namespaces here (sysctl, AppArmor or a container's seccomp filter); run as root", err)
	case errors.Is(err, unix.EINVAL):
		return fmt.Errorf("new namespaces: %w: the kernel was built without user or network namespaces", err)
	}
	return fmt.Errorf("new namespaces: %w", err)
}

// Available returns nil if New should succeed in this process, and otherwise ErrUnavailable with the reason.
func Available(ctx context.Context) error {
	if err := entered(); err != nil {
		return err
	}
	tun, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("%w: open /dev/net/tun: %w", ErrUnavailable, err)
	}
	unix.Close(tun)
	h, err := newHost(ctx, "probe", nil)
	if err != nil {
		return err
	}
	return h.Close()
}

// entered returns nil if this process is in another network namespace than the one it was started from.
func entered() error {
	home := os.Getenv(marker)
	switch {
	case home == "":
		return fmt.Errorf("%w: the program did not call netlab.Enter", ErrUnavailable)
	case !strings.HasPrefix(home, "net:["):
		return fmt.Errorf("%w: %s", ErrUnavailable, home)
	}
	here, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	if here == home {
		return fmt.Errorf("%w: still in the machine's own network namespace", ErrUnavailable)
	}
	return nil
}
