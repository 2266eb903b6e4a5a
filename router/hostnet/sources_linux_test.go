package hostnet

import (
	"net/netip"
	"os/exec"
	"testing"

	"penstock/router/hostnet/internal/hosttest"
)

// The host has 192.168.1.10/24 and 2001:db8:1::10/64 on up0.
func TestARouteMayNameAnotherSourceThanMasqueradingTakes(t *testing.T) {
	if !hosttest.InNamespaces(t) {
		return
	}
	for _, row := range []struct {
		sentence, do, to string
		want             bool
	}{
		{"no route names one", "", "203.0.113.1", false},
		{"the default route names the address", "ip route replace default dev up0 src 192.168.1.10", "0.0.0.0", false},
		{"it names another", "ip addr add 192.0.2.9/32 dev up0; ip route replace default dev up0 src 192.0.2.9", "0.0.0.0", true},
		{"it does, and everything is concerned", "ip addr add 192.0.2.9/32 dev up0; ip route replace default dev up0 src 192.0.2.9", "203.0.113.1", true},
		{"it names another of the same network", "ip addr add 192.168.1.11/24 dev up0; ip route replace default via 192.168.1.1 dev up0 src 192.168.1.11", "203.0.113.1", true},
		{"it names that of another interface", "ip addr add 192.0.2.9/32 dev lo; ip route replace default dev up0 src 192.0.2.9", "203.0.113.1", true},
		{"it names the address of the gateway's network, which is the second", "ip addr add 10.9.9.2/24 dev up0; ip route replace default via 10.9.9.1 dev up0 src 10.9.9.2", "203.0.113.1", false},
		{"it names the first, but not that of the gateway's network", "ip addr add 10.9.9.2/24 dev up0; ip route replace default via 10.9.9.1 dev up0 src 192.168.1.10", "203.0.113.1", true},
		{"a part of the network is on the link", "ip addr add 10.9.9.2/24 dev up0; ip route add 10.9.0.0/16 dev up0 src 192.168.1.10", "10.9.1.1", true},
		{"a route to a network names another", "ip addr add 192.0.2.9/32 dev up0; ip route add 10.1.0.0/16 dev up0 src 192.0.2.9", "10.1.2.3", true},
		{"other networks are not concerned", "ip addr add 192.0.2.9/32 dev up0; ip route add 10.1.0.0/16 dev up0 src 192.0.2.9", "10.2.2.3", false},
		{"nor is the family as a whole", "ip addr add 192.0.2.9/32 dev up0; ip route add 0.0.0.0/1 dev up0 src 192.0.2.9", "0.0.0.0", false},
		{"a route of another table names another", "ip addr add 192.0.2.9/32 dev up0; ip route add default dev up0 src 192.0.2.9 table 9", "0.0.0.0", true},
		{"one of two hops has no address", "ip link add d0 type veth peer name d1; ip link set d0 up; ip route replace default src 192.168.1.10 nexthop dev up0 nexthop dev d0", "0.0.0.0", true},
		{"the far end's network counts", "ip addr add 10.8.0.2 peer 10.8.0.1 dev up0; ip route add 10.9.0.0/16 via 10.8.0.1 dev up0 src 10.8.0.2", "10.9.0.1", false},
		{"IPv6: the default route names the address", "ip -6 route replace default dev up0 src 2001:db8:1::10", "::", false},
		{"IPv6: it may not be taken", "ip -6 addr add 2001:db8:1::11/64 dev up0 nodad; ip -6 route replace default dev up0 src 2001:db8:1::10", "::", true},
		{"IPv6: another has no lifetime left", "ip -6 addr add 2001:db8:1::11/64 dev up0 nodad preferred_lft 0; ip -6 route replace default dev up0 src 2001:db8:1::10", "2001:db8::1", false},
	} {
		h := hosttest.New(t)
		if out, err := exec.CommandContext(t.Context(), "sh", "-ec", row.do).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", row.do, err, out)
		}
		host, err := Open(config(h))
		hosttest.Must(t, err)
		hosttest.Must(t, host.Apply(t.Context(), routed()))
		if got := host.Forwarding.Elsewhere(netip.MustParseAddr(row.to)); got != row.want {
			t.Errorf("%s: %s: got %t, want %t", row.sentence, row.to, got, row.want)
		}
		hosttest.Must(t, host.Close())
		_ = exec.CommandContext(t.Context(), "sh", "-c", "ip addr del 192.0.2.9/32 dev lo; ip link del d0").Run() // what is there of it
		h.Close(t)
	}
}
