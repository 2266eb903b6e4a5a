package e2e

import (
	"fmt"
	"net/netip"
	"os"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"penstock/e2e/netlab"
)

// counters is what nft counts, which is no setting.
var counters = regexp.MustCompile(` packets \d+ bytes \d+`)

// state is everything of a host that a penstock may change, as the programs show it that people would look with.
func state(t *testing.T, h *netlab.Host) string {
	t.Helper()
	var b strings.Builder
	for _, look := range []string{
		"ip -4 rule", "ip -6 rule", "ip -4 route show table all", "ip -6 route show table all", "ip link", "ip addr",
		"cat /etc/resolv.conf", "stat -c %A,%U,%G,%s,%N /etc/resolv.conf", "nft list ruleset",
		// What the kernel counts or draws at random is no setting.
		"grep -r . /proc/sys/net/ipv4 /proc/sys/net/ipv6 2>/dev/null | grep -v -e stable_secret -e tcp_fastopen_key | sort",
	} {
		r := run(t, h, "sh", "-c", look)
		fmt.Fprintf(&b, "== %s\n%s%s", look, counters.ReplaceAllString(r.stdout, ""), r.stderr)
	}
	return b.String()
}

// settled is the state of a host once the kernel has caught up with the making of the lab: it installs the local routes
// of IPv6 addresses a while after them.
func settled(t *testing.T, h *netlab.Host) string {
	t.Helper()
	eventually(t, "every address has its local route", func() error {
		routes := run(t, h, "ip", "-6", "route", "show", "table", "local").stdout
		for line := range strings.Lines(run(t, h, "ip", "-6", "-o", "addr").stdout) {
			prefix := netip.MustParsePrefix(strings.Fields(line)[3])
			if !strings.Contains(routes, "local "+prefix.Addr().String()+" dev ") {
				return fmt.Errorf("%s has none", prefix)
			}
		}
		return nil
	})
	return state(t, h)
}

// wantState compares the host with what it was.
func wantState(t *testing.T, h *netlab.Host, want string) {
	t.Helper()
	if got := state(t, h); got != want {
		t.Errorf("the host is not as it was (- before, + now):\n%s", difference(want, got))
	}
}

// difference lists the lines that only one of two texts has.
func difference(before, now string) string {
	var b strings.Builder
	only := func(mark, a, other string) {
		for line := range strings.Lines(a) {
			if !strings.Contains(other, line) {
				b.WriteString(mark + line)
			}
		}
	}
	only("- ", before, now)
	only("+ ", now, before)
	return b.String()
}

// works wants the world as it should be: the intranet reached by name, a gambling site refused.
func (w *world) works(t *testing.T) {
	t.Helper()
	for _, a := range []attempt{
		{"", "curl https://intranet.corp.example/", "this is intranet.corp.example\n", nil},
		{"", "curl -6 https://intranet.corp.example/", "this is intranet.corp.example\n", nil},
		{"", "curl https://casino.example/", "", []int{noSuchName}},
		{"", "curl http://public.example:4/", "", []int{notConnected}},
	} {
		a.on(t, w.Laptop)
	}
}

// opens wants that lockdown keeps the laptop closed while no penstock runs, until "lockdown off".
func (w *world) opens(t *testing.T) {
	t.Helper()
	if r := run(t, w.Laptop, "curl", "-sS", "-m", "1", "http://"+publicIPv4+"/"); r.code == 0 {
		t.Errorf("under lockdown without a penstock: got %s, want no answer", r)
	}
	if r := w.laptop.cli(t, "lockdown", "-c", w.laptop.config); !strings.HasPrefix(r.stdout, "on: ") {
		t.Errorf("lockdown: got %s, want on", r)
	}
	for _, want := range []string{"the host is open\n", "no lockdown was in force\n"} {
		if r := w.laptop.cli(t, "lockdown", "off", "-c", w.laptop.config); r.code != 0 || !strings.HasPrefix(r.stdout, want) {
			t.Errorf("lockdown off: got %s, want %q", r, want)
		}
	}
}

// laptop [pen0 -> penstock, stopped] === WireGuard ===> [penstock, stopped] gateway --- intranet
func TestAStopGivesTheHostBack(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		sentence string
		edits    []string
		end      func(t *testing.T, w *world)
	}{
		{"by SIGTERM", nil, func(t *testing.T, w *world) { w.laptop.stop(t, syscall.SIGTERM) }},
		{"by SIGINT", nil, func(t *testing.T, w *world) { w.laptop.stop(t, os.Interrupt) }},
		{"by SIGTERM and lockdown off", []string{"rules:", "always_on: {lockdown: true}\nrules:"}, func(t *testing.T, w *world) {
			w.laptop.stop(t, syscall.SIGTERM)
			w.opens(t)
		}},
		{"by SIGKILL and cleanup", nil, func(t *testing.T, w *world) {
			w.laptop.kill(t)
			if r := w.laptop.cli(t, "cleanup", "-c", w.laptop.config); r.code != 0 {
				t.Errorf("cleanup: %s", r)
			}
		}},
		{"by SIGKILL, cleanup and lockdown off", []string{"rules:", "always_on: {lockdown: true}\nrules:"}, func(t *testing.T, w *world) {
			w.laptop.kill(t)
			for range 2 { // the second finds nothing to do
				if r := w.laptop.cli(t, "cleanup", "-c", w.laptop.config); r.code != 0 {
					t.Errorf("cleanup: %s", r)
				}
			}
			w.opens(t)
		}},
		{"by a reload without lockdown and SIGTERM", []string{"rules:", "always_on: {lockdown: true}\nrules:"}, func(t *testing.T, w *world) {
			w.edit(t, "laptop.yaml", "always_on: {lockdown: true}\n", "")
			if out := w.laptop.must(t, "reload"); strings.Contains(out, "restart") {
				t.Errorf("reload wants a restart for always_on:\n%s", out)
			}
			w.laptop.stop(t, syscall.SIGTERM)
		}},
	} {
		t.Run(row.sentence, func(t *testing.T) {
			w := newWorld(t, row.edits...)
			laptop, gateway := settled(t, w.Laptop), settled(t, w.Gateway)
			w.up(t)
			if state(t, w.Laptop) == laptop {
				t.Error("the running penstock changed nothing: the comparison would prove nothing")
			}
			w.works(t)
			row.end(t, w)
			w.gateway.stop(t, syscall.SIGTERM)
			wantState(t, w.Laptop, laptop)
			wantState(t, w.Gateway, gateway)
		})
	}
}

// laptop [pen0 -> penstock, killed] === WireGuard ===> [penstock, killed] gateway --- intranet
func TestAfterSIGKILLAllIsAsBefore(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	laptop, gateway := settled(t, w.Laptop), settled(t, w.Gateway)
	w.up(t)
	w.works(t)
	running := state(t, w.Laptop)
	for range 2 {
		w.laptop.kill(t)
		w.gateway.kill(t)
		w.gateway.start(t)
		w.laptop.start(t)
		w.connected(t)
		w.works(t)
	}
	if got := lasting(state(t, w.Laptop)); got != lasting(running) {
		t.Errorf("running again, the host differs (- first, + now):\n%s", difference(lasting(running), got))
	}
	w.nothingInClear(t)
	w.laptop.stop(t, syscall.SIGTERM)
	w.gateway.stop(t, syscall.SIGTERM)
	wantState(t, w.Laptop, laptop)
	wantState(t, w.Gateway, gateway)
}

// lasting takes out what differs from one penstock to the next: the numbers of its interfaces, their random link-local
// addresses, and the name of the instance in its firewall rules.
func lasting(state string) string {
	instance := regexp.MustCompile(`"penstock [0-9a-f]+ `)
	var b strings.Builder
	for line := range strings.Lines(state) {
		for _, name := range []string{"pen0", "penk0"} {
			if number, rest, ok := strings.Cut(line, ": "+name+": "); ok && !strings.Contains(number, " ") {
				line = name + ": " + rest
			}
		}
		if !strings.Contains(line, "fe80::") {
			b.WriteString(instance.ReplaceAllString(line, `"penstock `))
		}
	}
	return b.String()
}

// laptop [pen0 -> penstock] === WireGuard ===> [penstock, killed and started] gateway --- intranet
func TestTheLaptopOutlivesItsGateway(t *testing.T) {
	t.Parallel()
	w := newWorld(t).up(t)
	w.gateway.kill(t)
	w.gateway.start(t)
	curl := program(t, "curl")
	eventually(t, "the intranet is reached again", func() error {
		if r := run(t, w.Laptop, curl, "-sS", "--max-time", "2", "http://10.20.0.10/"); r.code != 0 {
			return fmt.Errorf("curl: %s", r)
		}
		return nil
	})
	w.connected(t)
	w.works(t)
	w.nothingInClear(t)
}

// laptop [pen0 -> penstock; a second penstock] === WireGuard ===> [penstock; a second penstock] gateway
func TestASecondInstanceIsRefusedAndDisturbsNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t).up(t)
	laptop, gateway := settled(t, w.Laptop), settled(t, w.Gateway)
	for _, p := range []*penstock{w.laptop, w.gateway} {
		for _, socket := range []string{p.socket, p.socket + "2"} {
			r := run(t, p.host, built("penstock"), "run", "-c", p.config, "--socket", socket)
			if r.code < 1 || !strings.Contains(r.stderr, "in use") && !strings.Contains(r.stderr, "another penstock") {
				t.Errorf("a second penstock on %s: got %s\nwant it refused with the reason", p.host.Name(), r)
			}
		}
	}
	w.works(t)
	wantState(t, w.Laptop, laptop)
	wantState(t, w.Gateway, gateway)
	w.connected(t)
	w.nothingInClear(t)
}
