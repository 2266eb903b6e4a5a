package program

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// TestMain lets a copy of this test be the program that is looked for. It holds what it is given until its input ends.
func TestMain(m *testing.M) {
	switch to := os.Getenv("PROGRAM_TEST_DIAL"); to {
	case "":
		os.Exit(m.Run())
	case "hold": // the socket that it was started with
		fmt.Println("holds")
	default:
		if dir := os.Getenv("PROGRAM_TEST_GROUP"); dir != "" {
			if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte("0"), 0); err != nil {
				fmt.Println("error", err)
				os.Exit(1)
			}
		}
		c, err := net.Dial("tcp", to)
		if err != nil {
			fmt.Println("error", err)
			os.Exit(1)
		}
		defer c.Close()
		fmt.Println(c.LocalAddr())
	}
	_, _ = io.Copy(io.Discard, os.Stdin)
}

func addrOf(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

func listen(t testing.TB) (netip.AddrPort, *net.TCPListener) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return ln.Addr().(*net.TCPAddr).AddrPort(), ln.(*net.TCPListener)
}

// copyOf makes a copy of this test.
func copyOf(t *testing.T, name string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.Link("/proc/self/exe", path); err != nil {
		self, err := os.ReadFile("/proc/self/exe")
		if err == nil {
			err = os.WriteFile(path, self, 0o755)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return path
}

// dialer starts a program that holds a connection, and returns the local address of that.
func dialer(t *testing.T, path string, env ...string) (*exec.Cmd, string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), path)
	cmd.Env = append(os.Environ(), env...)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { in.Close(); _ = cmd.Wait() })
	line, err := bufio.NewReader(out).ReadString('\n')
	if line = strings.TrimSpace(line); err != nil || strings.HasPrefix(line, "error") {
		t.Fatalf("the program says %q, %v", line, err)
	}
	return cmd, line
}

func TestFind(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	there, _ := listen(t)
	connected, err := net.Dial("tcp", there.String())
	if err != nil {
		t.Fatal(err)
	}
	defer connected.Close()
	datagrams, err := net.Dial("udp", "127.0.0.1:9")
	if err != nil {
		t.Fatal(err)
	}
	defer datagrams.Close()
	open, err := net.ListenPacket("udp", ":0") // of both families, to anybody
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	bound, err := (&net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) (err error) {
		_ = c.Control(func(fd uintptr) {
			err = syscall.SetsockoptString(int(fd), syscall.SOL_SOCKET, syscall.SO_BINDTODEVICE, "lo")
		})
		return err
	}}).ListenPacket(t.Context(), "udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer bound.Close()
	port := uint16(open.LocalAddr().(*net.UDPAddr).Port)
	rows := []struct {
		name, network string
		local, remote netip.AddrPort
	}{
		{"a stream", "tcp", addrOf(connected.LocalAddr().String()), there},
		{"a connected datagram socket", "udp", addrOf(datagrams.LocalAddr().String()), addrOf("127.0.0.1:9")},
		{"a connected datagram socket, to any port", "udp", addrOf(datagrams.LocalAddr().String()), addrOf("127.0.0.1:0")},
		{"an open datagram socket, to any port", "udp", netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port), addrOf("127.0.0.1:0")},
		{"an open datagram socket over IPv4", "udp", netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port), addrOf("192.0.2.1:53")},
		{"an open datagram socket over IPv6", "udp", netip.AddrPortFrom(netip.MustParseAddr("::1"), port), addrOf("[2001:db8::1]:53")},
		{"a socket that is bound to an interface", "udp", addrOf(bound.LocalAddr().String()), addrOf("127.0.0.1:9")},
	}
	f := New()
	defer f.Close()
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			p, err := f.Find(row.network, row.local, row.remote, Want{Path: true, Group: true})
			if err != nil || int(p.UID) != os.Getuid() || p.Path != self || p.Several {
				t.Errorf("got %+v, %v; want uid %d, %s", p, err, os.Getuid(), self)
			}
		})
	}
	for _, local := range []string{"127.0.0.1:1", there.String()} {
		if _, err := f.Find("tcp", addrOf(local), there, Want{}); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("from %s, without a socket: got %v, want %v", local, err, fs.ErrNotExist)
		}
	}
}

// A program that was replaced is still known by its path, and one that has ended is not mistaken for another.
func TestReplacedAndEnded(t *testing.T) {
	there, _ := listen(t)
	path := copyOf(t, "browser")
	cmd, local := dialer(t, path, "PROGRAM_TEST_DIAL="+there.String())
	f := New()
	defer f.Close()
	find := func() (Program, error) { return f.Find("tcp", addrOf(local), there, Want{Path: true}) }
	if p, err := find(); err != nil || p.Path != path || p.Deleted {
		t.Errorf("got %+v, %v; want %s", p, err, path)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if p, err := find(); err != nil || p.Path != path || !p.Deleted {
		t.Errorf("after its file went: got %+v, %v; want %s, deleted", p, err, path)
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	if p, err := find(); err == nil && p.Path != "" {
		t.Errorf("after it ended: got %+v, want nothing", p)
	}
}

func nobody() []int { return nil }

func TestAnotherProcessWithTheSameID(t *testing.T) {
	proc := t.TempDir()
	put := func(pid, start, exe string) {
		dir := filepath.Join(proc, pid)
		if err := errors.Join(os.RemoveAll(dir), os.MkdirAll(filepath.Join(dir, "fd"), 0o755), os.Symlink("socket:[77]", filepath.Join(dir, "fd", "3")),
			os.Symlink(exe, filepath.Join(dir, "exe")), os.WriteFile(filepath.Join(dir, "cgroup"), []byte("0::/system.slice/"+filepath.Base(exe)+".service\n"), 0o644),
			os.WriteFile(filepath.Join(dir, "stat"), []byte(pid+" (a) b) S 1 "+strings.Repeat("0 ", 17)+start+" 0\n"), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	h := newHolders(proc)
	put("12", "500", "/bin/first")
	put("9", "600", "/bin/second")
	if p, several, ok := h.find(77, nobody); !ok || p.path != "/bin/first" || p.group.Unit != "first.service" || !several {
		t.Errorf("got %+v, several %v, %v; want the first of several", p, several, ok)
	}
	if err := os.RemoveAll(filepath.Join(proc, "9")); err != nil {
		t.Fatal(err)
	}
	if p, several, ok := h.find(77, nobody); !ok || p.path != "/bin/first" || several {
		t.Errorf("after the second has ended: got %+v, several %v, %v; want the first alone", p, several, ok)
	}
	put("12", "900", "/bin/other")
	if err := os.Remove(filepath.Join(proc, "12", "fd", "3")); err != nil {
		t.Fatal(err)
	}
	if p, _, ok := h.find(77, nobody); ok {
		t.Errorf("another process got the ID: got %+v, want nothing", p)
	}
	if _, _, ok := h.find(0, nobody); ok {
		t.Error("a socket that is closed was found")
	}
}

// A socket that a program inherits is that of the program that began first.
func TestSharedSocket(t *testing.T) {
	there, _ := listen(t)
	c, err := net.Dial("tcp", there.String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	file, err := c.(*net.TCPConn).File()
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	cmd := exec.CommandContext(t.Context(), copyOf(t, "helper"))
	cmd.Env, cmd.ExtraFiles = append(os.Environ(), "PROGRAM_TEST_DIAL=hold"), []*os.File{file}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	defer func() { in.Close(); _ = cmd.Wait() }()
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	self, _ := os.Executable()
	f := New()
	defer f.Close()
	p, err := f.Find("tcp", addrOf(c.LocalAddr().String()), there, Want{Path: true})
	if err != nil || p.Path != self || !p.Several {
		t.Errorf("got %+v, %v; want %s and others", p, err, self)
	}
}

// The kernel knows the group in which a socket was made, after its program has lost the right to be seen, and has ended.
func TestGroupOfSocket(t *testing.T) {
	f := New()
	defer f.Close()
	root := f.groups.root()
	if root == "" {
		t.Skip("no control groups of version 2 are mounted under /sys/fs/cgroup")
	}
	slice := filepath.Join(root, fmt.Sprintf("penstocktest%d.slice", os.Getpid()))
	dir := filepath.Join(slice, "app-org.example.browser-123.scope")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Skipf("cannot make a control group: %v", err)
	}
	t.Cleanup(func() {
		for range 200 { // the process may not have quite ended
			if os.Remove(dir) == nil {
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
		_ = os.Remove(slice)
	})
	there, _ := listen(t)
	_, local := dialer(t, copyOf(t, "browser"), "PROGRAM_TEST_DIAL="+there.String(), "PROGRAM_TEST_GROUP="+dir)
	f.holders = newHolders(t.TempDir()) // as if no process may be seen
	p, err := f.Find("tcp", addrOf(local), there, Want{Group: true})
	if err != nil || p.Group.Unit != "app-org.example.browser.scope" {
		t.Errorf("got %+v, %v; want app-org.example.browser.scope", p, err)
	}
	f.groups.roots = []string{t.TempDir()} // as if no group were visible
	f.groups.known, f.groups.gone = nil, make(map[uint64]bool)
	f.holders = newHolders("/proc")
	p, err = f.Find("tcp", addrOf(local), there, Want{Group: true})
	if err != nil || p.Group.Unit != "app-org.example.browser.scope" {
		t.Errorf("from /proc: got %+v, %v; want app-org.example.browser.scope", p, err)
	}
}

// However many ask at once, the searches are few, and each sees what there was when it was asked.
func TestRounds(t *testing.T) {
	var searches, now atomic.Int64
	var seen int64
	r := rounds{search: func() { searches.Add(1); time.Sleep(time.Millisecond); seen = now.Load() }}
	var wg sync.WaitGroup
	for range 200 {
		wg.Go(func() {
			want := now.Add(1)
			r.wait()
			r.turn.Lock()
			defer r.turn.Unlock()
			if seen < want {
				t.Errorf("the search saw %d, want at least %d", seen, want)
			}
		})
	}
	wg.Wait()
	if n := searches.Load(); n < 1 || n > 150 {
		t.Errorf("got %d searches for 200 at once, want a few", n)
	}
}

// Many short flows of programs that end at once make a few searches only.
func TestManyShortFlows(t *testing.T) {
	h := newHolders("/proc")
	var searches atomic.Int64
	search := h.rounds.search
	h.rounds.search = func() { searches.Add(1); search() }
	var wg sync.WaitGroup
	for i := range uint32(2000) {
		wg.Go(func() {
			if _, _, ok := h.find(4_000_000_000+i, nobody); ok {
				t.Error("a socket that there is not was found")
			}
		})
	}
	wg.Wait()
	if n := searches.Load(); n > 500 {
		t.Errorf("2000 flows at once made %d searches, want a few", n)
	}
	if len(h.wanted) > 0 {
		t.Errorf("%d sockets are still looked for, want none", len(h.wanted))
	}
}

func benchmark(b *testing.B, want Want, prepare func(*Finder)) {
	there, ln := listen(b)
	go func() {
		for {
			if _, err := ln.Accept(); err != nil {
				return
			}
		}
	}()
	c, err := net.Dial("tcp", there.String())
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	local := addrOf(c.LocalAddr().String())
	f := New()
	defer f.Close()
	b.ReportAllocs()
	for b.Loop() {
		if prepare != nil {
			prepare(f)
		}
		if _, err := f.Find("tcp", local, there, want); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkFindUser(b *testing.B)  { benchmark(b, Want{}, nil) }
func BenchmarkFindGroup(b *testing.B) { benchmark(b, Want{Group: true}, nil) }

func BenchmarkFindPath(b *testing.B) { benchmark(b, Want{Path: true}, nil) }

// A new socket of a program that has opened others of late.
func BenchmarkFindPathOfBusyProgram(b *testing.B) {
	benchmark(b, Want{Path: true}, func(f *Finder) { clear(f.holders.held) })
}

// A new socket of a program that has not: a search of /proc, without the rest between two.
func BenchmarkFindPathAnew(b *testing.B) {
	benchmark(b, Want{Path: true}, func(f *Finder) {
		clear(f.holders.held)
		f.holders.busy, f.holders.rounds.over = nil, time.Time{}
	})
}
