package openvpn

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"penstock/router/transport/openvpn/internal/certtest"
)

// The topology of every test here, all inside one network namespace:
//
//	client (this process, fake device 10.x.0.2) -- 127.0.0.1 -- openvpn server -- tun, 10.x.0.1

// realServer is a process of Debian's openvpn.
type realServer struct {
	t      testing.TB
	binary string
	dir    string
	config string
	port   int
	inner  netip.Addr // the server's address inside the tunnel

	cmd *exec.Cmd
	log *logBuffer
	end chan struct{}
}

type logBuffer struct {
	mu  sync.Mutex // guards below
	buf bytes.Buffer
}

func (l *logBuffer) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(b)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

func openvpnBinary(t testing.TB) string {
	t.Helper()
	needNamespace(t)
	for _, name := range []string{"openvpn", "/usr/sbin/openvpn"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	if os.Getenv("PENSTOCK_REQUIRE_OPENVPN") == "1" {
		t.Fatal("no openvpn binary")
	}
	t.Skip("no openvpn binary here to test against")
	return ""
}

var serverNumber atomic.Int32

// newRealServer writes the files of a server and does not start it. lines are added to its configuration.
func newRealServer(t testing.TB, ca *certtest.Authority, network string, lines string) *realServer {
	t.Helper()
	n := serverNumber.Add(1)
	s := &realServer{t: t, binary: openvpnBinary(t), dir: t.TempDir(), port: freePort(t, network)}
	s.inner = netip.AddrFrom4([4]byte{10, byte(n), 0, 1})
	proto, local := "udp4", "127.0.0.1"
	switch network {
	case "tcp":
		proto = "tcp4-server"
	case "udp6":
		proto, local = "udp6", "::1"
	}
	identity := ca.Server(t)
	s.config = fmt.Sprintf("local %s\nport %d\nproto %s\ndev tun\ntopology subnet\nserver 10.%d.0.0 255.255.255.0\n"+
		"dh none\nkeepalive 5 60\nverb 4\n%s", local, s.port, proto, n, lines)
	s.config += certtest.Inline("ca", ca.PEM) + certtest.Inline("cert", identity.Cert) + certtest.Inline("key", identity.Key)
	return s
}

func (s *realServer) file(name, content string) string {
	s.t.Helper()
	path := filepath.Join(s.dir, name)
	if err := os.WriteFile(path, []byte(content), 0o700); err != nil {
		s.t.Fatal(err)
	}
	return path
}

// start runs the server until the end of the test.
func (s *realServer) start() {
	s.t.Helper()
	s.log = &logBuffer{}
	s.cmd = exec.Command(s.binary, "--config", s.file("server.conf", s.config), "--script-security", "2")
	s.cmd.Dir = s.dir
	s.cmd.Stdout, s.cmd.Stderr = s.log, s.log
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	cmd, end := s.cmd, make(chan struct{})
	s.end = end
	go func() { _ = cmd.Wait(); close(end) }()
	s.t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGCONT)
		_ = cmd.Process.Kill()
		<-end
		if s.t.Failed() {
			s.t.Logf("server log:\n%s", tail(s.log.String(), 120))
		}
	})
	waitFor(s.t, "the server's start", func() bool {
		select {
		case <-end:
			s.t.Fatalf("the server ended:\n%s", s.log)
		default:
		}
		return strings.Contains(s.log.String(), "Initialization Sequence Completed")
	})
}

func (s *realServer) signal(sig syscall.Signal) {
	s.t.Helper()
	if err := s.cmd.Process.Signal(sig); err != nil {
		s.t.Fatal(err)
	}
}

func tail(s string, lines int) string {
	all := strings.Split(s, "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}
