package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"penstock/e2e/netlab"
)

// laptop: SOCKS5, HTTP ---> [penstock; listens everywhere] gateway --- intranet: listens everywhere
func TestNothingArrivesByProxyWhereTheGuardIs(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.edit(t, "gateway.yaml", "dns:\n", "dns:\n  allow_private: [evil.example]\n") // the names below resolve to what they say
	w.listenForProxy(t, openRules)
	for _, network := range []string{"169.254.0.0/16", "168.63.129.16/32", "64:ff9b::/96", "2002::/16"} {
		via := netlab.IntranetIPv4
		if prefix(network).Addr().Is6() {
			via = netlab.IntranetIPv6
		}
		for h, args := range map[*netlab.Host][]string{
			w.Gateway: {"route", "add", network, "via", via}, w.Intranet: {"route", "add", "local", network, "dev", "lo"},
		} {
			if r := run(t, h, program(t, "ip"), args...); r.code != 0 {
				t.Fatalf("ip %q: %s", args, r)
			}
		}
	}
	var seen arrivals
	for _, h := range []*netlab.Host{w.Gateway, w.Intranet} {
		seen.listen(t, h, ":5000")
		seen.listen(t, h, ":5001")
	}
	addrs := []string{
		"127.0.0.1", "127.8.8.8", "::1", "0.0.0.0", "::", "::ffff:127.0.0.1", "::ffff:10.20.0.1", "::127.0.0.1", "10.20.0.1", "fd20::1",
		netlab.GatewayIPv4, netlab.GatewayIPv6, gatewayInner4, gatewayInner6, laptopInner4, laptopInner6, "10.99.0.200",
		"169.254.169.254", "169.254.7.7", "168.63.129.16", "fe80::7", "224.0.0.1", "255.255.255.255",
		"64:ff9b::127.0.0.1", "64:ff9b::10.20.0.1", "64:ff9b::169.254.169.254", "2002:7f00:1::1", "2002:a14:1::1",
	}
	hosts := slices.Concat(addrs, []string{"localhost", "LOCALHOST.", "127.1", "0x7f.0.0.1", "0x7f000001", "2130706433", "017700000001", "127.0.0.1.", "[::1]"})
	for i, addr := range addrs { // each has a name
		kind := "A"
		if strings.Contains(addr, ":") {
			kind = "AAAA"
		}
		name := fmt.Sprintf("n%d.evil.example", i)
		if err := w.PublicDNS.Add(name + ". 60 IN " + kind + " " + addr); err != nil {
			t.Fatal(err)
		}
		hosts = append(hosts, name)
	}
	// The controls: the proxy works, and what match.gateway opens is reached.
	for host, port := range map[string]int{netlab.IntranetIPv4: 5000, "intranet.corp.example": 5000, "10.20.0.1": 5001} {
		for _, ask := range []func(string, int) string{socksRequest, connectRequest} {
			before := seen.n.Load()
			if said := w.askProxy(t, ask(host, port)); !strings.HasSuffix(said, "hello") {
				t.Fatalf("%s: got %q, want it reached: the rows below would prove nothing", host, said)
			}
			seen.next(t, host, before)
		}
	}
	before, byGuard := seen.n.Load(), 0
	for _, host := range hosts {
		for way, ask := range map[string]func(string, int) string{"SOCKS5": socksRequest, "CONNECT": connectRequest, "GET": getRequest} {
			if said := w.askProxy(t, ask(host, 5000)); strings.HasSuffix(said, "hello") || strings.Contains(said, " 200 ") || strings.HasPrefix(said, "\x05\x02\x01\x00\x05\x00") {
				t.Errorf("%s by %s: got %q, want it refused", host, way, said)
			} else if strings.Contains(said, "the policy refuses ") && strings.HasSuffix(host, "evil.example") {
				byGuard++
			}
		}
	}
	if n := seen.n.Load() - before; n != 0 {
		t.Errorf("%d connections have arrived, want none", n)
	}
	var datagrams arrivals
	for _, h := range []*netlab.Host{w.Gateway, w.Intranet} {
		datagrams.listenUDP(t, h, ":5009")
	}
	relay := w.associate(t)
	for i, host := range hosts {
		relay.send(t, host, 5009, []byte("hello"))
		if i%8 == 7 { // not faster than flows begin
			time.Sleep(10 * time.Millisecond)
		}
	}
	relay.send(t, "intranet.corp.example", 5009, []byte("hello")) // the control
	datagrams.next(t, "intranet.corp.example", 0)
	if n := datagrams.n.Load(); n != 1 {
		t.Errorf("%d datagrams have arrived, want the control alone", n)
	}
	if byGuard < len(addrs) { // twice for each, but for those that no answer may hold
		t.Errorf("the guard refused %d flows by name, want some for most of %d names", byGuard, len(addrs))
	}
}
