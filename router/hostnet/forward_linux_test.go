package hostnet

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"

	"penstock/router/hostnet/internal/hosttest"
)

func routed() Settings {
	return Settings{
		Addresses: []netip.Prefix{netip.MustParsePrefix("198.19.255.1/30"), netip.MustParsePrefix("fd70:656e::1/126")},
		MTU:       1420, Forward: true, Probes: []netip.Addr{netip.MustParseAddr("192.0.0.8"), netip.MustParseAddr("100::1")},
	}
}

const (
	up4, up6 = "net/ipv4/conf/up0/forwarding", "net/ipv6/conf/up0/force_forwarding"
	all4     = "net/ipv4/ip_forward"
)

func TestForwardingIsUndone(t *testing.T) {
	if !hosttest.InNamespaces(t) {
		return
	}
	for _, row := range []struct {
		sentence      string
		before, while map[string]string
		after         map[string]string // what is not as before
	}{
		{"a host that forwards nothing", nil, nil, nil},
		{"a router", map[string]string{all4: "1", "net/ipv6/conf/all/forwarding": "1"}, nil, nil},
		{"a router that does not forward from one interface", map[string]string{all4: "1", up4: "0"}, nil, nil},
		{"an interface that forwards", map[string]string{up4: "1"}, nil, nil},
		{"a host that becomes a router", nil, map[string]string{all4: "1"},
			map[string]string{all4: "1", up4: "1", "net/ipv4/conf/all/accept_redirects": "0"}}, // a router accepts none
		{"an interface that another program closes", map[string]string{up4: "1"}, map[string]string{up4: "0"}, map[string]string{up4: "0"}},
	} {
		h := hosttest.New(t)
		for path, value := range row.before {
			hosttest.SetSysctl(t, path, value)
		}
		sysctls := func() map[string]string {
			m := make(map[string]string)
			for _, path := range []string{all4, up4, up6, "net/ipv6/conf/all/forwarding", "net/ipv4/conf/all/accept_redirects", "net/ipv4/conf/all/arp_ignore"} {
				m[path] = hosttest.Sysctl(path)
			}
			return m
		}
		was, state := sysctls(), h.State(t)
		host, err := Open(config(h))
		hosttest.Must(t, err)
		hosttest.Must(t, host.Apply(t.Context(), routed()))
		hosttest.Must(t, host.Apply(t.Context(), routed())) // twice is once
		if v4, v6 := host.Forwarding.Families(); !v4 || v6 != exists(procSys+"/"+up6) {
			t.Errorf("%s: got %t, %t, want both families to be forwarded", row.sentence, v4, v6)
		}
		begun, left, err := host.Forwarding.Probed()
		if err != nil || !slices.Equal(begun, []uint64{0, 0}) || !slices.Equal(left, begun) {
			t.Errorf("%s: got %v, %v, %v, want that nothing has come yet", row.sentence, begun, left, err)
		}
		for path, value := range row.while {
			hosttest.SetSysctl(t, path, value)
		}
		if row.while != nil {
			hosttest.Must(t, host.repair(t.Context()))
		}
		if v4, _ := host.Forwarding.Families(); !v4 {
			t.Errorf("%s: IPv4 is not forwarded any more", row.sentence)
		}
		hosttest.Must(t, host.Close())
		for path, value := range row.after {
			was[path] = value
		}
		for path, got := range sysctls() {
			if got != was[path] {
				t.Errorf("%s: %s is %s, want %s", row.sentence, path, got, was[path])
			}
		}
		if row.after == nil {
			hosttest.WantSame(t, row.sentence, h.State(t), state)
		}
		hosttest.SetSysctl(t, all4, "0")
		hosttest.SetSysctl(t, "net/ipv6/conf/all/forwarding", "0")
		h.Close(t)
	}
}

// udev names an interface that has just come, at any moment.
func TestAnInterfaceMayGetAnotherNameMeanwhile(t *testing.T) {
	if !hosttest.InNamespaces(t) {
		return
	}
	h := hosttest.New(t)
	link := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "usb0"}, PeerName: "usb9"}
	host, err := open(config(h), func(change string) {
		if change == "make sysctl net/ipv4/conf/usb0/forwarding" {
			hosttest.Must(t, netlink.LinkSetName(link, "enx1"))
		}
	})
	hosttest.Must(t, err)
	hosttest.Must(t, host.Apply(t.Context(), routed()))
	hosttest.Must(t, netlink.LinkAdd(link))
	for range 2 { // it is renamed in the first
		hosttest.Must(t, host.repair(t.Context()))
	}
	const path = "net/ipv4/conf/enx1/forwarding"
	if v4, _ := host.Forwarding.Families(); !v4 || hosttest.Sysctl(path) != "1" {
		t.Errorf("got IPv4 %t, %s %s, want it to be forwarded from there", v4, path, hosttest.Sysctl(path))
	}
	hosttest.Must(t, host.Close())
	if got := hosttest.Sysctl(path); got != "0" {
		t.Errorf("after the end: %s is %s, want 0", path, got)
	}
	hosttest.Must(t, netlink.LinkDel(link))
	h.Close(t)
}

func TestForwardingNeedsItsTable(t *testing.T) {
	if !hosttest.InNamespaces(t) {
		return
	}
	h := hosttest.New(t)
	host, err := open(config(h), nil)
	hosttest.Must(t, err)
	s := routed()
	s.Capture = []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")}
	if err := host.Apply(t.Context(), s); err == nil {
		t.Error("a TUN that captures was made to forward")
	}
	hosttest.Must(t, host.Apply(t.Context(), routed()))
	host.mu.Lock()
	plan := withoutForwarding(host.applied)
	host.mu.Unlock()
	if len(plan) == len(host.applied) || slices.ContainsFunc(plan, func(c change) bool { return c.stage() == stageSysctl }) {
		t.Errorf("without the table: got %v, want no interface that forwards", plan)
	}
	hosttest.Must(t, host.Close())
}

func TestPairsAreSmallNetworksApart(t *testing.T) {
	for _, v4 := range []bool{true, false} {
		list := pairs(v4)
		for i, p := range list {
			if !p.IsValid() || p.Addr().BitLen()-p.Bits() != 2 || p.Addr() != p.Masked().Addr().Next() || slices.ContainsFunc(list[:i], p.Overlaps) {
				t.Errorf("got %v, want the first address of a network of its own", p)
			}
		}
	}
	u := used{taken: prefixes("198.19.255.0/24"), routed: prefixes("198.19.254.0/24")}
	if got := chooseFrom(pairs(true), nil, u); got != netip.MustParsePrefix("198.19.253.1/30") {
		t.Errorf("got %v, want the first that is free", got)
	}
}
