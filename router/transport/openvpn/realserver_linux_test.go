package openvpn

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
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
func newRealServer(t testing.TB, ca *authority, network string, lines string) *realServer {
	t.Helper()
	n := serverNumber.Add(1)
	s := &realServer{t: t, binary: openvpnBinary(t), dir: t.TempDir(), port: freePort(t, network)}
	s.inner = netip.AddrFrom4([4]byte{10, byte(n), 0, 1})
	proto := "udp4"
	if network == "tcp" {
		proto = "tcp4-server"
	}
	identity := ca.server(t)
	s.config = fmt.Sprintf("local 127.0.0.1\nport %d\nproto %s\ndev tun\ntopology subnet\nserver 10.%d.0.0 255.255.255.0\n"+
		"dh none\nkeepalive 5 60\nverb 4\n%s", s.port, proto, n, lines)
	s.config += inline("ca", ca.pem) + inline("cert", identity.cert) + inline("key", identity.key)
	return s
}

func freePort(t testing.TB, network string) int {
	t.Helper()
	if network == "tcp" {
		l, err := net.Listen("tcp4", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = l.Close() }()
		return l.Addr().(*net.TCPAddr).Port
	}
	l, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.LocalAddr().(*net.UDPAddr).Port
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

func waitFor(t testing.TB, what string, ok func() bool) {
	t.Helper()
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	deadline := time.After(30 * time.Second)
	for !ok() {
		select {
		case <-ticker.C:
		case <-deadline:
			t.Fatalf("waited 30 s for %s", what)
		}
	}
}

// testClient is a Client with all a test wants to see of it.
type testClient struct {
	*Client
	device   *fakeDevice
	settings *settingsBox
	lost     chan error
}

func newTestClient(t testing.TB, profile *Profile, change func(*Config)) *testClient {
	t.Helper()
	tc := &testClient{device: newFakeDevice(), settings: &settingsBox{}, lost: make(chan error, 16)}
	cfg := Config{
		Name: "corp", Profile: profile, Device: tc.device, Configure: tc.settings.set,
		Lost: func(err error) { tc.lost <- err },
		Log:  slog.New(slog.NewTextHandler(testWriter{t}, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	if change != nil {
		change(&cfg)
	}
	var err error
	if tc.Client, err = New(cfg); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := tc.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return tc
}

type testWriter struct{ t testing.TB }

func (w testWriter) Write(b []byte) (int, error) {
	w.t.Log(strings.TrimSpace(string(b)))
	return len(b), nil
}

func (c *testClient) connect(t testing.TB) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := c.Connect(ctx); err != nil {
		t.Fatalf("Connect: %v", err)
	}
}

func (c *testClient) addr(t testing.TB) netip.Addr { return c.settings.last(t).Addrs[0].Addr() }

// profileFor is a client profile for a server on this host.
func profileFor(t testing.TB, ca *authority, network string, port int, lines string) *Profile {
	t.Helper()
	id := ca.client(t)
	return mustParse(t, fmt.Sprintf("client\ndev tun\nremote 127.0.0.1 %d %s\nremote-cert-tls server\n%s", port, network, lines)+
		inline("ca", ca.pem)+inline("cert", id.cert)+inline("key", id.key))
}
