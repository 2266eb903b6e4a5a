package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"penstock/e2e/netlab"
)

// stock runs wireguard-go, unchanged and built from its module, on a host as wg0, with a configuration in wg-quick's
// format at path. Addresses and routes are set as wg-quick would; routes lists what leads into wg0.
func stock(t *testing.T, h *netlab.Host, path string, routes ...string) {
	t.Helper()
	wg, quick, ip := program(t, "wg"), program(t, "wg-quick"), program(t, "ip")
	cmd := h.Command(context.WithoutCancel(t.Context()), built("wireguard"), "-f", "wg0")
	said := new(transcript)
	cmd.Stdout, cmd.Stderr = said, said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("wireguard-go of %s said:\n%s", h.Name(), said)
		}
	})
	stripped := run(t, h, quick, "strip", path)
	if stripped.code != 0 {
		t.Fatalf("wg-quick strip: %s", stripped)
	}
	bare := filepath.Join(filepath.Dir(path), "wg0.bare")
	if err := os.WriteFile(bare, []byte(stripped.stdout), 0o600); err != nil {
		t.Fatal(err)
	}
	eventually(t, "wireguard-go takes its configuration", func() error {
		if r := run(t, h, wg, "setconf", "wg0", bare); r.code != 0 {
			return fmt.Errorf("wg setconf: %s", r)
		}
		return nil
	})
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	steps := [][]string{{"link", "set", "wg0", "mtu", "1420", "up"}}
	for _, addr := range values(string(text), "Address") {
		steps = append(steps, []string{"addr", "add", addr, "dev", "wg0", "nodad"})
	}
	for _, route := range routes {
		steps = append(steps, []string{"route", "replace", route, "dev", "wg0"})
	}
	for _, step := range steps {
		if netip.MustParsePrefix(prefixIn(step)).Addr().Is6() {
			step = append([]string{"-6"}, step...)
		}
		if r := run(t, h, ip, step...); r.code != 0 {
			t.Fatalf("ip %s: %s", strings.Join(step, " "), r)
		}
	}
}

// prefixIn is the network that an ip command is about; all of IPv4 if it names none.
func prefixIn(step []string) string {
	for _, word := range step {
		if strings.Contains(word, "/") {
			return word
		}
	}
	return "0.0.0.0/0"
}

// values are what a key has in a wg-quick file, commas taken apart.
func values(text, key string) []string {
	var all []string
	for line := range strings.Lines(text) {
		k, v, ok := strings.Cut(line, "=")
		if !ok || strings.TrimSpace(k) != key {
			continue
		}
		for one := range strings.SplitSeq(v, ",") {
			all = append(all, strings.TrimSpace(one))
		}
	}
	return all
}

// laptop: wireguard-go, curl, dig === WireGuard ===> [penstock] gateway --- intranet, internet
func TestAStockClientReachesTheIntranetThroughOurGateway(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.edit(t, "gateway.yaml", "rules:\n", "rules:\n  - {name: no-casino, match: {domain: casino.example}, do: block}\n")
	w.gateway = start(t, w.Gateway, w.path("gateway.yaml"))
	ana := w.path("ana.conf")
	if r := w.gateway.cli(t, "peer", "add", "ana", "--group", "staff", "-o", ana); r.code != 0 {
		t.Fatalf("peer add: %s", r)
	}
	stock(t, w.Laptop, ana, "10.99.0.0/24", "10.20.0.0/24", "203.0.113.0/24", "192.168.99.0/24", "fd99::/64", "fd20::/64", "2001:db8:113::/64")
	text, err := os.ReadFile(ana)
	if err != nil {
		t.Fatal(err)
	}
	resolver := values(string(text), "DNS")[0]
	if err := w.Laptop.WriteFile("/etc/resolv.conf", []byte("nameserver "+resolver+"\n")); err != nil {
		t.Fatal(err)
	}
	tryAll(t, w.Laptop, []attempt{
		{"the intranet by name", "curl https://intranet.corp.example/", "this is intranet.corp.example", nil},
		{"the intranet over IPv6", "curl -6 https://intranet.corp.example/", "this is intranet.corp.example", nil},
		{"a public site", "curl https://public.example/", "this is public.example", nil},
		{"the intranet's server sees the gateway", "curl -4 http://intranet.corp.example/client", "10.20.0.1:", nil},
		{"10 MB from the intranet", "curl -o /dev/null -w %{size_download} https://intranet.corp.example/bytes/10000000", "10000000", nil},
		{"a name over TCP", "dig +short +tcp intranet.corp.example", netlab.IntranetIPv4, nil},
		{"a ping of 4,000 bytes", "ping -n -c 1 -W 5 -s 4000 10.20.0.10", "1 received", nil},
		{"a blocked site has no address", "curl http://casino.example/", "", []int{noSuchName}},
		{"a blocked site by its address is a page that says why", "curl --resolve casino.example:80:203.0.113.20 http://casino.example/", "This site is blocked", nil},
		{"a closed port is refused", "curl http://public.example:4/", "", []int{notConnected}},
		{"a private network that no rule allows is refused", "curl http://192.168.99.1:22/", "", []int{notConnected}},
		{"another peer is refused", "curl http://10.99.0.2:22/", "", []int{notConnected}},
		{"an address that no peer has is silent", "curl --max-time 1 http://10.99.0.200:22/", "", []int{timedOut}},
	})
	t.Run("the gateway knows the peer", func(t *testing.T) {
		var list struct {
			Peers []struct {
				Name, Endpoint, LastHandshake string
				RxBytes                       int64
			}
		}
		w.gateway.ask(t, &list, "peer", "list")
		for _, p := range list.Peers {
			if p.Name == "ana" {
				if !strings.HasPrefix(p.Endpoint, netlab.LaptopIPv4+":") || p.LastHandshake == "" || p.RxBytes == 0 {
					t.Errorf("got %+v, want the laptop's endpoint, a handshake and bytes", p)
				}
				return
			}
		}
		t.Errorf("got %+v, want ana among them", list.Peers)
	})
	t.Run("the gateway's flows name the peer", func(t *testing.T) {
		flows := w.gateway.flows(t, "--recent", "--peer", "ana")
		if len(flows) == 0 {
			t.Error("got no flow of ana's")
		}
		for _, f := range flows {
			if f.Peer != "ana" {
				t.Errorf("got %+v, want flows of ana's alone", f)
			}
		}
	})
	t.Run("a peer that is removed is out", func(t *testing.T) {
		if r := w.gateway.cli(t, "peer", "rm", "ana"); r.code != 0 {
			t.Fatal(r)
		}
		attempt{"", "curl --max-time 1 http://10.20.0.10/", "", []int{timedOut}}.on(t, w.Laptop)
	})
}

// stockGateway is the configuration of a WireGuard gateway that knows the laptop.
const stockGateway = `[Interface]
PrivateKey = GATEWAY_KEY
ListenPort = 51820
Address = 10.99.0.1/24, fd99::1/64

[Peer]
PublicKey = LAPTOP_PUBLIC
AllowedIPs = 10.99.0.2/32, fd99::2/128
`

// laptop [pen0 -> penstock] === WireGuard ===> wireguard-go [wg0], kernel forwarding: gateway --- intranet, internet
func TestOurLaptopReachesTheIntranetBehindAStockGateway(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "address: 10.99.0.1, via: corp}]\n  split", "address: 10.20.0.10, via: corp}]\n  split",
		"upstream: {address: 10.99.0.1", "upstream: {address: 10.20.0.10")
	w.edit(t, "corp.conf", "DNS = 10.99.0.1", "DNS = 10.20.0.10")
	w.write(t, "stock.conf", w.fill.Replace(stockGateway))
	for _, key := range []string{"net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"} {
		if err := w.Gateway.Sysctl(key, "1"); err != nil {
			t.Fatal(err)
		}
	}
	stock(t, w.Gateway, w.path("stock.conf"))
	for dst, via := range map[string]string{"10.99.0.0/24": netlab.GatewayIPv4, "fd99::/64": netlab.GatewayIPv6} {
		if err := w.Internet.AddRoute(netlab.Route{Dst: netip.MustParsePrefix(dst), Via: netip.MustParseAddr(via)}); err != nil {
			t.Fatal(err)
		}
	}
	w.watch(t)
	w.laptop = start(t, w.Laptop, w.path("laptop.yaml"))
	w.connected(t)
	tryAll(t, w.Laptop, []attempt{
		{"the intranet by name", "curl https://intranet.corp.example/", "this is intranet.corp.example", nil},
		{"the intranet over IPv6", "curl -6 https://intranet.corp.example/", "this is intranet.corp.example", nil},
		{"a public site", "curl https://public.example/", "this is public.example", nil},
		{"the intranet's server sees our inner address", "curl -4 http://intranet.corp.example/client", laptopInner4 + ":", nil},
		{"and our inner IPv6 address", "curl -6 http://intranet.corp.example/client", "[" + laptopInner6 + "]:", nil},
		{"10 MB from the intranet", "curl -o /dev/null -w %{size_download} https://intranet.corp.example/bytes/10000000", "10000000", nil},
		{"a ping of 4,000 bytes", "ping -n -c 1 -W 5 -s 4000 10.20.0.10", "1 received", nil},
		{"a ping over IPv6", "ping -n -c 3 -i 0.1 -W 5 -s 4000 fd20::10", " received", nil},
		{"a gambling site has no address", "curl https://casino.example/", "", []int{noSuchName}},
		{"a closed port is refused", "curl http://intranet.corp.example:4/", "", []int{notConnected}},
		{"a dead host times out", "curl --max-time 1 http://203.0.113.254:22/", "", []int{timedOut}},
	})
	w.nothingInClear(t)
}
