package e2e

import (
	"fmt"
	"strings"
	"testing"
)

// laptop [pen0 -> penstock] lan0 === WireGuard ===> [penstock] gateway
// laptop mesh0 --- mesh1 [100.64.0.9, in a namespace of its own]
//
// A mesh VPN sets rules 5210 to 5270, and a table with its network.
func TestTheHostsOfAnotherVPNAreReachedWhereARuleSaysDirect(t *testing.T) {
	t.Parallel()
	for _, lockdown := range []bool{false, true} {
		t.Run(fmt.Sprintf("lockdown %v", lockdown), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, "rules:\n", "rules:\n  - {name: mesh, match: {cidr: 100.64.0.0/16}, do: direct}\n",
				"listen:\n", fmt.Sprintf("always_on: {lockdown: %v}\nlisten:\n", lockdown))
			must := func(script string) {
				t.Helper()
				if r := run(t, w.Laptop, program(t, "sh"), "-ec", script); r.code != 0 {
					t.Fatalf("%s: %s", script, r)
				}
			}
			must(`unshare -n sleep 120 >/dev/null 2>&1 & peer=$!
				while [ "$(readlink /proc/$peer/ns/net)" = "$(readlink /proc/$$/ns/net)" ]; do sleep 0.05; done
				ip link add mesh0 type veth peer name mesh1 netns $peer
				ip link set mesh0 up; ip addr add 100.101.102.103/32 dev mesh0
				nsenter -t $peer -n sh -ec 'ip link set lo up; ip link set mesh1 up; ip addr add 100.64.0.9/16 dev mesh1; ip addr add 100.65.0.9/16 dev mesh1; ip route add 100.101.102.103/32 dev mesh1'
				ip rule add priority 5210 fwmark 0x80000/0xff0000 lookup main
				ip rule add priority 5230 fwmark 0x80000/0xff0000 lookup default
				ip rule add priority 5250 fwmark 0x80000/0xff0000 unreachable
				ip route add 100.64.0.0/10 dev mesh0 table 52
				ip rule add priority 5270 lookup 52
				echo $peer > ` + w.path("peer"))
			t.Cleanup(func() { run(t, w.Laptop, program(t, "sh"), "-c", "kill $(cat "+w.path("peer")+")") })
			tryAll(t, w.Laptop, []attempt{{"the lab's mesh works without us", "ping -c1 -W2 100.64.0.9", "1 received", nil}})
			w.up(t)
			tryAll(t, w.Laptop, []attempt{
				{"a host that a rule lets out", "ping -c1 -W2 100.64.0.9", "1 received", nil},
				{"one that no rule lets out", "ping -c1 -W1 100.65.0.9", "", []int{1}},
			})
			if r := run(t, w.Laptop, "curl", "-sS", "--max-time", "3", "http://100.64.0.9:9/"); !strings.Contains(r.stderr, "refused") && !strings.Contains(r.stderr, "Failed to connect") && r.code != notConnected {
				t.Errorf("a closed port there: got %s, want it refused by its host", r)
			}
			if r := w.laptop.cli(t, "status"); !strings.Contains(r.stdout, "another VPN has mesh0 (table 52): 100.64.0.0/10") {
				t.Errorf("status: got %s, want the other VPN", r)
			}
			for target, want := range map[string]string{"100.64.0.9:80": "by mesh0, because another VPN", "100.65.0.9:80": "another VPN leads 100.64.0.0/10 by mesh0 (table 52)"} {
				if r := w.laptop.cli(t, "explain", target); !strings.Contains(r.stdout, want) {
					t.Errorf("explain %s: got %s, want %s", target, r, want)
				}
			}
			w.nothingInClear(t)
		})
	}
}
