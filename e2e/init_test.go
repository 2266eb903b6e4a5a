package e2e

import (
	"os"
	"strings"
	"testing"

	"penstock/e2e/netlab"
)

// laptop [pen0 -> penstock] -- access (captures) === WireGuard ===> [penstock] gateway --- intranet
//
// Nobody has written a configuration: init made both, and peer add the file that leads from one to the other.
func TestTheFirstRunNeedsNoEditor(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	must := func(h *netlab.Host, args ...string) string {
		t.Helper()
		r := run(t, h, built("penstock"), args...)
		if r.code != 0 {
			t.Fatalf("penstock %s: %s", strings.Join(args, " "), r)
		}
		return r.stdout
	}
	gateway, laptop := w.path("g/config.yaml"), w.path("l/config.yaml")
	first := []string{"init", "gateway", "--network", "10.20.0.0/24", "--endpoint", netlab.GatewayIPv4, "--dns", "203.0.113.53", "--file", gateway, "--yes"}
	must(w.Gateway, first...)
	if r := run(t, w.Gateway, built("penstock"), first...); r.code != 1 || !strings.Contains(r.stderr, "already") {
		t.Errorf("a second init: got %s, want that it refuses", r)
	}
	w.watch(t)
	w.gateway = start(t, w.Gateway, gateway)
	w.gateway.must(t, "peer", "add", "ana", "-c", gateway, "-o", w.path("hq.conf"))
	must(w.Laptop, "init", "--profile", w.path("hq.conf"), "--block", "adult", "--list", "gambling="+w.path("gambling.txt"),
		"--list", "adult="+w.path("adult.hosts"), "--file", laptop, "--yes")
	t.Run("on a terminal it asks", func(t *testing.T) {
		c := w.Laptop.Command(t.Context(), program(t, "script"), "-qec", built("penstock")+" init --file "+w.path("asked.yaml"), "/dev/null")
		c.Stdin = strings.NewReader(strings.Join([]string{"desktop", "laptop", w.path("none"), w.path("hq.conf"), "adult", "", "yes", ""}, "\n"))
		r := finish(t, c)
		for _, want := range []string{"neither laptop nor gateway", "there is no file", "Which categories are blocked", "Write this to", "made "} {
			if r.code != 0 || !strings.Contains(r.stdout, want) {
				t.Errorf("got no %q: %s", want, r)
			}
		}
		if text := w.read(t, "asked.yaml"); !strings.Contains(text, "\nprofile: \"hq.conf\"\n") || !strings.Contains(text, "\nblock: [adult]\n") {
			t.Errorf("got\n%s", text)
		}
	})
	if err := os.Remove(w.path("hq.conf")); err != nil { // init has a copy
		t.Fatal(err)
	}
	// All that the test adds: hosts of the lab share /var/lib and its laptops would share a file there.
	w.write(t, "l/config.yaml", w.read(t, "l/config.yaml")+"\nlisten: {tun: {state_file: "+w.path("host.json")+"}}\n")
	w.laptop = start(t, w.Laptop, laptop)
	w.connected(t)
	tryAll(t, w.Laptop, []attempt{
		{"a public site", "curl -4 https://" + netlab.PublicSite + "/", "this is " + netlab.PublicSite, nil},
		{"the intranet, by address", "curl http://" + netlab.IntranetIPv4 + "/", "", nil},
		{"a blocked name does not exist", "curl https://" + netlab.GamblingSite + "/", "", []int{noSuchName}},
		{"another one", "curl https://" + netlab.AdultSite + "/", "", []int{noSuchName}},
		{"a blocked name at its address", "curl https://" + netlab.GamblingSite + "/ --resolve " + netlab.GamblingSite + ":443:" + gamblingIPv4, "", cutOff()},
	})
	if f := w.laptop.denied(t, gamblingIPv4+":443"); f.Rule != "no-gambling" || f.Host != netlab.GamblingSite {
		t.Errorf("got %+v, want that no-gambling refused %s", f, netlab.GamblingSite)
	}
	// What is in force can be written out and run instead.
	w.write(t, "long.yaml", must(w.Laptop, "config", "show", "-c", laptop))
	if out := must(w.Laptop, "check", "-c", w.path("long.yaml")); !strings.Contains(out, "is good: 4 rules") {
		t.Errorf("check of what config show printed: got %s", out)
	}
	w.nothingInClear(t)
}
