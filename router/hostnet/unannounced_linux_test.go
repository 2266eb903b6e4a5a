package hostnet

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"penstock/router/hostnet/internal/hosttest"
)

// quiet is how long Watch needs after the last event until its ticks look only at what has no events.
const quiet = settleTime + 2*repairWithin

func TestWhatHasNoEventsIsPutBackOnAQuietHost(t *testing.T) {
	if !hosttest.InNamespaces(t) {
		return
	}
	h := hosttest.New(t)
	hosttest.SetSysctl(t, "net/ipv4/conf/all/rp_filter", "0")
	hosttest.SetSysctl(t, "net/ipv4/conf/up0/rp_filter", "0")
	target := filepath.Join(h.Dir, "network.conf") // as NetworkManager keeps one
	hosttest.Must(t, os.WriteFile(target, []byte("nameserver 192.0.2.53\n"), 0o644))
	hosttest.Must(t, os.Remove(h.ResolvConf()))
	hosttest.Must(t, os.Symlink(target, h.ResolvConf()))
	host, err := Open(config(h))
	hosttest.Must(t, err)
	defer host.Close()
	hosttest.Must(t, host.Apply(t.Context(), everything()))
	defer startWatch(t, host)()
	resolvConf := func() string {
		content, _ := os.ReadFile(h.ResolvConf())
		return string(content)
	}
	for _, row := range []struct {
		name   string
		change func()
		back   func() bool
	}{
		{"a sysctl of ours", func() { hosttest.SetSysctl(t, "net/ipv4/conf/all/arp_ignore", "0") },
			func() bool { return hosttest.Sysctl("net/ipv4/conf/all/arp_ignore") == "2" }},
		{"a strict reverse path filter on an uplink", func() { hosttest.SetSysctl(t, "net/ipv4/conf/up0/rp_filter", "1") },
			func() bool { return hosttest.Sysctl("net/ipv4/conf/all/src_valid_mark") == "1" }},
		{"the resolver file is removed", func() { hosttest.Must(t, os.Remove(h.ResolvConf())) },
			func() bool { return strings.Contains(resolvConf(), "nameserver 10.77.0.1") }},
		{"the target of the resolver file names another search domain", func() {
			hosttest.Must(t, os.WriteFile(target, []byte("nameserver 192.0.2.53\nsearch cafe.example\n"), 0o644))
		}, func() bool { return strings.Contains(resolvConf(), "cafe.example") }},
	} {
		time.Sleep(quiet)
		row.change()
		hosttest.Eventually(t, row.name, row.back) // it waits for less than lookAnyway
	}
}

func TestAWatchedQuietHostMakesLittleGarbage(t *testing.T) {
	if !hosttest.InNamespaces(t) {
		return
	}
	h := hosttest.New(t)
	host, err := Open(config(h))
	hosttest.Must(t, err)
	defer host.Close()
	hosttest.Must(t, host.Apply(t.Context(), everything()))
	defer startWatch(t, host)()
	time.Sleep(quiet)
	const window = 5 * time.Second
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	time.Sleep(window)
	runtime.ReadMemStats(&after)
	if rate := float64(after.TotalAlloc-before.TotalAlloc) / window.Seconds(); rate > 20<<10 {
		t.Errorf("got %.0f bytes a second, want 20 KiB at most", rate)
	} else {
		t.Logf("%.0f bytes a second", rate)
	}
	// What is announced is still put back: a rule, after all that quiet.
	rules, err := netlink.RuleList(netlink.FAMILY_V4)
	hosttest.Must(t, err)
	count := 0
	for _, r := range rules {
		if r.Protocol == RouteProtocol {
			if count++; count == 1 {
				hosttest.Must(t, netlink.RuleDel(&r))
			}
		}
	}
	hosttest.Eventually(t, "the rule is back", func() bool {
		rules, err := netlink.RuleList(netlink.FAMILY_V4)
		hosttest.Must(t, err)
		n := 0
		for _, r := range rules {
			if r.Protocol == RouteProtocol {
				n++
			}
		}
		return n == count
	})
}
