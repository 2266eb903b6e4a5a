package e2e

import (
	"crypto/ecdh"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"penstock/e2e/netlab"
)

// The addresses inside the tunnel.
const (
	gatewayInner4, gatewayInner6 = "10.99.0.1", "fd99::1"
	laptopInner4, laptopInner6   = "10.99.0.2", "fd99::2"
)

// Addresses of public sites, for those who go there without asking.
const (
	publicIPv4, publicIPv6     = "203.0.113.10", "2001:db8:113::10"
	newsIPv4                   = "203.0.113.11"
	gamblingIPv4, gamblingIPv6 = "203.0.113.20", "2001:db8:113::20"
	adultIPv4                  = "203.0.113.21"
)

// monitor is where both penstocks serve metrics and health, each on its own host.
const monitor = "127.0.0.1:9477"

// world is a lab with the files of a laptop and a gateway that know each other, and their penstocks once up has run.
type world struct {
	*netlab.Lab
	dir             string            // of the files
	fill            *strings.Replacer // writes keys and paths into a configuration
	laptop, gateway *penstock
	environ         []string // of the gateway, beside that of the test
	capture         *netlab.Capture
}

// newWorld makes a lab and writes the configurations. Edits are pairs of old and new text for laptop.yaml.
func newWorld(t *testing.T, edits ...string) *world {
	t.Helper()
	w := &world{Lab: newLab(t)}
	// Not t.TempDir: the path of a socket is short.
	dir, err := os.MkdirTemp("", "e2e-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	w.dir = dir
	gatewayKey, gatewayPublic := keyPair(t)
	laptopKey, laptopPublic := keyPair(t)
	w.fill = strings.NewReplacer("DIR", dir, "LAPTOP_KEY", laptopKey, "LAPTOP_PUBLIC", laptopPublic, "GATEWAY_KEY", gatewayKey, "GATEWAY_PUBLIC", gatewayPublic)
	w.write(t, "gateway.key", gatewayKey+"\n")
	w.write(t, "gambling.txt", "# gambling sites of this world\n"+netlab.GamblingSite+"\n")
	w.write(t, "adult.hosts", "0.0.0.0 "+netlab.AdultSite+"\n")
	w.write(t, "corp.conf", w.fill.Replace(corpConf))
	w.write(t, "gateway.yaml", w.fill.Replace(gatewayYAML))
	w.write(t, "laptop.yaml", w.fill.Replace(laptopYAML))
	for i := 0; i+1 < len(edits); i += 2 {
		w.edit(t, "laptop.yaml", edits[i], edits[i+1])
	}
	return w
}

const corpConf = `[Interface]
PrivateKey = LAPTOP_KEY
Address = 10.99.0.2/32, fd99::2/128
DNS = 10.99.0.1

[Peer]
PublicKey = GATEWAY_PUBLIC
AllowedIPs = 0.0.0.0/0, ::/0
Endpoint = 198.51.100.10:51820
`

const gatewayYAML = `listen:
  wireguard: {listen_port: 51820, address: [10.99.0.1/24, "fd99::1/64"], private_key: {file: gateway.key}, endpoint: "198.51.100.10:51820"}
include: peers.d/*.yaml
peers:
  - {name: laptop, public_key: LAPTOP_PUBLIC, allowed_ips: [10.99.0.2/32, "fd99::2/128"], groups: [staff]}
dns:
  upstreams: [{address: 203.0.113.53}]
  split: [{domains: [corp.example], upstream: {address: 10.20.0.10}}]
rules:
  - {name: intranet, match: {cidr: [10.20.0.0/24, "fd20::/64"], group: [staff]}, do: direct}
  - {name: no-private, match: {cidr: private}, do: block}
  - {name: rest, do: direct}
metrics: {listen: "127.0.0.1:9477"}
`

const laptopYAML = `listen:
  tun: {name: pen0, address: [10.77.0.1/24, "fd77::1/64"], state_file: DIR/host.json}
transports:
  corp: {wireguard: {config: corp.conf}}
categories:
  gambling: {lists: [{file: gambling.txt}]}
  adult: {lists: [{file: adult.hosts}]}
dns:
  upstreams: [{address: 10.99.0.1, via: corp}]
  split: [{domains: [corp.example], upstream: {address: 10.99.0.1, via: corp}}]
rules:
  - {name: no-gambling, match: {category: gambling}, do: block}
  - {name: no-adult, match: {category: adult}, do: block}
  - {name: intranet, match: {domain: corp.example}, do: {via: corp}}
  - {name: rest, do: {via: corp}}
metrics: {listen: "127.0.0.1:9477"}
`

// path is that of a file of the world.
func (w *world) path(name string) string { return filepath.Join(w.dir, name) }

// write writes a file that only its owner can read.
func (w *world) write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(w.path(name), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// read returns the text of a file of the world.
func (w *world) read(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(w.path(name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// edit replaces text in a file, where it must stand.
func (w *world) edit(t *testing.T, name, old, new string) {
	t.Helper()
	text := w.read(t, name)
	if !strings.Contains(text, old) {
		t.Fatalf("%s does not hold %q:\n%s", name, old, text)
	}
	w.write(t, name, strings.Replace(text, old, new, 1))
}

// watch starts the capture on the access router.
func (w *world) watch(t *testing.T) {
	t.Helper()
	var err error
	w.capture, err = w.Access.Capture("lan", netlab.Endpoint{Network: "udp", Addr: netip.MustParseAddrPort(netlab.GatewayIPv4 + ":51820")})
	if err != nil {
		t.Fatal(err)
	}
	// The positive control: what is sent before penstock runs is seen, or the capture proves nothing.
	if err := w.capture.Control(t.Context(), w.Laptop, "lan0"); err != nil {
		t.Fatal(err)
	}
}

// up starts the capture, the gateway and the laptop, and waits until the laptop is connected.
func (w *world) up(t *testing.T) *world {
	t.Helper()
	w.watch(t)
	w.gateway = start(t, w.Gateway, w.path("gateway.yaml"), w.environ...)
	w.laptop = start(t, w.Laptop, w.path("laptop.yaml"))
	w.connected(t)
	return w
}

// connected waits until the laptop's penstock says that it is connected.
func (w *world) connected(t *testing.T) {
	t.Helper()
	eventually(t, "the laptop is connected", func() error {
		if r := w.laptop.cli(t, "status"); r.code != 0 {
			return fmt.Errorf("status: %s", r)
		}
		return nil
	})
}

// nothingInClear ends the capture and wants that it saw the tunnel and nothing else.
func (w *world) nothingInClear(t *testing.T) {
	t.Helper()
	r := w.capture.Stop()
	if err := r.Err(); err != nil {
		t.Error(err)
	}
	if r.Tunnel == 0 {
		t.Error("the access router saw no packet of the tunnel, want some")
	}
	if q := w.AccessDNS.Queries(); len(q) > 0 {
		t.Errorf("the access network's resolver was asked %v, want nothing", q)
	}
}

// keyPair makes the keys of a WireGuard peer, in base64.
func keyPair(t *testing.T) (private, public string) {
	t.Helper()
	key, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return base64.StdEncoding.EncodeToString(key.Bytes()), base64.StdEncoding.EncodeToString(key.PublicKey().Bytes())
}
