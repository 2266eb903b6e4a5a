package e2e

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"
)

// peer adds a peer at the gateway, and runs a stock client with its file on the laptop.
func (w *world) peer(t *testing.T, name string, more ...string) {
	t.Helper()
	w.addPeer(t, name, more...)
	stock(t, w.Laptop, w.path(name+".conf"), "10.99.0.0/24", "10.20.0.0/24", "203.0.113.0/24", "169.254.0.0/16", "fd99::/64", "fd20::/64")
	if err := w.Laptop.WriteFile("/etc/resolv.conf", []byte("nameserver "+gatewayInner4+"\n")); err != nil {
		t.Fatal(err)
	}
}

// addPeer adds a peer at the gateway and leaves its file in the world.
func (w *world) addPeer(t *testing.T, name string, more ...string) {
	t.Helper()
	args := append([]string{"peer", "add", name, "-o", w.path(name + ".conf")}, more...)
	if r := w.gateway.cli(t, args...); r.code != 0 {
		t.Fatalf("peer add: %s", r)
	}
}

// laptop: wireguard-go, curl === WireGuard ===> [penstock] gateway 10.20.0.1 --- intranet: wiki 10.20.0.10, 10.20.0.11
func TestAClaimedNameOpensNoAddress(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.edit(t, "gateway.yaml", "  - {name: intranet, match: {cidr: [10.20.0.0/24, \"fd20::/64\"], group: [staff]}, do: direct}\n",
		"  - {name: wiki, match: {domain: corp.example}, do: direct}\n")
	if err := w.Intranet.AddAddr("intra", netip.MustParsePrefix("10.20.0.11/24")); err != nil {
		t.Fatal(err)
	}
	w.gateway = start(t, w.Gateway, w.path("gateway.yaml"))
	w.peer(t, "ana")
	tryAll(t, w.Laptop, []attempt{
		{"a name that resolves opens its own address", "curl http://wiki.corp.example/", "this is wiki.corp.example", nil},
		{"a private address without a name is refused", "curl http://10.20.0.11/", "This site is blocked", nil},
		{"a name that does not resolve opens nothing", "curl -H Host:secret.corp.example http://10.20.0.11/", "This site is blocked", nil},
		{"nor does it in TLS", "curl -k --resolve secret.corp.example:443:10.20.0.11 https://secret.corp.example/", "", cutOff()},
		{"nor in upper case, with a port and a dot", "curl -H Host:SECRET.corp.example.:80 http://10.20.0.11/", "This site is blocked", nil},
		{"nor as an absolute target", "curl --request-target http://secret.corp.example/ http://10.20.0.11/", "This site is blocked", nil},
		{"a name that stands for another address leads there", "curl -H Host:wiki.corp.example http://10.20.0.11/", "this is wiki.corp.example", nil},
		{"and so in TLS", "curl --resolve wiki.corp.example:443:10.20.0.11 https://wiki.corp.example/", "this is wiki.corp.example", nil},
	})
	t.Run("nothing was dialled but what the resolver says", func(t *testing.T) {
		forwarded := 0
		for _, f := range w.gateway.flows(t, "--recent") {
			if !strings.HasPrefix(f.Dst, "10.20.0.11:") {
				continue
			}
			if f.Verdict == "direct" {
				t.Errorf("got %+v: a claim opened the address", f)
			}
			forwarded++
		}
		if forwarded == 0 {
			t.Error("got no flow to 10.20.0.11: the rows above prove nothing")
		}
		var story struct {
			Flows []struct{ Dst, Reason string }
		}
		w.gateway.ask(t, &story, "flows", "--denied")
		found := false
		for _, f := range story.Flows {
			found = found || f.Dst == "10.20.0.11:80" && strings.HasPrefix(f.Reason, "mismatch: ")
		}
		if !found {
			t.Errorf("got %+v, want a refusal of 10.20.0.11:80 that names the mismatch", story.Flows)
		}
	})
}

// laptop: wireguard-go, curl === WireGuard ===> [penstock] gateway: 10.20.0.1, 198.51.100.10, metrics on all of them
func TestNoCidrOpensTheGatewayItself(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.edit(t, "gateway.yaml", "metrics: {listen: \"127.0.0.1:9477\"}", "metrics: {listen: \"0.0.0.0:9477\"}")
	w.edit(t, "gateway.yaml", "rules:\n", "rules:\n  - {name: ops, match: {gateway: true, port: [9478], group: [staff]}, do: direct}\n"+
		"  - {name: all, match: {cidr: [10.20.0.0/16, 169.254.0.0/16, 127.0.0.0/8, 198.51.100.0/24]}, do: direct}\n")
	w.gateway = start(t, w.Gateway, w.path("gateway.yaml"))
	w.peer(t, "ana", "--group", "staff")
	l, err := w.Gateway.Listen(t.Context(), "tcp", ":9478")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			fmt.Fprint(c, "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\nops")
			c.Close()
		}
	}()
	tryAll(t, w.Gateway, []attempt{ // or the rows below prove nothing
		{"the gateway's own metrics are there", "curl http://10.20.0.1:9477/healthz", "", nil},
	})
	tryAll(t, w.Laptop, []attempt{
		{"the intranet beside it is reached", "curl http://10.20.0.10/", "this is", nil},
		{"its own address in that network is not", "curl --max-time 3 http://10.20.0.1:9477/metrics", "", []int{notConnected}},
		{"what match.gateway opens is reached", "curl http://10.20.0.1:9478/", "ops", nil},
	})
	t.Run("explain and flows know the guard", func(t *testing.T) {
		for _, target := range []string{"tcp://10.20.0.1:9477", "tcp://169.254.169.254:80", "tcp://127.0.0.1:22", "tcp://198.51.100.10:9477"} {
			if r := w.gateway.cli(t, "explain", target, "--from", "ana"); !strings.Contains(r.stdout, ": block") || !strings.Contains(r.stdout, "match.gateway") {
				t.Errorf("explain %s: got %s, want a block that names match.gateway", target, r)
			}
		}
		if f := w.gateway.denied(t, "10.20.0.1:9477"); f.Rule != "all" {
			t.Errorf("got %+v, want the rule that would have opened it", f)
		}
	})
}

// laptop: wireguard-go, a download === WireGuard ===> [penstock] gateway --- intranet
func TestAPeerThatIsGoneIsGone(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		sentence string
		end      func(t *testing.T, w *world)
	}{
		{"a removed peer's download ends", func(t *testing.T, w *world) { w.gateway.must(t, "peer", "rm", "ana") }},
		{"a disabled peer's download ends", func(t *testing.T, w *world) { w.gateway.must(t, "peer", "disable", "ana") }},
		{"so it does when the peer's file is gone and the gateway reloads", func(t *testing.T, w *world) {
			if r := run(t, w.Gateway, "rm", w.path("peers.d/ana.yaml")); r.code != 0 {
				t.Fatal(r)
			}
			w.gateway.must(t, "reload")
		}},
		{"a peer that moved to a group that may not is cut off", func(t *testing.T, w *world) {
			w.edit(t, "peers.d/ana.yaml", "staff", "guests")
			w.gateway.must(t, "reload", "--kill-denied")
		}},
	} {
		t.Run(row.sentence, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.gateway = start(t, w.Gateway, w.path("gateway.yaml"))
			w.peer(t, "ana", "--group", "staff")
			conn := dial(t, w.Laptop, "tcp", "10.20.0.10:80")
			if first := exchange(t, conn, "GET / HTTP/1.1\r\nHost: intranet.corp.example\r\n\r\n"); !strings.Contains(first, "this is") {
				t.Fatalf("before: got %q", first)
			}
			live := func() (n int) {
				for _, f := range w.gateway.flows(t) {
					if strings.HasPrefix(f.Src, "10.99.0.") {
						n++
					}
				}
				return n
			}
			if live() == 0 {
				t.Fatal("the peer has no live flow: nothing can end")
			}
			row.end(t, w)
			ended := time.Now()
			eventually(t, "the peer's flows end", func() error {
				if n := live(); n > 0 {
					return fmt.Errorf("%d live on", n)
				}
				return nil
			})
			if took := time.Since(ended); took > 5*time.Second {
				t.Errorf("the flows ended after %v", took)
			}
		})
	}
}

// laptop: wireguard-go, a download === WireGuard ===> [penstock] gateway --- intranet
func TestANewPeerInheritsNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.gateway = start(t, w.Gateway, w.path("gateway.yaml"))
	address := func(name string) string {
		var list struct {
			Peers []struct {
				Name      string
				Addresses []string
			}
		}
		w.gateway.ask(t, &list, "peer", "list")
		for _, p := range list.Peers {
			if p.Name == name {
				return p.Addresses[0]
			}
		}
		t.Fatalf("there is no peer %s in %+v", name, list)
		return ""
	}
	w.addPeer(t, "ana", "--group", "staff")
	first := address("ana")
	w.gateway.must(t, "peer", "rm", "ana")
	w.addPeer(t, "bob", "--group", "staff")
	if got := address("bob"); got == first {
		t.Errorf("bob got %s, which was ana's a moment ago: an address rests before it is used again", got)
	}
}

// laptop [pen0 -> penstock] === WireGuard ===> [penstock] gateway --- internet
func TestExplainAndDNSQueryChangeNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "  - {name: no-gambling,", "  - {name: allowed, match: {domain: public.example}, do: {via: corp}}\n  - {name: no-gambling,",
		"  - {name: rest, do: {via: corp}}", "  - {name: rest, do: block}").up(t)
	reached := func() bool {
		// Port 81 shows no name, so that the flow is judged by what DNS gave.
		r := run(t, w.Laptop, program(t, "nc"), "-z", "-w", "2", publicIPv4, "81")
		for _, f := range w.laptop.flows(t, "--recent") {
			if f.Dst == publicIPv4+":81" && f.Verdict != "block" {
				return true
			}
		}
		return r.code == 0
	}
	if reached() {
		t.Fatal("an unnamed flow to the address passes: the rows below prove nothing")
	}
	for range 3 {
		w.laptop.cli(t, "explain", "https://public.example")
		w.laptop.cli(t, "dns", "query", "public.example")
	}
	if reached() {
		t.Error("after explain and dns query an unnamed flow to the address passes")
	}
	if r := run(t, w.Laptop, "getent", "ahosts", "public.example"); r.code != 0 {
		t.Fatalf("getent: %s", r)
	}
	if !reached() {
		t.Error("after a real question the flow is still refused: the row above could not fail")
	}
	w.nothingInClear(t)
}

// laptop: check, run and reload of one configuration; nothing of it is carried
func TestCheckAndReloadAgree(t *testing.T) {
	t.Parallel()
	w := newWorld(t).up(t)
	good := "  split: [{domains: [corp.example], upstream: {address: 10.99.0.1, via: corp}}]\n"
	for _, row := range []struct {
		sentence, split string
		ok              bool
	}{
		{"one zone by two patterns", "  split: [{domains: [corp.example, \"*.corp.example\"], upstream: {address: 10.99.0.1, via: corp}}]\n", true},
		{"a zone that is not ASCII", "  split: [{domains: [corp.example, bücher.example], upstream: {address: 10.99.0.1, via: corp}}]\n", true},
		{"one name in two zones", "  split: [{domains: [a.example], upstream: {address: 10.99.0.1, via: corp}}, {domains: [\"*.a.example\"], upstream: {address: 10.99.0.1, via: corp}}]\n", false},
		{"a private domain that is none", good + "  allow_private: [\"a..b\"]\n", false},
		{"an upstream that is penstock itself", "  split: [{domains: [corp.example], upstream: {address: 10.77.0.2}}]\n", false},
		{"a port that is none", "  split: [{domains: [corp.example], upstream: {address: \"tls://1.2.3.4:99999\"}}]\n", false},
	} {
		t.Run(row.sentence, func(t *testing.T) {
			w.edit(t, "laptop.yaml", good, row.split)
			defer w.edit(t, "laptop.yaml", row.split, good)
			var before, after struct{ PolicyGeneration int }
			w.laptop.ask(t, &before, "status")
			check := run(t, w.Laptop, built("penstock"), "check", "-c", w.path("laptop.yaml"))
			dry, reload := w.laptop.cli(t, "reload", "--dry-run"), w.laptop.cli(t, "reload")
			for name, r := range map[string]result{"check": check, "reload --dry-run": dry, "reload": reload} {
				if (r.code == 0) != row.ok {
					t.Errorf("%s: got %s, want success %v", name, r, row.ok)
				}
			}
			w.laptop.ask(t, &after, "status")
			if !row.ok && before != after {
				t.Errorf("a refused reload brought edition %d into force after %d", after.PolicyGeneration, before.PolicyGeneration)
			}
		})
	}
	w.laptop.must(t, "reload")
	attempt{"", "curl https://intranet.corp.example/", "this is intranet.corp.example", nil}.on(t, w.Laptop)
}
