package netlab_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"penstock/e2e/netlab"
	"penstock/e2e/netlab/netlabtest"
)

// roleVar makes the test binary act as a program that uses the lab, instead of running tests.
const roleVar = "NETLAB_TEST_ROLE"

// play is that program. It returns its exit code.
func play(role string) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	switch role {
	case "exit":
		return 7
	case "reason":
		fmt.Println(netlab.Available(ctx))
		return 0
	case "loopback":
		conn, err := net.Dial("udp", "127.0.0.1:9")
		if err == nil {
			_, err = conn.Write([]byte("hello"))
		}
		fmt.Println(err)
		return 0
	}
	// "linger": keep a lab with a child and an orphan until SIGTERM, and leave both behind.
	lab, err := netlab.New(ctx, netlab.Options{})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	child := lab.Laptop.Command(context.Background(), "sleep", "601")
	if err := child.Start(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	orphan, err := lab.Laptop.Command(ctx, "sh", "-c", "setsid sleep 601 >/dev/null 2>&1 & echo $!").Output()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	fmt.Println(os.Getpid(), child.Process.Pid, string(orphan))
	<-ctx.Done()
	return 5
}

// program returns the test binary in a role, as a program that was started outside any lab.
func program(t *testing.T, role string) *exec.Cmd {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), exe)
	cmd.Env = append(os.Environ(), roleVar+"="+role, "PENSTOCK_NETLAB=")
	cmd.Stderr = t.Output()
	return cmd
}

func TestEnterPassesTheExitCode(t *testing.T) {
	err := program(t, "exit").Run()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 7 {
		t.Errorf("got %v, want exit status 7", err)
	}
}

// The namespaces can be had by users who cannot open /dev/net/tun: what they then run needs its loopback.
func TestTheLoopbackIsUpInTheNewNamespace(t *testing.T) {
	netlabtest.Require(t)
	got, err := program(t, "loopback").Output()
	if err != nil || strings.TrimSpace(string(got)) != "<nil>" {
		t.Errorf("a datagram to 127.0.0.1: got %q, %v, want it sent", got, err)
	}
}

func TestWhereNamespacesCannotBeHadTheProgramRunsAndKnowsWhy(t *testing.T) {
	netlabtest.Require(t)
	cmd := program(t, "reason")
	// The limit belongs to a user namespace made for this program. That of the machine does not change.
	cmd.Args = []string{"sh", "-c", `echo 0 > /proc/sys/user/max_net_namespaces && exec "$0"`, cmd.Path}
	cmd.Path = "/bin/sh"
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}},
	}
	got, err := cmd.Output()
	const want = "network lab unavailable: new namespaces"
	if err != nil || !strings.HasPrefix(string(got), want) || !strings.Contains(string(got), "/proc/sys/user") {
		t.Errorf("got %q, %v, want %q and the limit's place", got, err, want)
	}
}

func TestAProgramThatEndsLeavesNothing(t *testing.T) {
	netlabtest.Require(t)
	for _, row := range []struct {
		sentence string
		end      func(outer *os.Process, inner int) error
		code     int
		orphan   bool // may stay alive
	}{
		{"SIGTERM reaches the program", func(outer *os.Process, _ int) error { return outer.Signal(syscall.SIGTERM) }, 5, false},
		{"the program is killed", func(_ *os.Process, inner int) error { return syscall.Kill(inner, syscall.SIGKILL) }, 128 + 9, false},
		{"all of it is killed", func(outer *os.Process, _ int) error { return outer.Kill() }, -1, true},
	} {
		t.Run(row.sentence, func(t *testing.T) {
			cmd := program(t, "linger")
			stdout, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			line, err := bufio.NewReader(stdout).ReadString('\n')
			if err != nil {
				t.Fatal(err, cmd.Wait())
			}
			var inner, child, orphan int
			if _, err := fmt.Sscan(line, &inner, &child, &orphan); err != nil {
				t.Fatal(err)
			}
			if err := row.end(cmd.Process, inner); err != nil {
				t.Fatal(err)
			}
			_ = cmd.Wait() // the exit code is checked below
			if got := cmd.ProcessState.ExitCode(); got != row.code {
				t.Errorf("got exit code %d, want %d", got, row.code)
			}
			gone(t, "the program", inner)
			gone(t, "its child", child)
			if row.orphan {
				_ = syscall.Kill(orphan, syscall.SIGKILL) // it has its own session, and nothing else would end it
			}
			gone(t, "its orphan", orphan)
		})
	}
}

// gone waits until a process has ended. A zombie counts as ended.
func gone(t *testing.T, what string, pid int) {
	t.Helper()
	for range 500 {
		if b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cmdline"); err != nil || len(b) == 0 {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("%s, process %d, is still there", what, pid)
}

// A process that something else has put into namespaces has no listener: its descriptor 3 is anything, and stays open.
func TestWhoInheritsNoListenerKeepsDescriptorThree(t *testing.T) {
	t.Setenv("PENSTOCK_NETLAB", "not here, says a test")
	before, err := os.Readlink("/proc/self/fd/3")
	if err != nil {
		t.Skip("this process has no descriptor 3")
	}
	netlab.EnterServing(func(outside net.Listener) int {
		if outside != nil {
			t.Errorf("got a listener on %s, want none", outside.Addr())
		}
		return 0
	})
	if after, err := os.Readlink("/proc/self/fd/3"); err != nil || after != before {
		t.Errorf("descriptor 3: got %q, %v, want %q as before", after, err, before)
	}
}
