package dnsproxy

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// TestAnswersLeaveFromTheAddressThatWasAsked: a server that listens on all addresses answers from the one that the client asked. A
// client with a connected socket, as resolvers have, never sees an answer from another one.
//
//	network namespace: lo 127.0.0.0/8, fd00::1, fd00::2
func TestAnswersLeaveFromTheAddressThatWasAsked(t *testing.T) {
	const setup = "ip link set lo up && ip addr add fd00::1/128 dev lo nodad && ip addr add fd00::2/128 dev lo nodad && " +
		"for i in $(seq 50); do [ $(ip -6 route show table local | grep -c '^local fd00::[12] ') = 2 ] && exit; sleep 0.1; done; exit 1" // the system adds the routes when it likes
	if !inNamespace(t, setup) {
		return
	}
	s := newServer(t, Settings{})
	tests := []struct{ network, listen, ask string }{
		{"udp4", "0.0.0.0:0", "127.0.0.1"},
		{"udp4", "0.0.0.0:0", "127.0.0.2"},
		{"udp", "[::]:0", "127.0.0.2"},
		{"udp", "[::]:0", "fd00::1"},
		{"udp", "[::]:0", "fd00::2"},
		{"udp6", "[::]:0", "fd00::2"},
	}
	for _, tt := range tests {
		t.Run(fmt.Sprintf("%s %s asked at %s", tt.network, tt.listen, tt.ask), func(t *testing.T) {
			pc, err := net.ListenPacket(tt.network, tt.listen)
			if err != nil {
				t.Fatal(err)
			}
			defer pc.Close()
			ctx, cancel := contextOf(t)
			var wg sync.WaitGroup
			wg.Go(func() { s.ServePacketConn(ctx, pc) })
			defer wg.Wait()
			defer cancel()
			conn := dial(t, "udp", net.JoinHostPort(tt.ask, fmt.Sprint(pc.LocalAddr().(*net.UDPAddr).Port)))
			defer conn.Close()
			var a *dns.Msg
			for range 5 { // a query that comes before the server has set its socket up is answered from anywhere
				conn.SetDeadline(time.Now().Add(300 * time.Millisecond))
				conn.WriteMsg(query("localhost", "A"))
				if a, err = conn.ReadMsg(); err == nil {
					break
				}
			}
			if err != nil {
				t.Fatalf("no answer from the address that was asked: %v", err)
			}
			if got, want := brief(a), "NOERROR 127.0.0.1"; got != want {
				t.Errorf("got %s, want %s", got, want)
			}
		})
	}
}

// inNamespace runs the test again, in a process with a network namespace of its own in which setup has been run. It reports true
// there, and false when that process is over.
func inNamespace(t *testing.T, setup string) bool {
	t.Helper()
	const inside = "PENSTOCK_TEST_NAMESPACE"
	if os.Getenv(inside) != "" {
		if out, err := exec.Command("sh", "-c", setup).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", setup, err, out)
		}
		return true
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	out, err := cmd.CombinedOutput()
	switch {
	case os.IsPermission(err):
		t.Skip("no network namespace: ", err)
	case err != nil:
		t.Errorf("in the namespace: %v\n%s", err, out)
	}
	return false
}

// TestSourceAllocates: to answer from the right address takes no memory.
func TestSourceAllocates(t *testing.T) {
	var info packetInfo
	info.len = syscall.CmsgSpace(20)
	if got := testing.AllocsPerRun(100, func() { info.source() }); got != 0 {
		t.Errorf("got %v allocations, want 0", got)
	}
}
