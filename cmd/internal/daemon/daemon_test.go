package daemon

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"penstock/cmd/internal/config"
	"penstock/stack/link"
)

// nowhere is a network in which no dial succeeds.
type nowhere struct{}

func (nowhere) DialContext(context.Context, string, string) (net.Conn, error) {
	return nil, syscall.ENETUNREACH
}
func (nowhere) Control(string, string, syscall.RawConn) error { return nil }
func (nowhere) Reserved(netip.Addr) bool                      { return false }
func (nowhere) Routed(netip.Addr) bool                        { return false }
func (nowhere) Close() error                                  { return nil }

// file writes a file for a configuration.
func file(t *testing.T, dir, name, text string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// built builds a daemon from the text of a configuration, with an in-memory TUN and a network in which no dial succeeds. It does
// not run the daemon.
func built(t *testing.T, text string) *Daemon {
	t.Helper()
	dir := t.TempDir()
	return builtIn(t, dir, text)
}

func builtIn(t *testing.T, dir, text string) *Daemon {
	t.Helper()
	cfg, err := config.Load(file(t, dir, "p.yaml", text))
	if err != nil {
		t.Fatal(err)
	}
	near, far := link.Pipe(1500)
	t.Cleanup(func() { far.Close() })
	d, opened, err := build(t.Context(), cfg, Options{TUN: near, Direct: nowhere{}, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := opened.close(false); err != nil {
			t.Error(err)
		}
	})
	return d
}

// laptopText is the configuration of a laptop in a few lines. It keeps nothing where a penstock of this machine does.
const laptopText = "state_dir: state\nlisten: {tun: {routes: manual, dns: manual}}\ndns: {upstreams: [{address: 192.0.2.53}]}\nrules: [{name: rest, do: direct}]\n"
