package edition

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"

	"penstock/cmd/internal/config"
	"penstock/cmd/internal/lists"
	"penstock/policy"
	"penstock/router/transport/wireguard"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// Unrelated keys.
const (
	serverKey = "yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk="
	anaKey    = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg="
	bobKey    = "QKLNDTphfWCUSf/SIXuO7CqhJDEhDFRw6cQ7RxUHPVo="
)

// Beginnings of configurations.
const (
	onLaptop  = "listen: {tun: {routes: manual, dns: manual}}\n"
	atGateway = "listen: {wireguard: {address: 10.99.0.1/24, private_key: {file: server.key}}}\n"
	rest      = "rules: [{name: rest, do: direct}]\n"
	bets      = "categories: {bets: {lists: [{file: bets.txt}]}}\n"
	noBets    = "rules: [{name: no-bets, match: {category: bets}, do: block}, {name: rest, do: direct}]\n"
)

// corpConf is a wg-quick file.
const corpConf = `[Interface]
PrivateKey = ` + serverKey + `
Address = 10.8.0.2/32
DNS = 10.0.0.53, corp.example
[Peer]
PublicKey = ` + anaKey + `
Endpoint = 192.0.2.1:51820
AllowedIPs = 0.0.0.0/0
`

// loadIn reads a configuration in a directory, which has the files that configurations here name.
func loadIn(t *testing.T, dir, text string) *config.Config {
	t.Helper()
	cfg, err := config.Load(writtenIn(t, dir, text))
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

// written writes a configuration to a directory of its own, and returns its path.
func written(t *testing.T, text string) string {
	t.Helper()
	return writtenIn(t, t.TempDir(), text)
}

func writtenIn(t *testing.T, dir, text string) string {
	t.Helper()
	for name, text := range map[string]string{"server.key": serverKey, "bets.txt": "casino.example\n", "corp.conf": corpConf, "p.yaml": text} {
		path := filepath.Join(dir, name)
		if _, err := os.Stat(path); err == nil && name != "p.yaml" {
			continue // the test has edited it
		}
		write(t, path, text)
	}
	return filepath.Join(dir, "p.yaml")
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func load(t *testing.T, text string) *config.Config {
	t.Helper()
	return loadIn(t, t.TempDir(), text)
}

// newLive returns a Live with the edition of a configuration in force.
func newLive(t *testing.T, cfg *config.Config) *Live {
	t.Helper()
	l := NewLive(lists.Config{Log: slog.New(slog.DiscardHandler)})
	l.Use(compile(t, l, cfg))
	return l
}

func compile(t *testing.T, l *Live, cfg *config.Config) *Edition {
	t.Helper()
	e, err := l.Compile(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// to returns a flow to a URL that shows its name.
func to(t *testing.T, target string) policy.Flow {
	t.Helper()
	f, err := (&policy.Test{To: target, At: time.Now()}).Flow(nil)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// ownPublicKey is the public key that belongs to serverKey.
func ownPublicKey(t *testing.T) string {
	t.Helper()
	key, err := wireguard.ParsePrivateKey(serverKey)
	if err != nil {
		t.Fatal(err)
	}
	return key.Public().String()
}
