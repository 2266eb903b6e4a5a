package daemon

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"penstock/cmd/internal/config"
	"penstock/router/transport/wireguard"
)

// snippet returns the block with a mark, of the README or of another page.
func snippet(t *testing.T, mark string) string {
	t.Helper()
	pages, err := filepath.Glob("../../../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, page := range append(pages, "../../../README.md") {
		b, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		_, after, ok := strings.Cut(string(b), "```yaml "+mark+"\n")
		text, _, closed := strings.Cut(after, "```")
		if ok && closed {
			return text
		}
	}
	t.Fatalf("no page has a block marked %q", mark)
	return ""
}

// explained returns the host that the README explains.
func explained(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile("../../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, after, ok := strings.Cut(string(b), "penstock explain https://")
	host, _, _ := strings.Cut(after, "\n")
	if !ok || host == "" {
		t.Fatal("README.md has no penstock explain")
	}
	return host
}

func TestReadmeConfigurationsAreGood(t *testing.T) {
	key, server := wireguard.GeneratePrivateKey(), wireguard.GeneratePrivateKey()
	profile := "[Interface]\nPrivateKey = " + key.Reveal() + "\nAddress = 10.99.0.2/32, fd99::2/128\nDNS = 10.99.0.1\n" +
		"[Peer]\nPublicKey = " + server.Public().String() + "\nEndpoint = vpn.example:51820\nAllowedIPs = 0.0.0.0/0, ::/0\n"
	for _, mark := range []string{"laptop", "filter", "gateway", "names", "ntp", "enrol", "acme", "proxy", "programs",
		"more", "family", "family-tests", "child", "intranet", "container", "sidecar", "moved", "adguard", "sign-on"} {
		t.Run(mark, func(t *testing.T) {
			dir, text := t.TempDir(), snippet(t, mark)
			if whole, ok := strings.CutSuffix(mark, "-tests"); ok { // these are for when there are peers
				text = snippet(t, whole) + text
			}
			t.Setenv("GATEWAY_KEY", key.Reveal())
			text = strings.ReplaceAll(text, "/var/lib/penstock/", dir+"/")
			for name, text := range map[string]string{mark + ".yaml": text, "hq.conf": profile, "hq.ovpn": "client\nremote vpn.example\nauth-user-pass\npeer-fingerprint " + strings.Repeat("AB:", 31) + "AB\n", "hq.password": "correct-horse\n",
				"exceptions.txt": "ok.example\n", "rules.txt": "||ads.example^\n@@||ok.ads.example^\n", "gateway.key": key.Reveal() + "\n", "extra.txt": "casino.example\n",
				"ana.password": "correct-horse\n", "printer.password": "battery-staple\n"} {
				if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if err := os.Mkdir(filepath.Join(dir, "peers.d"), 0o700); err != nil {
				t.Fatal(err)
			}
			peers := "peers:\n  - {name: mia, groups: [kids, staff, admins], public_key: " +
				server.Public().String() + ", allowed_ips: 10.99.0.9/32}\n"
			if err := os.WriteFile(filepath.Join(dir, "peers.d", "mia.yaml"), []byte(peers), 0o600); err != nil {
				t.Fatal(err)
			}
			cfg, err := config.Load(filepath.Join(dir, mark+".yaml"))
			if err != nil {
				t.Fatal(err)
			}
			found, err := Check(t.Context(), cfg)
			if err != nil {
				t.Fatal(err)
			}
			for _, bad := range found.Warnings() {
				if !strings.Contains(bad, "lists.example") && !strings.Contains(bad, "in clear") { // which has not been fetched, and which the page says
					t.Error(bad)
				}
			}
			if host := explained(t); mark == "laptop" && found.Lists.Set().Lookup(host) == 0 {
				t.Errorf("README.md explains why %s is blocked, and no built-in list of its configuration has it", host)
			}
		})
	}
}
