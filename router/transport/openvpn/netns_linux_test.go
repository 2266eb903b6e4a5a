package openvpn

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"unsafe"
)

const (
	insideEnv     = "PENSTOCK_OPENVPN_TEST_INSIDE"
	exitPowerless = 78
)

// runInNamespace runs this test binary again in new namespaces. It returns false where that is not possible, or has
// happened already.
func runInNamespace() (code int, done bool) {
	if os.Getenv(insideEnv) != "" {
		if err := loopbackUp(); err != nil { // some systems give namespaces without any right in them
			return exitPowerless, true
		}
		return 0, false
	}
	if flag.Parse(); flag.Lookup("test.fuzz").Value.String() != "" || flag.Lookup("test.fuzzworker").Value.String() == "true" {
		return 0, false
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Args[0] = os.Args[0]
	cmd.Env = append(os.Environ(), insideEnv+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
		Pdeathsig:   syscall.SIGKILL,
	}
	switch err := cmd.Run(); {
	case err == nil:
		return 0, true
	case cmd.ProcessState == nil: // could not even start
		namespaceProblem = err
		return 0, false
	case cmd.ProcessState.ExitCode() == exitPowerless:
		namespaceProblem = errors.New("a new namespace gives no right to its loopback")
		return 0, false
	default:
		if code := cmd.ProcessState.ExitCode(); code > 0 {
			return code, true
		}
		fmt.Fprintln(os.Stderr, err)
		return 1, true
	}
}

// namespaceProblem is why the tests do not run in namespaces of their own.
var namespaceProblem error

// needNamespace skips a test that needs a network of its own.
func needNamespace(t testing.TB) {
	t.Helper()
	problem := namespaceProblem
	if os.Getenv(insideEnv) != "" {
		tun, err := os.OpenFile("/dev/net/tun", os.O_RDWR, 0)
		if err == nil {
			_ = tun.Close()
			return
		}
		problem = err
	}
	if os.Getenv("PENSTOCK_REQUIRE_NETNS") == "1" {
		t.Fatalf("no network namespace with a TUN device: %v", problem)
	}
	t.Skipf("no network namespace with a TUN device can be made here: %v", problem)
}

func loopbackUp() error {
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_DGRAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { _ = syscall.Close(fd) }()
	var request struct {
		name  [syscall.IFNAMSIZ]byte
		flags uint16
		_     [22]byte
	}
	copy(request.name[:], "lo")
	request.flags = syscall.IFF_UP | syscall.IFF_RUNNING
	if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, uintptr(fd), syscall.SIOCSIFFLAGS, uintptr(unsafe.Pointer(&request))); errno != 0 {
		return errno
	}
	return nil
}
