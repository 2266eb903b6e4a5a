package stack

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"penstock/stack/link"
)

// inNamespace runs f in a network namespace of its own, with a TUN whose stack is made of c.
//
//	kernel 10.0.0.2, fd00::2 ---- pentest0 ---- stack
func inNamespace(t *testing.T, c Config, f func(t *testing.T, s *Stack)) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root to make a network namespace")
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			t.Errorf("unshare: %v", err)
			return
		}
		port, err := link.OpenTUN(link.TUNConfig{Name: "pentest0"})
		if err != nil {
			t.Error(err)
			return
		}
		c.Name, c.Lossless, c.Addrs = "pentest0", true, []netip.Prefix{netip.MustParsePrefix("10.0.0.1/24")}
		s, err := New(c)
		if err != nil {
			t.Error(err)
			return
		}
		defer s.Close()
		if err := s.Attach(port); err != nil {
			t.Error(err)
			return
		}
		for _, args := range [][]string{
			{"addr", "add", "10.0.0.2/24", "dev", "pentest0"},
			{"addr", "add", "fd00::2/64", "dev", "pentest0", "nodad"},
			{"link", "set", "pentest0", "up"},
			{"route", "add", "default", "dev", "pentest0"},
			{"-6", "route", "add", "default", "dev", "pentest0"},
		} {
			if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
				t.Errorf("ip %v: %v: %s", args, err, out)
				return
			}
		}
		eventually(t, "the kernel to take packets to its IPv6 address, which it does a moment after it sends from there", func() bool {
			out, err := exec.Command("ip", "-6", "route", "show", "table", "local").CombinedOutput()
			return err == nil && strings.Contains(string(out), "local fd00::2 ")
		})
		f(t, s)
	}()
	<-done
}

// connect is connect(2) of the kernel, in the namespace of its thread.
func connect(dst netip.AddrPort, patience time.Duration) error {
	family, sa := unix.AF_INET, unix.Sockaddr(&unix.SockaddrInet4{Port: int(dst.Port())})
	if dst.Addr().Is4() {
		sa.(*unix.SockaddrInet4).Addr = dst.Addr().As4()
	} else {
		family, sa = unix.AF_INET6, &unix.SockaddrInet6{Port: int(dst.Port()), Addr: dst.Addr().As16()}
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	tv := unix.NsecToTimeval(patience.Nanoseconds())
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &tv); err != nil {
		return err
	}
	return unix.Connect(fd, sa)
}

// The kernel of a client reports for a dial that failed what it would report without the stack in between.
func TestTheKernelReportsWhyADialFailed(t *testing.T) {
	ports := map[uint16]error{1: unix.ECONNREFUSED, 2: unix.EHOSTUNREACH, 3: unix.ENETUNREACH, 4: unix.EACCES, 5: unix.EPERM}
	var asked atomic.Int32
	c := Config{Handle: Waiting(func(_ context.Context, r *Request) {
		if err := ports[r.Dst.Port()]; err != nil {
			asked.Add(1)
			r.Unreachable(err)
		}
	})}
	inNamespace(t, c, func(t *testing.T, _ *Stack) {
		for _, row := range []struct {
			dst  string
			want error
		}{
			{"203.0.113.9:1", unix.ECONNREFUSED},
			{"203.0.113.9:2", unix.EHOSTUNREACH},
			{"203.0.113.9:3", unix.ENETUNREACH},
			{"203.0.113.9:4", unix.EHOSTUNREACH}, // what Linux makes of every prohibiting code of ICMPv4
			{"203.0.113.9:5", unix.EHOSTUNREACH},
			{"[2001:db8::9]:1", unix.ECONNREFUSED},
			{"[2001:db8::9]:2", unix.EHOSTUNREACH},
			{"[2001:db8::9]:3", unix.ENETUNREACH},
			{"[2001:db8::9]:4", unix.EACCES},
			{"[2001:db8::9]:5", unix.EACCES},
		} {
			asked.Store(0)
			if err := connect(addr(row.dst), 5*time.Second); !errors.Is(err, row.want) {
				t.Errorf("connect %s: got %v, want %v", row.dst, err, row.want)
			}
			if n := asked.Load(); n != 1 {
				t.Errorf("connect %s: %d SYNs arrived, want the kernel to heed the answer to the first", row.dst, n)
			}
		}
	})
}

func TestALinkThatIsDeletedIsReported(t *testing.T) {
	failed := make(chan error, 1)
	c := Config{LinkFailed: func(err error) { failed <- err }}
	inNamespace(t, c, func(t *testing.T, _ *Stack) {
		if out, err := exec.Command("ip", "link", "del", "pentest0").CombinedOutput(); err != nil {
			t.Errorf("ip link del: %v: %s", err, out)
			return
		}
		select {
		case err := <-failed:
			if !errors.Is(err, link.ErrGone) {
				t.Errorf("got %v, want ErrGone", err)
			}
		case <-time.After(5 * time.Second):
			t.Error("LinkFailed was not called within 5 s")
		}
	})
}
