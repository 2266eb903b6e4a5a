package e2e

import (
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"

	"penstock/e2e/netlab"
)

// laptop [pen0 10.77.0.1 -> penstock] lan0 10.77.0.10 --- 10.77.0.1 access --- internet --- [penstock] gateway
func TestANetworkWithTheTUNsAddressesIsNamed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	if err := w.Access.AddAddr("lan", prefix("10.77.0.1/24")); err != nil {
		t.Fatal(err)
	}
	if err := w.Internet.AddRoute(netlab.Route{Dst: prefix("10.77.0.0/24"), Via: netip.MustParseAddr("192.0.2.2")}); err != nil {
		t.Fatal(err)
	}
	home := netlab.Uplink{Link: "lan0", Addrs: []netip.Prefix{prefix("10.77.0.10/24")}, Gateways: []netip.Addr{netip.MustParseAddr("10.77.0.1")}}
	move := func(t *testing.T, from, to netlab.Uplink) {
		t.Helper()
		if err := w.Disconnect(from); err != nil {
			t.Fatal(err)
		}
		if err := w.Connect(to, 0); err != nil {
			t.Fatal(err)
		}
	}
	office := w.Uplinks[0]
	w.gateway = start(t, w.Gateway, w.path("gateway.yaml"))
	named := func(t *testing.T, text string) {
		t.Helper()
		for _, want := range []string{"10.77.0.", "lan0", "listen.tun.address"} {
			if !strings.Contains(text, want) {
				t.Errorf("got\n%s\nwant %q in it", text, want)
			}
		}
	}
	t.Run("at start", func(t *testing.T) {
		move(t, office, home)
		r := run(t, w.Laptop, built("penstock"), "--socket", w.path("laptop.sock"), "run", "-c", w.path("laptop.yaml"))
		if r.code == 0 {
			t.Fatalf("got %s, want it refused", r)
		}
		named(t, r.stderr)
	})
	t.Run("with the other addresses that it asks for", func(t *testing.T) {
		w.edit(t, "laptop.yaml", "[10.77.0.1/24, \"fd77::1/64\"]", "[10.78.0.1/24, \"fd78::1/64\"]")
		w.laptop = start(t, w.Laptop, w.path("laptop.yaml"))
		w.connected(t)
		attempt{"", "curl -4 https://intranet.corp.example/", "this is intranet.corp.example", nil}.on(t, w.Laptop)
		w.laptop.kill(t)
		if r := w.laptop.cli(t, "cleanup", "-c", w.laptop.config); r.code != 0 {
			t.Fatal(r)
		}
		w.edit(t, "laptop.yaml", "[10.78.0.1/24, \"fd78::1/64\"]", "[10.77.0.1/24, \"fd77::1/64\"]")
	})
	t.Run("by a move to it", func(t *testing.T) {
		move(t, home, office)
		w.laptop.start(t)
		w.connected(t)
		move(t, office, home)
		eventually(t, "status names the network and the mend", func() error {
			r := w.laptop.cli(t, "status")
			if !strings.Contains(r.stdout, "listen.tun.address") {
				return fmt.Errorf("status: %s", r)
			}
			named(t, r.stdout)
			return nil
		})
		move(t, home, office)
		w.connected(t)
		if r := w.laptop.cli(t, "status"); strings.Contains(r.stdout, "listen.tun.address") {
			t.Errorf("back on another network: got %s, want nothing of it", r)
		}
	})
}

// laptop [pen0 -> penstock] lan0 10.77.0.10 --- 10.77.0.1 access --- internet --- [penstock] gateway
func TestTheTUNStaysOutOfNetworksThatTheHostUses(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "address: [10.77.0.1/24, \"fd77::1/64\"], ", "")
	if err := w.Access.AddAddr("lan", prefix("10.77.0.1/24")); err != nil {
		t.Fatal(err)
	}
	if err := w.Internet.AddRoute(netlab.Route{Dst: prefix("10.77.0.0/24"), Via: netip.MustParseAddr("192.0.2.2")}); err != nil {
		t.Fatal(err)
	}
	home := netlab.Uplink{Link: "lan0", Addrs: []netip.Prefix{prefix("10.77.0.10/24")}, Gateways: []netip.Addr{netip.MustParseAddr("10.77.0.1")}}
	office := w.Uplinks[0]
	move := func(from, to netlab.Uplink) {
		t.Helper()
		if err := w.Disconnect(from); err != nil {
			t.Fatal(err)
		}
		if err := w.Connect(to, 0); err != nil {
			t.Fatal(err)
		}
	}
	carries := func(addr string) {
		t.Helper()
		eventually(t, "the TUN has "+addr+" and carries", func() error {
			if r := run(t, w.Laptop, "ip", "-o", "addr", "show", "dev", "pen0"); !strings.Contains(r.stdout, addr) {
				return fmt.Errorf("got %s", r)
			}
			if r := w.laptop.cli(t, "status"); r.code != 0 || strings.Contains(r.stdout, "listen.tun.address") {
				return fmt.Errorf("status: %s", r)
			}
			return nil
		})
		attempt{"", "curl -4 https://intranet.corp.example/", "this is intranet.corp.example", nil}.on(t, w.Laptop)
	}
	w.gateway = start(t, w.Gateway, w.path("gateway.yaml"))

	// A start in a network that has the default.
	move(office, home)
	w.laptop = start(t, w.Laptop, w.path("laptop.yaml"))
	carries("10.78.0.1/24")
	// The choice is kept, also where the default would be free.
	w.laptop.stop(t, os.Interrupt)
	move(home, office)
	w.laptop.start(t)
	carries("10.78.0.1/24")
	w.laptop.stop(t, os.Interrupt)
	if err := os.Remove(w.path("addresses.json")); err != nil {
		t.Fatal(err)
	}
	// Without a choice from before, a move into that network.
	w.laptop.start(t)
	carries("10.77.0.1/24")
	move(office, home)
	carries("10.78.0.1/24")
	if r := run(t, w.Laptop, "ping", "-c1", "-W2", "10.77.0.1"); r.code != 0 {
		t.Errorf("the gateway of the LAN: got %s, want an answer", r)
	}
}

// laptop [pen0 -> penstock, endpoint by name] lan0 --- fe80::53 access, the only resolver --- internet --- [penstock] gateway
func TestAnEndpointIsResolvedByAServerOfTheLink(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.edit(t, "corp.conf", "198.51.100.10:51820", "vpn.example:51820")
	if err := w.AccessDNS.Add("vpn.example. 60 IN A " + netlab.GatewayIPv4); err != nil {
		t.Fatal(err)
	}
	if err := w.Access.AddAddr("lan", prefix("fe80::53/64")); err != nil {
		t.Fatal(err)
	}
	if err := w.Laptop.WriteFile("/etc/resolv.conf", []byte("nameserver fe80::53%lan0\n")); err != nil {
		t.Fatal(err)
	}
	w.gateway = start(t, w.Gateway, w.path("gateway.yaml"))
	w.laptop = start(t, w.Laptop, w.path("laptop.yaml"))
	w.connected(t)
	attempt{"", "curl -4 https://intranet.corp.example/", "this is intranet.corp.example", nil}.on(t, w.Laptop)
}

// laptop [pen0 -> penstock, from a wg-quick file] === WireGuard ===> [penstock] gateway --- intranet
func TestWhatAWgQuickFileSaysIsDone(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.write(t, "laptop.yaml", w.fill.Replace("profile: corp.conf\nlisten: {tun: {name: pen0, state_file: DIR/host.json}}\n"))
	// One line of networks that is longer than 64 KiB, the intranet's in the end.
	var networks strings.Builder
	for i := range 6000 {
		fmt.Fprintf(&networks, "172.%d.%d.%d/32, ", 16+i>>16, i>>8&255, i&255)
	}
	w.edit(t, "corp.conf", "AllowedIPs = 0.0.0.0/0, ::/0", "AllowedIPs = "+networks.String()+"10.99.0.0/24, 10.20.0.0/24, fd20::/64")
	w.edit(t, "corp.conf", "DNS = 10.99.0.1", "DNS = 10.99.0.1, corp.example")
	if n := len(w.read(t, "corp.conf")); n < 80<<10 {
		t.Fatalf("the file has %d bytes, want more than 80 KiB", n)
	}
	const lan = "nameserver 192.168.50.1\nsearch lan.example home.example\n"
	if err := w.Laptop.WriteFile("/etc/resolv.conf", []byte(lan)); err != nil {
		t.Fatal(err)
	}
	w.up(t)
	tryAll(t, w.Laptop, []attempt{
		{"a host by its short name", "getent hosts wiki", "wiki.corp.example", nil},
		{"its page", "curl -4 http://wiki/", "this is wiki\n", nil},
		{"the network at the end of a long line", "curl http://10.20.0.10/", "this is 10.20.0.10\n", nil},
	})
	t.Run("the search list", func(t *testing.T) {
		b, err := w.Laptop.ReadFile("/etc/resolv.conf")
		if err != nil {
			t.Fatal(err)
		}
		var search string
		for line := range strings.Lines(string(b)) {
			if rest, ok := strings.CutPrefix(line, "search "); ok {
				search = strings.TrimSpace(rest)
			}
		}
		if !strings.HasPrefix(search, "corp.example") || !strings.Contains(search, "lan.example") {
			t.Errorf("got %q, want corp.example first, and the network's own domains", search)
		}
	})
	w.laptop.stop(t, os.Interrupt)
	if b, err := w.Laptop.ReadFile("/etc/resolv.conf"); err != nil || string(b) != lan {
		t.Errorf("after the stop: got %q, %v; want what was before", b, err)
	}
	w.nothingInClear(t)
}

// laptop [pen0 -> penstock, from a wg-quick file] === WireGuard, IPv6 and the intranet ===> [penstock] gateway --- intranet
func TestAFamilyWithoutADefaultRouteIsSplit(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.write(t, "laptop.yaml", w.fill.Replace("profile: corp.conf\nlisten: {tun: {name: pen0, state_file: DIR/host.json}}\n"))
	w.edit(t, "corp.conf", "AllowedIPs = 0.0.0.0/0, ::/0", "AllowedIPs = 10.20.0.0/24 ::/0")
	w.edit(t, "corp.conf", "DNS = 10.99.0.1", "DNS = 10.20.0.10, ~corp.example\nPostUp = touch DIR/ran\nSaveConfig = false")
	if r := run(t, w.Laptop, built("penstock"), "check", "-c", w.path("laptop.yaml")); r.code != 0 || !strings.Contains(r.stderr, "not all of IPv4, which leaves directly") ||
		!strings.Contains(r.stderr, "PostUp is ignored") {
		t.Errorf("check: got %s, want warnings about IPv4 and PostUp", r)
	}
	w.up(t)
	tryAll(t, w.Laptop, []attempt{
		{"a name with a private address, from the profile's server", "getent ahostsv4 intranet.corp.example", "10.20.0.10", nil},
		{"the intranet", "curl -4 https://intranet.corp.example/", "this is intranet.corp.example", nil},
		{"IPv4 leaves directly", "curl http://203.0.113.10/", "this is 203.0.113.10\n", nil},
	})
	for target, want := range map[string]string{"203.0.113.10:80": "direct", "10.20.0.10:80": "via corp", "[2001:db8::1]:80": "via corp"} {
		if r := w.laptop.cli(t, "explain", target); r.code != 0 || !strings.Contains(r.stdout, want) {
			t.Errorf("explain %s: got %s, want %s", target, r, want)
		}
	}
}

// laptop [pen0 -> penstock, from a wg-quick file without IPv6] -- access (captures) === WireGuard, all but private networks ===> [penstock] gateway
func TestAProfileForNearlyAllOfIPv4KeepsIPv6In(t *testing.T) {
	t.Parallel()
	for _, row := range []struct{ sentence, networks string }{
		{"all of IPv4 in quarters", "192.0.0.0/2, 0.0.0.0/2, 128.0.0.0/2, 64.0.0.0/2"},
		{"all but private networks, as apps write it", "0.0.0.0/5, 8.0.0.0/7, 11.0.0.0/8, 12.0.0.0/6, 16.0.0.0/4, 32.0.0.0/3, 64.0.0.0/2, 128.0.0.0/3, 160.0.0.0/5, " +
			"168.0.0.0/6, 172.0.0.0/12, 172.32.0.0/11, 172.64.0.0/10, 172.128.0.0/9, 173.0.0.0/8, 174.0.0.0/7, 176.0.0.0/4, 192.0.0.0/9, 192.128.0.0/11, " +
			"192.160.0.0/13, 192.169.0.0/16, 192.170.0.0/15, 192.172.0.0/14, 192.176.0.0/12, 192.192.0.0/10, 193.0.0.0/8, 194.0.0.0/7, 196.0.0.0/6, " +
			"200.0.0.0/5, 208.0.0.0/4, 10.99.0.1/32"},
	} {
		t.Run(row.sentence, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.write(t, "laptop.yaml", w.fill.Replace("profile: corp.conf\nlisten: {tun: {name: pen0, state_file: DIR/host.json}}\n"))
			w.edit(t, "corp.conf", "AllowedIPs = 0.0.0.0/0, ::/0", "AllowedIPs = "+row.networks)
			w.edit(t, "corp.conf", "Address = 10.99.0.2/32, fd99::2/128", "Address = 10.99.0.2/32")
			w.up(t)
			tryAll(t, w.Laptop, []attempt{
				{"IPv4 goes through the tunnel", "curl -4 http://public.example/", "this is public.example", nil},
				{"IPv6 goes nowhere", "curl -6 -m 5 http://[" + publicIPv6 + "]/", "", []int{noSuchName, notConnected}},
				{"and not by its name", "curl -6 -m 5 http://public.example/", "", []int{noSuchName, notConnected}},
			})
			w.nothingInClear(t)
		})
	}
}
