package hostnet

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// eventually waits for a condition that no event tells of.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(20 * time.Second)
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("still not so: %s", what)
		}
	}
}

// startWatch runs Watch until the test is over, or stop is called.
func startWatch(t *testing.T, host *Host) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- host.Watch(ctx) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Watch: got %v, want nil after the end of its context", err)
		}
	}
	t.Cleanup(stop)
	return stop
}

func TestWhatOthersRemoveIsPutBackAndNothingLeaksMeanwhile(t *testing.T) {
	if !inNamespaces(t) {
		return
	}
	h := newTestHost(t)
	dst := netip.MustParseAddrPort("198.51.100.1:9")
	must(t, send(t, dst, "", ""))
	if !arrives(t, h.uplink, dst) {
		t.Fatal("positive control: an unmarked datagram must leave before Apply")
	}
	before := h.state(t)
	c := h.config()
	kinds := make(chan string, 1024)
	c.Repaired = func(kind string, err error) {
		if err != nil {
			t.Errorf("cannot put back a %s: %v", kind, err)
		}
		kinds <- kind
	}
	host, err := Open(c)
	must(t, err)
	must(t, host.Apply(t.Context(), everything()))
	applied := h.state(t)
	stop := startWatch(t, host)

	link, err := netlink.LinkByName("pen0")
	must(t, err)
	removals := map[string]func(){
		"nft": func() {
			nft, err := nftables.New()
			must(t, err)
			nft.DelTable(&nftables.Table{Name: tableName("pen0"), Family: nftables.TableFamilyINet})
			must(t, nft.Flush())
		},
		"route": func() {
			must(t, netlink.RouteDel((&route{To: netip.MustParsePrefix("0.0.0.0/0"), Index: link.Attrs().Index, Table: DefaultTable}).netlink()))
		},
		"address": func() {
			must(t, netlink.AddrDel(link, (&address{Prefix: netip.MustParsePrefix("10.77.0.1/24")}).netlink()))
		},
		"link":   func() { must(t, netlink.LinkSetDown(link)) },
		"sysctl": func() { must(t, writeSysctl("net/ipv4/conf/all/arp_ignore", "0")) },
		"resolver": func() {
			must(t, os.Remove(h.resolvConf()))
		},
	}
	for kind, remove := range removals {
		drain(t, h.uplink)
		remove()
		for seen := ""; seen != kind; seen = <-kinds {
			_ = send(t, dst, "", "")
		}
		if arrives(t, h.uplink, dst) {
			t.Errorf("%s removed: a datagram left in clear", kind)
		}
		eventually(t, kind+" is back", func() bool { return h.state(t) == applied })
	}

	rules, err := netlink.RuleList(unix.AF_INET)
	must(t, err)
	for _, r := range rules {
		if r.Protocol != RouteProtocol {
			continue
		}
		drain(t, h.uplink)
		r.Type = unix.RTN_UNSPEC
		must(t, netlink.RuleDel(&r))
		for seen := ""; seen != "rule"; seen = <-kinds {
			_ = send(t, dst, "", "")
		}
		if arrives(t, h.uplink, dst) {
			t.Errorf("%s removed: a datagram left in clear", r)
		}
	}
	eventually(t, "every rule is back", func() bool { return h.state(t) == applied })

	stop()
	must(t, host.Close())
	wantSame(t, "after the removals", h.state(t), before)
}

func TestWatchFollowsTheConnectedNetworks(t *testing.T) {
	if !inNamespaces(t) {
		return
	}
	h := newTestHost(t)
	before := h.state(t)
	host, err := Open(h.config())
	must(t, err)
	must(t, host.Apply(t.Context(), everything()))
	stop := startWatch(t, host)

	up, err := netlink.LinkByName("up0")
	must(t, err)
	office, err := netlink.ParseAddr("10.20.0.5/16")
	must(t, err)
	must(t, netlink.AddrAdd(up, office))
	left := func(addr string) bool {
		drain(t, h.uplink)
		dst := netip.MustParseAddrPort(addr)
		_ = send(t, dst, "", "")
		return arrives(t, h.uplink, dst)
	}
	eventually(t, "a neighbour in the new network is reached", func() bool { return left("10.20.3.4:7") })
	must(t, netlink.AddrDel(up, office))
	eventually(t, "the network that went is captured again", func() bool { return !left("10.20.3.4:7") })

	stop()
	must(t, host.Close())
	wantSame(t, "after the networks changed", h.state(t), before)
}

func TestAResolverFileThatOthersWriteIsTheNewOriginal(t *testing.T) {
	if !inNamespaces(t) {
		return
	}
	h := newTestHost(t)
	host, err := Open(h.config())
	must(t, err)
	must(t, host.Apply(t.Context(), everything()))
	stop := startWatch(t, host)
	theirs := "# from another DHCP server\nnameserver 192.0.2.53\n"
	must(t, os.WriteFile(h.resolvConf(), []byte(theirs), 0o644))
	eventually(t, "resolv.conf is ours again", func() bool {
		content, err := os.ReadFile(h.resolvConf())
		return err == nil && isOurs(content)
	})
	servers, err := host.OriginalResolvers(t.Context())
	must(t, err)
	if want := []netip.Addr{netip.MustParseAddr("192.0.2.53")}; !slices.Equal(servers, want) {
		t.Errorf("original resolvers: got %v, want %v", servers, want)
	}
	stop()
	must(t, host.Close())
	content, err := os.ReadFile(h.resolvConf())
	must(t, err)
	if string(content) != theirs {
		t.Errorf("after Close: got %q, want %q", content, theirs)
	}
	if err := host.Watch(t.Context()); !errors.Is(err, ErrClosed) {
		t.Errorf("Watch after Close: got %v, want ErrClosed", err)
	}
}

func TestATUNThatGoesIsTold(t *testing.T) {
	if !inNamespaces(t) {
		return
	}
	h := newTestHost(t)
	before := h.state(t)
	c := h.config()
	gone := make(chan struct{}, 1024)
	c.Repaired = func(kind string, err error) {
		if kind == "link" && err != nil {
			gone <- struct{}{}
		}
	}
	host, err := Open(c)
	must(t, err)
	must(t, host.Apply(t.Context(), everything()))
	applied := h.state(t)
	startWatch(t, host)
	dst := netip.MustParseAddrPort("198.51.100.1:9")
	must(t, h.tun.Close())
	<-gone
	drain(t, h.uplink)
	_ = send(t, dst, "", "")
	if arrives(t, h.uplink, dst) {
		t.Error("without the TUN a datagram left in clear")
	}
	h.tun = newTUN(t, "pen0")
	eventually(t, "a new TUN of the same name is set up", func() bool {
		drain(t, h.tun)
		return send(t, dst, "", "") == nil && arrives(t, h.tun, dst)
	})
	if applied == before {
		t.Error("Apply changed nothing")
	}
	must(t, host.Close())
	wantSame(t, "after Close", h.state(t), before)
}
