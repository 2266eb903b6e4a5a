package laptop

import (
	"bytes"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"penstock/cmd/internal/config"
)

func TestAChoiceOfNetworksIsKept(t *testing.T) {
	defaults := []netip.Prefix{netip.MustParsePrefix("10.77.0.1/24"), netip.MustParsePrefix("fd77::1/64")}
	others := []netip.Prefix{netip.MustParsePrefix("10.79.0.1/24"), netip.MustParsePrefix("fd79::1/64")}
	var log bytes.Buffer
	cfg := &config.TUN{Name: "pen0", Address: defaults, StateFile: filepath.Join(t.TempDir(), "host.json")}
	n := newNetworks(cfg, nil, slog.New(slog.NewTextHandler(&log, nil)))
	if err := n.keep(nil, others); err != nil {
		t.Fatal(err)
	}
	if got := n.kept(); !slices.Equal(got, others) {
		t.Errorf("got %v, want %v", got, others)
	}
	if err := n.keep(others, defaults); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(n.file()); !os.IsNotExist(err) || n.kept() != nil {
		t.Errorf("after the choice of the default: got %v, want no file", err)
	}
	for name, content := range map[string]string{"cut short": `["10.79.0.1/24","fd`, "empty": "", "something else": `{"version": 9}`} {
		log.Reset()
		if err := os.WriteFile(n.file(), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := n.kept(); got != nil || strings.Count(log.String(), "\n") != 1 {
			t.Errorf("%s: got %v and the log %q, want nothing and one line", name, got, log.String())
		}
	}
}

func TestOnlyNetworksThatNobodyNamedAreReplaced(t *testing.T) {
	fd := 3
	for name, row := range map[string]struct {
		cfg  *config.TUN
		free bool
	}{
		"a default":            {&config.TUN{}, true},
		"written by the user":  {&config.TUN{AddressGiven: true}, false},
		"somebody else's TUN":  {&config.TUN{FD: &fd}, false},
		"a gateway without it": {nil, false},
	} {
		n := newNetworks(row.cfg, nil, slog.New(slog.DiscardHandler))
		if got := n.crowd(); got != row.free {
			t.Errorf("%s: got %v, want %v", name, got, row.free)
		}
		if !row.free && n.start() {
			t.Errorf("%s: got other networks", name)
		}
	}
}

func TestWhoSaysTheMTUOfTheTUN(t *testing.T) {
	fd := 3
	for _, row := range []struct {
		name      string
		cfg       config.TUN
		transport int
		want      int
	}{
		{"the narrowest transport", config.TUN{}, 1420, 1420},
		{"nobody, without a transport", config.TUN{}, 0, 0},
		{"IPv6, if a transport is narrower", config.TUN{}, 1200, 1280},
		{"the configuration", config.TUN{MTU: 1500}, 1420, 1500},
		{"whoever opened it", config.TUN{FD: &fd}, 1420, 0},
	} {
		was := row.cfg.MTU
		if got := sized(&row.cfg, row.transport).MTU; got != row.want || row.cfg.MTU != was {
			t.Errorf("%s: got %d, want %d, and the configuration as it was", row.name, got, row.want)
		}
	}
	if sized(nil, 1420) != nil {
		t.Error("there is a TUN")
	}
}
