package e2e

import (
	"io"
	"net"
	"strings"
	"testing"

	"penstock/e2e/netlab"
)

// Rules that open everything, each network by name too.
const openRules = `rules:
  - {name: ops, match: {gateway: true, port: 5001}, do: direct}
  - {name: named, match: {cidr: [private, 169.254.0.0/16, 127.0.0.0/8, "fe80::/10", 198.51.100.10/32, 224.0.0.0/4]}, do: direct}
  - {name: all, match: {cidr: [0.0.0.0/0, "::/0"]}, do: direct}
  - {name: rest, do: direct}
`

// Rules that open networks which hold addresses of the gateway's own.
const wideRules = `rules:
  - {name: ops, match: {gateway: true, port: 8081, group: [staff]}, do: direct}
  - {name: cloud, match: {gateway: true, cidr: 169.254.169.254, port: 8082}, do: direct}
  - {name: intranet, match: {cidr: 10.20.0.0/16}, do: direct}
  - {name: link-local, match: {cidr: 169.254.0.0/16}, do: direct}
  - {name: outside, match: {cidr: 198.51.100.0/24}, do: direct}
  - {name: loopback, match: {cidr: 127.0.0.0/8}, do: direct}
  - {name: rest, do: direct}
`

// laptop: wireguard-go, curl === WireGuard ===> [penstock; a server on port 8080 of each address] gateway --- 169.254.169.254, intranet
func TestNoRuleOpensTheGatewayItself(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.edit(t, "gateway.yaml", rulesOf(t, w, "gateway.yaml"), wideRules)
	if err := w.Gateway.AddAddr("intra", prefix("10.20.0.5/24")); err != nil {
		t.Fatal(err)
	}
	// The metadata service of a cloud, as the gateway sees it.
	if err := w.Intranet.AddAddr("intra", prefix("169.254.169.254/16")); err != nil {
		t.Fatal(err)
	}
	if err := w.Gateway.AddRoute(netlab.Route{Dst: prefix("169.254.0.0/16"), Link: "intra"}); err != nil {
		t.Fatal(err)
	}
	for _, h := range []*netlab.Host{w.Gateway, w.Intranet} {
		for _, port := range []string{":8080", ":8081", ":8082"} {
			serve(t, h, port, func(c *net.TCPConn) { _, _ = io.WriteString(c, "this is "+h.Name()+"\n") })
		}
	}
	w.gateway = start(t, w.Gateway, w.path("gateway.yaml"))
	stock(t, w.Laptop, w.path("corp.conf"), "10.99.0.0/24", "10.20.0.0/24", "169.254.0.0/16", "198.51.100.20/32", "203.0.113.0/24")
	nc := program(t, "nc")
	// The positive controls: the servers are there, and what is no address of the gateway's is reached.
	for _, near := range []string{"10.20.0.5", "169.254.169.254", netlab.GatewayIPv4} {
		if r := run(t, w.Gateway, nc, "-d", "-w", "2", near, "8080"); !strings.HasPrefix(r.stdout, "this is ") {
			t.Fatalf("%s from the gateway itself: got %s, want an answer: the rows below would prove nothing", near, r)
		}
	}
	for _, row := range []struct{ sentence, addr, port, want string }{
		{"the intranet beside it is reached", netlab.IntranetIPv4, "8080", "this is intranet\n"},
		{"what match.gateway opens is reached", "10.20.0.5", "8081", "this is gateway\n"},
		{"and a metadata service, if the rule names it too", "169.254.169.254", "8082", "this is intranet\n"},
	} {
		if r := run(t, w.Laptop, nc, "-d", "-w", "5", row.addr, row.port); r.stdout != row.want {
			t.Errorf("%s: got %s, want %q", row.sentence, r, row.want)
		}
	}
	for _, row := range []struct{ sentence, addr, port string }{
		{"an address of the gateway's in a network that a rule opens", "10.20.0.5", "8080"},
		{"another one", "10.20.0.1", "8080"},
		{"a metadata service in a network that a rule opens", "169.254.169.254", "8080"},
		{"a metadata service, at a port that match.gateway opens", "169.254.169.254", "8081"},
		{"a link-local address in a network that a rule opens", "169.254.7.7", "8080"},
		{"the gateway's outer address", netlab.GatewayIPv4, "8080"},
	} {
		t.Run(row.sentence, func(t *testing.T) {
			dst := row.addr + ":" + row.port
			if row.addr != netlab.GatewayIPv4 { // the way to it is outside of the tunnel
				if r := run(t, w.Laptop, nc, "-d", "-v", "-w", "5", row.addr, row.port); r.code == 0 || !strings.Contains(r.stderr, "refused") {
					t.Errorf("the client: got %s, want it refused", r)
				}
				if f := w.gateway.denied(t, dst); f.Verdict != "block" || f.Reason == "" {
					t.Errorf("flows --denied: got %+v, want a block with its reason", f)
				}
			}
			if r := w.gateway.cli(t, "explain", dst, "--from", "laptop"); r.code != exitBlocked || !strings.Contains(r.stdout, "match.gateway") {
				t.Errorf("explain: got %s, want a block that names match.gateway", r)
			}
		})
	}
}

// laptop: curl [pen0 -> penstock] === WireGuard ===> [penstock] gateway: routes that fail --- internet, intranet
func TestADialThatFailsIsToldAsWhatItIs(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.up(t)
	// Below the gateway's own routes: hosts that its kernel refuses to reach, each in another way.
	for _, route := range []string{"unreachable 203.0.113.101", "throw 203.0.113.102", "prohibit 203.0.113.103"} {
		if r := run(t, w.Gateway, program(t, "ip"), append([]string{"route", "add"}, strings.Fields(route)...)...); r.code != 0 {
			t.Fatalf("ip route add %s: %s", route, r)
		}
	}
	nc := program(t, "nc")
	for _, row := range []struct{ sentence, addr, port, patience, want string }{
		{"a closed port is refused", publicIPv4, "4", "15", "refused"},
		{"an unreachable host is unreachable", "203.0.113.101", "22", "15", "No route to host"},
		{"an unreachable network is unreachable", "203.0.113.102", "22", "15", "Network is unreachable"},
		{"a prohibited host is not called refused", "203.0.113.103", "22", "15", "No route to host"},
		{"a host that is not there in its network is unreachable", "10.20.0.200", "22", "15", "No route to host"},
		{"a dead host is silent", netlab.DeadIPv4, "22", "2", "timed out"},
	} {
		t.Run(row.sentence, func(t *testing.T) {
			r := run(t, w.Laptop, nc, "-d", "-v", "-w", row.patience, row.addr, row.port)
			if r.code == 0 || !strings.Contains(r.stderr, row.want) {
				t.Errorf("got %s, want %q", r, row.want)
			}
		})
	}
	w.nothingInClear(t)
}

// laptop: wireguard-go, dig === WireGuard ===> [penstock] gateway --- intranet: DNS of corp.example
func TestAPeerIsNotToldTheAddressOfAHostThatItMayNotReach(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.edit(t, "gateway.yaml", rulesOf(t, w, "gateway.yaml"), `rules:
  - {name: ops, match: {gateway: true, port: 8081}, do: direct}
  - {name: intranet, match: {cidr: [10.20.0.10/32, "fd20::10/128"], group: [staff]}, do: direct}
  - {name: wiki, match: {domain: wiki.corp.example, port: 443}, do: direct}
  - {name: no-private, match: {cidr: private}, do: block}
  - {name: rest, do: direct}
`)
	_, ben := keyPair(t) // so that both groups always have a member
	w.edit(t, "gateway.yaml", "peers:\n", "peers:\n  - {name: ben, public_key: "+ben+", allowed_ips: [10.99.0.3/32], groups: [staff, contractors]}\n")
	w.gateway = start(t, w.Gateway, w.path("gateway.yaml"))
	stock(t, w.Laptop, w.path("corp.conf"), "10.99.0.0/24")
	dig := func(name, kind string) result {
		return run(t, w.Laptop, program(t, "dig"), "+short", "+tries=1", "+timeout=5", "@"+gatewayInner4, name, kind)
	}
	const hidden = "intranet.corp.example"
	for _, row := range []struct{ sentence, groups, name, a, aaaa string }{
		{"staff is told", "staff", hidden, netlab.IntranetIPv4 + "\n", netlab.IntranetIPv6 + "\n"},
		{"a contractor is not", "contractors", hidden, "", ""},
		{"but where one port is open", "contractors", "wiki.corp.example", netlab.IntranetIPv4 + "\n", netlab.IntranetIPv6 + "\n"},
		{"and on the internet", "contractors", "public.example", publicIPv4 + "\n", publicIPv6 + "\n"},
		{"staff is told again", "staff", hidden, netlab.IntranetIPv4 + "\n", netlab.IntranetIPv6 + "\n"},
	} {
		t.Run(row.sentence, func(t *testing.T) {
			if text := w.read(t, "gateway.yaml"); !strings.Contains(text, "groups: ["+row.groups+"]") {
				w.write(t, "gateway.yaml", strings.NewReplacer("groups: [staff]", "groups: [contractors]", "groups: [contractors]", "groups: [staff]").Replace(text))
				w.gateway.must(t, "reload")
			}
			for kind, want := range map[string]string{"A": row.a, "AAAA": row.aaaa} {
				if r := dig(row.name, kind); r.code != 0 || r.stdout != want {
					t.Errorf("dig %s %s: got %s, want %q", row.name, kind, r, want)
				}
			}
			if row.a != "" {
				return
			}
			r := w.gateway.cli(t, "explain", "https://"+row.name, "--from", "laptop")
			if r.code != exitBlocked || !strings.Contains(r.stdout, "no-private") || !strings.Contains(r.stdout, netlab.IntranetIPv4) {
				t.Errorf("explain: got %s, want the address blocked by no-private", r)
			}
			found := w.gateway.deniedOne(t, "question", func(f flow) bool { return f.Host == row.name })
			if found.Rule != "no-private" || !strings.Contains(found.Reason, "blocks every flow to") {
				t.Errorf("flows --denied: got %+v, want the rule and an address", found)
			}
		})
	}
}
