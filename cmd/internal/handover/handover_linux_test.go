package handover

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"penstock/cmd/internal/systemd"
	"penstock/e2e/netlab/keeper"
)

// asChild names the address that this program serves instead of running tests.
const asChild = "HANDOVER_TEST_SERVES"

func TestMain(m *testing.M) {
	if address := os.Getenv(asChild); address != "" {
		if err := serve(address); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	goleak.VerifyTestMain(m)
}

// store is a service manager in this process.
type store struct {
	fault error
	kept  []*os.File
}

func (s *store) Keep(name string, fd uintptr) error {
	if s.fault != nil {
		return s.fault
	}
	other, err := syscall.Dup(int(fd))
	s.kept = append(s.kept, os.NewFile(uintptr(other), name))
	return err
}

func (s *store) Drop(name string) error {
	s.kept = slices.DeleteFunc(s.kept, func(f *os.File) bool { return f.Name() == name && f.Close() == nil })
	return nil
}

// next returns what the process gets that is started now.
func (s *store) next(t *testing.T) (files []*os.File) {
	t.Helper()
	for _, f := range s.kept {
		fd, err := syscall.Dup(int(f.Fd()))
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, os.NewFile(uintptr(fd), f.Name()))
	}
	return files
}

// end closes everything of a process.
func (s *Sockets) end() {
	for _, k := range s.all {
		k.file.Close()
	}
}

// inode tells whether two descriptors are of one socket.
func inode(t *testing.T, socket any) (n uint64) {
	t.Helper()
	if err := control(socket, func(fd uintptr) error {
		var st unix.Stat_t
		err := unix.Fstat(int(fd), &st)
		n = st.Ino
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return n
}

// freePort returns a port that nobody has.
func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return port
}

// option sets an option before a socket is bound.
func option(level, name, value int) net.ListenConfig {
	return net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var failed error
		err := c.Control(func(fd uintptr) { failed = unix.SetsockoptInt(int(fd), level, name, value) })
		return errors.Join(err, failed)
	}}
}

// asked is a socket that is asked for: TCP or UDP, by its network.
type asked struct {
	network, host string
	lc            net.ListenConfig
}

func (a asked) open(t *testing.T, s *Sockets, port string) io.Closer {
	t.Helper()
	var socket io.Closer
	var err error
	if strings.HasPrefix(a.network, "tcp") {
		socket, err = s.Listen(t.Context(), a.lc, a.network, net.JoinHostPort(a.host, port))
	} else {
		socket, err = s.ListenPacket(t.Context(), a.lc, a.network, net.JoinHostPort(a.host, port))
	}
	if errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.EADDRNOTAVAIL) || errors.Is(err, syscall.EAFNOSUPPORT) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatalf("%s %s: %v", a.network, a.host, err)
	}
	return socket
}

func TestASocketIsUsedIfItIsWhatIsAskedFor(t *testing.T) {
	var (
		marked   = option(unix.SOL_SOCKET, unix.SO_MARK, 7)
		remarked = option(unix.SOL_SOCKET, unix.SO_MARK, 8)
		shared   = option(unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)
		none     net.ListenConfig
		alive    = net.ListenConfig{KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: time.Hour}}
		bound    = net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
			var failed error
			err := c.Control(func(fd uintptr) { failed = unix.BindToDevice(int(fd), "lo") })
			return errors.Join(err, failed)
		}}
	)
	for _, row := range []struct {
		sentence    string
		before, now asked
		same        bool
	}{
		{"the same over TCP", asked{"tcp", "127.0.0.1", none}, asked{"tcp", "127.0.0.1", none}, true},
		{"the same over UDP", asked{"udp", "127.0.0.1", none}, asked{"udp", "127.0.0.1", none}, true},
		{"a name for the address", asked{"tcp", "127.0.0.1", none}, asked{"tcp", "localhost", none}, true},
		{"all addresses, in two spellings", asked{"tcp", "", none}, asked{"tcp", "::", none}, true},
		{"all of one family", asked{"udp6", "", none}, asked{"udp6", "", none}, true},
		{"a mark, as before", asked{"udp4", "", marked}, asked{"udp4", "", marked}, true},
		{"other times for connections that are accepted", asked{"tcp", "127.0.0.1", none}, asked{"tcp", "127.0.0.1", alive}, true},
		{"another address", asked{"tcp", "127.0.0.1", none}, asked{"tcp", "127.0.0.2", none}, false},
		{"all addresses in place of one", asked{"tcp", "127.0.0.1", none}, asked{"tcp", "", none}, false},
		{"one address in place of all", asked{"udp", "", none}, asked{"udp", "127.0.0.1", none}, false},
		{"UDP in place of TCP", asked{"tcp", "127.0.0.1", none}, asked{"udp", "127.0.0.1", none}, false},
		{"one family in place of both", asked{"tcp", "", none}, asked{"tcp6", "", none}, false},
		{"both families in place of one", asked{"udp6", "", none}, asked{"udp", "", none}, false},
		{"another mark", asked{"tcp", "127.0.0.1", marked}, asked{"tcp", "127.0.0.1", remarked}, false},
		{"no mark any more", asked{"udp4", "", marked}, asked{"udp4", "", none}, false},
		{"a port that others may share", asked{"udp", "127.0.0.1", shared}, asked{"udp", "127.0.0.1", none}, false},
		{"bound to an interface", asked{"tcp", "127.0.0.1", bound}, asked{"tcp", "127.0.0.1", none}, false},
	} {
		t.Run(row.sentence, func(t *testing.T) {
			port, m := freePort(t), new(store)
			defer func() { _ = m.closeAll() }()
			first := with(nil, m, slog.New(slog.DiscardHandler))
			before := row.before.open(t, first, port)
			number := inode(t, before)
			before.Close()
			first.end()

			second := with(m.next(t), m, slog.New(slog.DiscardHandler))
			defer second.end()
			now := row.now.open(t, second, port)
			defer now.Close()
			second.Ready()
			if got := inode(t, now); (got == number) != row.same {
				t.Errorf("got socket %d after %d, want the same one: %v", got, number, row.same)
			}
			if len(m.kept) != 1 || inode(t, m.kept[0]) != inode(t, now) {
				t.Errorf("kept: got %d sockets, want the one in use", len(m.kept))
			}
			if l, ok := now.(net.Listener); ok {
				answers(t, l, port)
			}
		})
	}
}

// answers wants that a listener accepts who comes.
func answers(t *testing.T, l net.Listener, port string) {
	t.Helper()
	host, _, _ := net.SplitHostPort(l.Addr().String())
	c, err := net.Dial("tcp", net.JoinHostPort(host, port))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	accepted, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	accepted.Close()
}

func (s *store) closeAll() error {
	for _, f := range s.kept {
		f.Close()
	}
	return nil
}

// TestNamesAreNotBelieved: the name of one socket is that of another, and what is no socket has one, too.
func TestNamesAreNotBelieved(t *testing.T) {
	port, m := freePort(t), new(store)
	defer func() { _ = m.closeAll() }()
	other, err := net.Listen("tcp", "127.0.0.2:"+freePort(t))
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if err := control(other, func(fd uintptr) error { return m.Keep("tcp/127.0.0.1/"+port, fd) }); err != nil {
		t.Fatal(err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	if err := m.Keep("tcp/127.0.0.1/"+port, r.Fd()); err != nil {
		t.Fatal(err)
	}
	s := with(m.next(t), m, slog.New(slog.DiscardHandler))
	defer s.end()
	l, err := s.Listen(t.Context(), net.ListenConfig{}, "tcp", "127.0.0.1:"+port)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	s.Ready()
	answers(t, l, port)
}

// TestAPortIsGivenOnce: what two ask for in one run is refused to the second, as ever. The next run in the process has it again.
func TestAPortIsGivenOnce(t *testing.T) {
	m := new(store)
	defer func() { _ = m.closeAll() }()
	s := with(nil, m, slog.New(slog.DiscardHandler))
	defer s.end()
	address := "127.0.0.1:" + freePort(t)
	first, err := s.Listen(t.Context(), net.ListenConfig{}, "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Listen(t.Context(), net.ListenConfig{}, "tcp", address); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("got %v, want %v", err, syscall.EADDRINUSE)
	}
	number := inode(t, first)
	first.Close()
	s.Begin()
	again, err := s.Listen(t.Context(), net.ListenConfig{}, "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if got := inode(t, again); got != number {
		t.Errorf("got socket %d, want %d", got, number)
	}
	s.Ready()
	if len(m.kept) != 1 {
		t.Errorf("kept: got %d, want 1", len(m.kept))
	}
}

func TestWhatNobodyAsksForIsClosed(t *testing.T) {
	m := new(store)
	s := with(nil, m, slog.New(slog.DiscardHandler))
	address := "127.0.0.1:" + freePort(t)
	l, err := s.Listen(t.Context(), net.ListenConfig{}, "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	s.end()
	with(m.next(t), m, slog.New(slog.DiscardHandler)).Ready()
	if c, err := net.Dial("tcp", address); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("got %v %v, want it refused", c, err)
	}
}

// Two sockets that differ in no more than options or their interface can have one port. What the one before gets is lost.
func TestOneThatDiffersIsClosedBesideItsSuccessor(t *testing.T) {
	m, port := new(store), freePort(t)
	defer func() { _ = m.closeAll() }()
	first, second := option(unix.SOL_SOCKET, unix.SO_REUSEPORT, 1), option(unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)
	both := second.Control
	second.Control = func(network, address string, c syscall.RawConn) error {
		return errors.Join(both(network, address, c), option(unix.SOL_SOCKET, unix.SO_REUSEADDR, 1).Control(network, address, c))
	}
	var numbers []uint64
	for _, lc := range []net.ListenConfig{first, second, second} {
		s := with(m.next(t), m, slog.New(slog.DiscardHandler))
		l := asked{"udp", "127.0.0.1", lc}.open(t, s, port)
		s.Ready()
		numbers = append(numbers, inode(t, l))
		if len(m.kept) != 1 || inode(t, m.kept[0]) != numbers[len(numbers)-1] {
			t.Errorf("run %d: %d sockets are kept, want the one that is used", len(numbers), len(m.kept))
		}
		l.Close()
		s.end()
	}
	if numbers[0] == numbers[1] || numbers[1] != numbers[2] {
		t.Errorf("got the sockets %v, want another one, and that again", numbers)
	}
}

// TestWithoutAStoreItWorksAsBefore: a store that fails costs one line of the log.
func TestWithoutAStoreItWorksAsBefore(t *testing.T) {
	var log bytes.Buffer
	broken := with(nil, &store{fault: errors.New("no room")}, slog.New(slog.NewTextHandler(&log, nil)))
	defer broken.end()
	for _, s := range []*Sockets{nil, broken} {
		s.Begin()
		for range 2 {
			l, err := s.Listen(t.Context(), net.ListenConfig{}, "tcp", "127.0.0.1:"+freePort(t))
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
		}
		any, err := s.ListenPacket(t.Context(), net.ListenConfig{}, "udp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer any.Close()
		s.Ready()
	}
	if n := strings.Count(log.String(), "no room"); n != 1 {
		t.Errorf("got %d lines of the log, want 1:\n%s", n, log.String())
	}
	if s := Inherit(nil, slog.New(slog.DiscardHandler)); s != nil {
		t.Errorf("got %v, want none", s)
	}
}

// serve answers over TCP and UDP with what it was sent, until it is killed.
func serve(address string) error {
	s := Inherit(systemd.NewNotifier(), slog.New(slog.NewTextHandler(os.Stderr, nil)))
	for _, name := range []string{"LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"} {
		if v, ok := os.LookupEnv(name); ok {
			return fmt.Errorf("children would see %s=%s", name, v)
		}
	}
	s.Begin()
	l, err := s.Listen(context.Background(), net.ListenConfig{}, "tcp", address)
	if err != nil {
		return err
	}
	packets, err := s.ListenPacket(context.Background(), net.ListenConfig{}, "udp", address)
	if err != nil {
		return err
	}
	s.Ready()
	go func() {
		for {
			b := make([]byte, 64)
			if n, from, err := packets.ReadFrom(b); err == nil {
				_, _ = packets.WriteTo(b[:n], from)
			}
		}
	}()
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		go func() { _, _ = io.Copy(c, c) }()
	}
}

// this [a service manager, a client] --- a child that serves, is killed, and is started again
func TestAKilledProcessRefusesNobody(t *testing.T) {
	m, err := keeper.New(t.TempDir(), 2)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	address := "127.0.0.1:" + freePort(t)
	run := func() (kill func()) {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), asChild+"="+address)
		cmd.Stderr = t.Output()
		m.Manage(cmd)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		return func() {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
	}
	kill := run()
	for deadline := time.Now().Add(30 * time.Second); len(m.Names()) < 2; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			kill()
			t.Fatalf("kept: got %q, want two", m.Names())
		}
	}
	kill()
	// Nobody runs now.
	var waiting []net.Conn
	for _, network := range []string{"tcp", "udp"} {
		c, err := net.Dial(network, address)
		if err == nil {
			_, err = c.Write([]byte(network))
		}
		if err != nil {
			t.Fatalf("while nobody serves %s: %v", network, err)
		}
		waiting = append(waiting, c)
	}
	kill = run()
	defer kill()
	for _, c := range waiting {
		b := make([]byte, 3)
		_ = c.SetReadDeadline(time.Now().Add(30 * time.Second))
		if _, err := io.ReadFull(c, b); err != nil || string(b) != c.LocalAddr().Network() {
			t.Errorf("%s: got %q %v, want an answer", c.LocalAddr().Network(), b, err)
		}
		c.Close()
	}
	if got, want := m.Names(), []string{"tcp/" + strings.ReplaceAll(address, ":", "/"), "udp/" + strings.ReplaceAll(address, ":", "/")}; !slices.Equal(got, want) {
		t.Errorf("kept: got %q, want %q", got, want)
	}
	if n := m.Refused(); n != 0 {
		t.Errorf("got %d descriptors that were not kept", n)
	}
}
