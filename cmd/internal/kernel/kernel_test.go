package kernel

import (
	"fmt"
	"io/fs"
	"net/netip"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"

	"penstock/cmd/internal/config"
	"penstock/policy"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestAWayIsNotForEveryConfiguration(t *testing.T) {
	laptop := func(set func(*config.TUN)) *config.Config {
		c := &config.Config{Datapath: "auto"}
		c.Listen.TUN = &config.TUN{Direct: "kernel", Routes: "auto", StateFile: filepath.Join(t.TempDir(), "host.json")}
		set(c.Listen.TUN)
		return c
	}
	gateway := func(set func(*config.Config)) *config.Config {
		c := &config.Config{Datapath: "auto", StateDir: t.TempDir()}
		c.Listen.WireGuard = &config.WireGuardListen{Direct: "kernel", MTU: 1420}
		set(c)
		return c
	}
	for _, row := range []struct {
		sentence string
		config   *config.Config
		want     string
	}{
		{"no configuration", nil, ""},
		{"neither laptop nor gateway", &config.Config{}, ""},
		{"a laptop", laptop(func(t *config.TUN) { t.Direct = "sockets" }), "direct by sockets: listen.tun.direct is sockets"},
		{"somebody else's routes", laptop(func(t *config.TUN) { t.Routes = "manual" }), "direct by sockets: listen.tun.routes is manual"},
		{"somebody else's TUN", laptop(func(t *config.TUN) { t.FD = new(int) }), "direct by sockets: listen.tun.fd is set"},
		{"both", gateway(func(c *config.Config) {
			c.Listen.TUN = &config.TUN{Direct: "sockets", StateFile: filepath.Join(t.TempDir(), "host.json")}
		}), "direct by sockets: listen.tun.direct is sockets"},
		{"terminate", gateway(func(c *config.Config) { c.Datapath = "terminate" }), "direct by sockets: datapath is terminate"},
		{"sockets", gateway(func(c *config.Config) { c.Listen.WireGuard.Direct = "sockets" }), "direct by sockets: listen.wireguard.direct is sockets"},
	} {
		w := Open(t.Context(), Config{Config: row.config})
		if got := w.String(); got != row.want {
			t.Errorf("%s: got %q, want %q", row.sentence, got, row.want)
		}
		if _, ok := w.Carrier(policy.TCP, netip.MustParseAddr("192.0.2.1")); ok {
			t.Errorf("%s: it carries", row.sentence)
		}
		if err := w.Run(t.Context()); err != nil {
			t.Errorf("%s: %v", row.sentence, err)
		}
		if err := w.Close(); err != nil {
			t.Errorf("%s: %v", row.sentence, err)
		}
	}
}

func TestTheFirstReasonStays(t *testing.T) {
	w := new(Way)
	w.fail(fmt.Errorf("tun: create: %w", fs.ErrPermission))
	w.fail(fmt.Errorf("another"))
	const want = "direct by sockets: tun: create: permission denied: this needs CAP_NET_ADMIN"
	if got := w.String(); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
