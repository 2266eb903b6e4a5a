package edition

import (
	"context"
	"encoding/base64"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"penstock/cmd/internal/config"
	"penstock/cmd/internal/gateway"
	"penstock/stack"
)

// TestAPeerThatIsAwayWeighsLittle opens gateways with many peers, and with twice as many, of which none calls, and compares what they
// have on the heap: the configuration, its text, the book of clients and WireGuard's table.
func TestAPeerThatIsAwayWeighsLittle(t *testing.T) {
	const peers, most = 30_000, 400 // bytes
	dir := t.TempDir()
	weigh := func(n int) int64 {
		main := writeGateway(t, dir, n)
		cfg, err := config.Load(main)
		if err != nil {
			t.Fatal(err)
		}
		cfg.Listen.WireGuard.ListenPort = 0 // the system chooses one
		e := compile(t, newLive(t, cfg), cfg)
		g, err := gateway.Open(gateway.Config{Plan: e.Gateway, Handle: stack.Waiting(func(context.Context, *stack.Request) {}), Peer: e.Clients.Peer})
		if err != nil {
			t.Fatal(err)
		}
		heap := settled(t)
		if got := len(g.Peers()); got != n {
			t.Fatalf("got %d peers, want %d", got, n)
		}
		if err := g.Close(); err != nil {
			t.Error(err)
		}
		runtime.KeepAlive(e)
		return heap
	}
	weigh(10) // what is made once in a process
	once, twice := weigh(peers), weigh(2*peers)
	each := (twice - once) / peers
	t.Logf("each of %d more peers has %d bytes", peers, each)
	if each > most {
		t.Errorf("got %d bytes for each of %d more peers, want %d at most", each, peers, most)
	}
}

// settled is how many bytes the heap has once that changes no more: goroutines that have just begun make their buffers meanwhile.
func settled(t *testing.T) int64 {
	t.Helper()
	var last int64
	for same, tries := 0, 0; same < 5; tries++ {
		if tries == 500 {
			t.Fatal("the heap still changes")
		}
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		now := int64(m.HeapAlloc)
		if same++; max(now-last, last-now) > 64<<10 {
			same = 0
		}
		last = now
		time.Sleep(20 * time.Millisecond)
	}
	return last
}

// writeGateway writes the configuration of a gateway with peers, and returns its path.
func writeGateway(t *testing.T, dir string, peers int) string {
	t.Helper()
	random := rand.NewChaCha8([32]byte{1})
	key := func() string {
		var key [32]byte
		random.Read(key[:])
		return base64.StdEncoding.EncodeToString(key[:])
	}
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	if err := os.MkdirAll(filepath.Join(dir, "peers"), 0o700); err != nil {
		t.Fatal(err)
	}
	const perFile = 20_000
	addr := netip.MustParseAddr("10.64.0.1")
	for first := 0; first < peers; first += perFile {
		var text strings.Builder
		text.WriteString("peers:\n")
		for i := first; i < min(first+perFile, peers); i++ {
			fmt.Fprintf(&text, "  - {name: peer-%06d, public_key: %s, allowed_ips: [%s/32], groups: [staff]}\n", i, key(), addr)
			addr = addr.Next()
		}
		write(fmt.Sprintf("peers/%d.yaml", first), text.String())
	}
	write("server.key", key())
	return write("penstock.yaml", `include: [peers/*.yaml]
listen: {wireguard: {address: [10.63.255.1/10], private_key: {file: server.key}, listen_port: 51820, direct: sockets}}
rules: [{name: staff, match: {group: staff}, do: direct}, {name: rest, do: block}]
`)
}
