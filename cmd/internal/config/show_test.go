package config

import (
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/rogpeppe/go-internal/txtar"
)

// sameShown compares a configuration with what Load makes of how it is shown.
var sameShown = cmp.Options{places, cmpopts.EquateEmpty(), cmp.Transformer("peers", func(l PeerList) []Peer { return l.Slice() }),
	cmpopts.IgnoreFields(Config{}, "Include", "Profile", "Block", "Intranet", "Files", "Inputs")}

// goodConfigurations returns configurations that Load takes, each in a folder with the files that it names: those of this
// package's tests, and those of the README and the pages of docs.
func goodConfigurations(t *testing.T) map[string]string {
	t.Helper()
	texts := map[string]string{
		"full": full, "odd": odd, "rich": rich,
		"laptop": "profile: hq.conf\nblock: [gambling, adult]\nintranet: corp.example\n",
		"some":   "profile: some.conf\ndns: {enforce: true}\n",
		"ovpn":   "profile: legacy.ovpn\nalways_on: {lockdown: true}\n",
		"proxy":  "listen: {proxy: {}, tun: {}}\nrules: {name: rest, do: direct}\n",
	}
	pages, err := filepath.Glob("../../../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, page := range append(pages, "../../../README.md") {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile("(?s)```yaml ([a-z]+)\n(.*?)```").FindAllStringSubmatch(string(text), -1) {
			texts["page-"+m[1]] = m[2]
		}
	}
	return texts
}

// inFolder writes a configuration with the files that the good ones name.
func inFolder(t *testing.T, text string) (path string) {
	t.Helper()
	dir := t.TempDir()
	write(t, dir, "peers.d/ana.yaml", "version: 1\npeers:\n  - "+
		"{name: ana, public_key: QKLNDTphfWCUSf/SIXuO7CqhJDEhDFRw6cQ7RxUHPVo=, allowed_ips: 10.78.0.2/32, groups: [staff]}\n")
	for _, name := range []string{"gateway.key", "server.key"} {
		write(t, dir, name, "2Bo5n4y4CRcCcX2HMRSL1fBDMhgT1Z4x0AMkYmZ9DGA=\n")
	}
	for _, name := range []string{"ana.password", "printer.password", "hunter.txt"} {
		write(t, dir, name, "correct-horse\n")
	}
	for _, name := range []string{"corp.conf", "hq.conf"} {
		write(t, dir, name, profileText+"AllowedIPs = 0.0.0.0/0, ::/0\n")
	}
	write(t, dir, "some.conf", profileText+"AllowedIPs = 10.0.0.0/8\n")
	write(t, dir, "legacy.ovpn", "client\nremote vpn.example 1194 udp\n")
	for _, name := range []string{"extra.txt", "rules.txt", "exceptions.txt", "cert.pem", "dns.pem", "fullchain.pem"} {
		write(t, dir, name, "\n")
	}
	t.Setenv("GATEWAY_KEY", "2Bo5n4y4CRcCcX2HMRSL1fBDMhgT1Z4x0AMkYmZ9DGA=")
	return write(t, dir, "config.yaml", strings.ReplaceAll(text, "/var/lib/penstock/", dir+"/"))
}

// odd has texts that YAML could read as something else.
const odd = `
listen: {tun: {name: pen1}, proxy: {}}
dns:
  upstreams:
    - {name: "true", address: "https://dns.example/a?b={c}", bootstrap: "2001:db8::1"}
    - {name: "1e3", address: 10.0.0.53}
    - {name: "on", address: "[2001:db8::53]:53"}
  records:
    wiki.corp.example: [10.20.0.10, "fd20::10"]
    "*.corp.example": {a: 10.20.0.11, txt: ["- a: b # c", "", " x ", "\"'", "*x", "a\tb", "é<>&"], ttl: 90s}
    mail.corp.example: {mx: "10 mx.corp.example"}
    alias.corp.example: {cname: wiki.corp.example}
  block_category: {adult: {answer: address, addresses: [10.0.0.1, "fd00::1"], ttl: 0s}}
  timeout: 1m30.5s
rules:
  - {name: "0x10", match: {uid: [0, 1000], schedule: "mon-fri 21:00-06:00", mismatch: false, process: "/opt/a b/c: d"},
     do: {action: block, how: drop}}
  - {name: "no", match: {port: 6000-6063, cidr: "fd00::/8"}, do: {via: direct}}
  - {name: rest, do: direct}
captive_portal: {detect: false}
control: {socket: "/run/a #b: 'c'.sock"}
limits: {udp_idle: 36h}
`

// rich is a gateway with the sections that the others have not.
const rich = `
listen:
  wireguard: {listen_port: 51821, address: 10.78.0.1/24, private_key: {env: PENSTOCK_SHOWN_KEY},
    endpoint: "gw.example:51821", dns: 10.78.0.1}
  enrol: {url: "https://vpn.example:8443"}
include: peers.d/*.yaml
peers:
  - {name: ben, public_key: xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=, allowed_ips: 10.78.0.3/32, groups: staff,
     expires: "2031-12-31T18:00:00.5+01:00",
     rate: 20Mbit, quota: 50GiB, proxy_password: {file: hunter.txt}, persistent_keepalive: 25s}
  - {name: eve, public_key: yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=, allowed_ips: 10.78.0.4/32, disabled: true,
     rate: {up: 64kbit}, quota: {monthly: 1GiB, over: 1Mbit}}
group_limits: {staff: {rate: {down: 1Gbit}}}
sign_in: {oidc: {issuer: "https://login.corp.example", client_id: penstock}, required: [staff]}
categories:
  streaming: {lists: [{url: "https://lists.example/s.txt", via: direct}], on_missing: allow}
  gambling: {lists: []}
dns: {upstreams: {address: 9.9.9.9}, peers: peers.example}
history: {keep: 24h, names: category}
health: "10.20.0.10:443"
console: {listen: "127.0.0.1:9478"}
metrics: {listen: "127.0.0.1:9477", peers: true, compat: wireguard}
rules:
  - {name: people, match: {signed_in: true, user: ana@corp.example}, do: direct}
  - {name: between, match: {peers: true, group: staff}, do: direct}
  - {name: rest, do: block}
tests:
  - {from: ben, to: "https://x.example", at: 2026-01-31T21:30:00+01:00, expect: block}
`

// TestWhatIsShownIsTheSameConfiguration loads each good configuration, and then what is shown of it.
func TestWhatIsShownIsTheSameConfiguration(t *testing.T) {
	t.Setenv("PENSTOCK_SHOWN_KEY", "2Bo5n4y4CRcCcX2HMRSL1fBDMhgT1Z4x0AMkYmZ9DGA=")
	for name, text := range goodConfigurations(t) {
		if name == "page-phones" {
			continue // a part of a configuration
		}
		t.Run(name, func(t *testing.T) {
			c := load1(t, inFolder(t, text))
			shown := NewShow(c).String()
			again, err := Parse(c.Path, []byte(shown))
			if err != nil {
				t.Fatalf("what is shown is refused: %v\n%s", err, shown)
			}
			if diff := cmp.Diff(c, again, sameShown); diff != "" {
				t.Errorf("loaded, and loaded from what is shown (-loaded +shown):\n%s\n%s", diff, shown)
			}
			if twice := NewShow(again).String(); twice != shown {
				t.Errorf("what is shown of that differs:\n%s", cmp.Diff(shown, twice))
			}
		})
	}
}

// TestAnythingThatLoadsCanBeShown is the same for every text of the fuzz corpus and of the archives of faults that loads.
func TestAnythingThatLoadsCanBeShown(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("the archives are those of Unix")
	}
	archives, err := filepath.Glob("testdata/bad/*.txtar")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range archives {
		archive, err := txtar.ParseFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range archive.Files[:len(archive.Files)-1] {
			c, err := Parse(filepath.Join(t.TempDir(), "config.yaml"), f.Data)
			if err != nil {
				continue
			}
			again, err := Parse(c.Path, []byte(NewShow(c).String()))
			if err != nil || !cmp.Equal(c, again, sameShown) {
				t.Errorf("%s: %s: %v\n%s", path, f.Name, err, NewShow(c))
			}
		}
	}
}

func TestASecretIsNotShown(t *testing.T) {
	c := parse(t, onLaptop+"categories: {ads: {lists: [{url: 'https://ana:hunter2@lists.example/a'}, "+
		"{url: 'https://lists.example/a?token=hunter2'}]}}\n"+rest)
	shown := NewShow(c).String()
	if json, err := NewShow(c).MarshalJSON(); err != nil || strings.Contains(shown+string(json), "hunter2") {
		t.Errorf("got the secret, %v:\n%s\n%s", err, shown, json)
	}
	_, err := Parse(c.Path, []byte(shown))
	const want = "categories.ads.lists[0].url is hidden: write the value itself: config show prints no secrets"
	if err == nil || strings.Count(err.Error(), "is hidden") != 2 || !strings.Contains(err.Error(), want) {
		t.Errorf("what is shown: got %v, want %s", err, want)
	}
}
