package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"penstock/e2e/netlab"
	"penstock/e2e/netlab/machine"
)

// hosted is a world whose laptop is a machine with systemd, on which penstock is installed as docs/install.md says.
type hosted struct {
	*world
	*machine.Machine
}

// requireMachine skips the test if no machine can be booted here. With PENSTOCK_REQUIRE_MACHINE=1 it fails the test instead.
func requireMachine(t *testing.T) {
	t.Helper()
	err := machine.Available()
	switch {
	case err == nil:
	case os.Getenv("PENSTOCK_REQUIRE_MACHINE") == "1":
		t.Fatalf("PENSTOCK_REQUIRE_MACHINE=1: %v", err)
	default:
		t.Skip(err)
	}
}

// TestMachinesOfTheirOwn and TestMachinesWithOthers have one machine after another each, so that two are on at a time, however many
// processors there are: each has some 15 inotify instances, of which the kernel gives root 128.
func TestMachinesOfTheirOwn(t *testing.T) {
	t.Parallel()
	requireMachine(t)
	t.Run("MachineThatBootsInTrouble", machineThatBootsInTrouble)
	t.Run("MachineThatInitSetsUp", machineThatInitSetsUp)
	t.Run("MachineUnderLockdown", machineUnderLockdown)
	t.Run("MachineWithoutLockdown", machineWithoutLockdown)
}

func TestMachinesWithOthers(t *testing.T) {
	t.Parallel()
	requireMachine(t)
	t.Run("MachineWithResolved", machineWithResolved)
	t.Run("MachineWhoseResolverFileIsReplaced", machineWhoseResolverFileIsReplaced)
	t.Run("MachineWithEveryResolver", machineWithEveryResolver)
	t.Run("MachineWithAFirewallAndContainers", machineWithAFirewallAndContainers)
	t.Run("MachineInstallsThePackage", machineInstallsThePackage)
}

// newHosted makes a machine that is off, with the files to install in /srv/penstock. Edits are pairs of old and new text for the
// configuration. The gateway runs.
func newHosted(t *testing.T, edits ...string) *hosted {
	t.Helper()
	requireMachine(t)
	h := &hosted{world: newWorld(t)}
	h.gateway = start(t, h.Gateway, h.path("gateway.yaml"))
	dir := filepath.Join(h.dir, "machine")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	var err error
	if h.Machine, err = machine.New(t.Context(), h.Lab, dir); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			if journal, err := h.journal(); err == nil {
				t.Logf("the journal of penstock:\n%s", journal)
			}
			t.Logf("the machine's console:\n%s", h.Console())
		}
		if err := h.Machine.Close(); err != nil {
			t.Errorf("close the machine: %v", err)
		}
	})
	config := strings.Replace(laptopYAML, ", state_file: DIR/host.json", "", 1)
	for i := 0; i+1 < len(edits); i += 2 {
		if !strings.Contains(config, edits[i]) {
			t.Fatalf("the configuration does not contain %q", edits[i])
		}
		config = strings.Replace(config, edits[i], edits[i+1], 1)
	}
	config = strings.Replace(config, "corp.conf", "hq.conf", 1)
	config = strings.ReplaceAll(strings.ReplaceAll(config, "gambling.txt", "/etc/gambling.txt"), "adult.hosts", "/etc/adult.hosts")
	h.put(t, "/srv/penstock/config.yaml", h.fill.Replace(config), 0o600)
	h.put(t, "/srv/penstock/hq.conf", h.read(t, "corp.conf"), 0o600)
	for _, list := range []string{"gambling.txt", "adult.hosts"} {
		h.put(t, "/etc/"+list, h.read(t, list), 0o600)
	}
	h.copy(t, built("penstock"), "/srv/penstock/penstock", 0o755)
	for _, unit := range []string{"penstock.service", "penstock-lockdown.service", "penstock.sysusers.conf"} {
		h.copy(t, filepath.Join("..", "deploy", unit), "/srv/penstock/deploy/"+unit, 0o644)
	}
	h.put(t, "/etc/systemd/system/chatter.service", chatterUnit, 0o644)
	h.put(t, "/usr/local/bin/chatter", chatterScript, 0o755)
	h.put(t, "/etc/hostname", "machine\n", 0o644)
	return h
}

// chatterUnit sends traffic from the first moment of a boot to the last of a shutdown, as the programs of a real host do.
const chatterUnit = `[Unit]
Description=traffic that must not leave in clear
DefaultDependencies=no
[Service]
ExecStart=/usr/local/bin/chatter
Restart=always
RestartSec=100ms
[Install]
WantedBy=sysinit.target
`

const chatterScript = `#!/bin/sh
while :; do
	ping -c 1 -W 1 203.0.113.10 >/dev/null 2>&1 &
	ping -c 1 -W 1 2001:db8:113::10 >/dev/null 2>&1 &
	curl -s -m 1 http://203.0.113.11/ >/dev/null 2>&1 &
	dig +time=1 +tries=1 @203.0.113.53 news.example >/dev/null 2>&1 &
	timeout 2 getent hosts public.example >/dev/null 2>&1 &
	wait
	sleep 0.05
done
`

// callerScript calls the port of the metrics each 10 ms, and writes how many calls there were and how many of them were refused.
const callerScript = `
	while [ ! -e /run/enough ]; do
		(exec 3<>/dev/tcp/127.0.0.1/9477) 2>/dev/null || refused=$((refused+1))
		calls=$((calls+1))
		sleep 0.01
	done
	echo $((calls)) $((refused)) >/run/calls`

// put writes a file of the machine.
func (h *hosted) put(t *testing.T, name, text string, mode uint32) {
	t.Helper()
	if err := h.Write(name, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
}

// copy copies a file into the machine.
func (h *hosted) copy(t *testing.T, from, to string, mode uint32) {
	t.Helper()
	content, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := h.Write(to, content, mode); err != nil {
		t.Fatal(err)
	}
}

// sh runs a shell command as the machine's root.
func (h *hosted) sh(t *testing.T, script string) result {
	t.Helper()
	r, err := h.Run(context.WithoutCancel(t.Context()), "sh", "-c", script)
	if err != nil {
		t.Fatal(err)
	}
	return result{r.Stdout, r.Stderr, r.Code}
}

// do runs a shell command that must succeed, and returns what it prints.
func (h *hosted) do(t *testing.T, script string) string {
	t.Helper()
	r := h.sh(t, script)
	if r.code != 0 {
		t.Fatalf("%s: %s", script, r)
	}
	return r.stdout
}

func (h *hosted) boot(t *testing.T) {
	t.Helper()
	if err := h.Boot(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func (h *hosted) powerOff(t *testing.T) {
	t.Helper()
	if err := h.PowerOff(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func (h *hosted) journal() (string, error) {
	if h.Machine == nil {
		return "", errors.New("no machine")
	}
	// Not what Go prints of a crash.
	r, err := h.Run(context.Background(), "sh", "-c", `journalctl --no-pager -o short-precise -u penstock.service -u penstock-lockdown.service |
		grep -E 'Boot |systemd|\\[[0-9]+\\]: (\\{|penstock|lockdown|/)' | tail -n 200`)
	return r.Stdout, err
}

// online waits until the machine has its addresses from the router.
func (h *hosted) online(t *testing.T) {
	t.Helper()
	eventually(t, "the machine has its addresses", func() error {
		r := h.sh(t, "ip route; ip -6 route; ip addr show dev lan0; resolvectl dns lan0")
		for _, want := range []string{"default via 192.168.70.1", "default via fe80", "inet6 fd70:", "lan0): 192.168.70.1"} {
			if !strings.Contains(r.stdout, want) || strings.Contains(r.stdout, "tentative") {
				return fmt.Errorf("no %q yet: %s", want, r)
			}
		}
		return nil
	})
}

// documented returns the block of docs/install.md with a name.
func documented(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "docs", "install.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(text), "```sh "+name+"\n")
	block, _, closed := strings.Cut(rest, "```")
	if !ok || !closed {
		t.Fatalf("docs/install.md has no block %q", name)
	}
	return block
}

// follow runs the commands of a block of docs/install.md.
func (h *hosted) follow(t *testing.T, name string) {
	t.Helper()
	t.Logf("%s: %s", name, h.do(t, "cd /srv/penstock; set -e\n"+documented(t, name)))
}

// isConnected waits until the machine's penstock is connected and names resolve.
func (h *hosted) isConnected(t *testing.T) {
	t.Helper()
	eventually(t, "the machine is connected", func() error {
		if r := h.sh(t, "penstock status"); r.code != 0 {
			return fmt.Errorf("status: %s", r)
		}
		return nil
	})
	h.carries(t)
}

// carries waits until the intranet and the internet can be reached, and wants that the policy holds.
func (h *hosted) carries(t *testing.T) {
	t.Helper()
	for script, want := range map[string]string{
		"curl -sS -m 10 http://intranet.corp.example/": "this is intranet.corp.example\n",
		"curl -sS -m 10 http://news.example/":          "this is news.example\n",
	} {
		eventually(t, script, func() error {
			if r := h.sh(t, script); r.stdout != want {
				return fmt.Errorf("got %s, want %q", r, want)
			}
			return nil
		})
	}
	if r := h.sh(t, "curl -sS -m 10 http://casino.example/"); r.code == 0 {
		t.Errorf("a gambling site: got %s, want a refusal", r)
	}
}

// watch captures the machine's access network.
func (h *hosted) watch(t *testing.T) *netlab.Capture {
	t.Helper()
	c, err := h.Capture(t.Context(), netlab.Endpoint{Network: "udp", Addr: netip.MustParseAddrPort(netlab.GatewayIPv4 + ":51820")})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// dark wants that a capture has seen nothing in clear so far.
func dark(t *testing.T, c *netlab.Capture, when string) {
	t.Helper()
	if err := c.Report().Err(); err != nil {
		t.Errorf("%s: %v", when, err)
	}
}

// networkd gives the machine its network by systemd-networkd and systemd-resolved.
func (h *hosted) networkd(t *testing.T) {
	t.Helper()
	h.put(t, "/etc/systemd/network/20-lan.network", "[Match]\nName=lan0\n[Network]\nDHCP=ipv4\n", 0o644)
	h.put(t, "/etc/systemd/resolved.conf.d/quiet.conf", "[Resolve]\nLLMNR=no\nMulticastDNS=no\n", 0o644) // the LAN may hear them
	h.do(t, "systemctl enable systemd-networkd.service systemd-resolved.service && ln -sf /run/systemd/resolve/stub-resolv.conf /etc/resolv.conf")
}

// machine [chatter, penstock] lan0 --- br0 access (captures) === WireGuard ===> [penstock] gateway --- intranet
func machineUnderLockdown(t *testing.T) {
	h := newHosted(t, "rules:", "always_on: {lockdown: true}\nrules:")
	h.networkd(t)
	h.boot(t)
	h.online(t)
	before := h.state(t)

	open := h.watch(t)
	h.do(t, "systemctl enable --now chatter.service")
	eventually(t, "without penstock the router sees traffic in clear", func() error {
		if r := open.Report(); r.Clear == 0 {
			return errors.New("it sees none: the capture would prove nothing")
		}
		return nil
	})
	// A server whose answer to what was asked in clear is not acknowledged would repeat it for minutes.
	h.do(t, "systemctl stop chatter.service")
	h.follow(t, "install")
	h.isConnected(t)
	open.Stop()

	h.do(t, "systemctl start chatter.service")
	h.do(t, "systemd-run --quiet --unit=caller bash -c '"+callerScript+"'")
	c := h.watch(t)
	for _, step := range []struct {
		sentence string
		do       func(t *testing.T)
	}{
		{"a restart", func(t *testing.T) { h.do(t, "systemctl restart penstock.service") }},
		{"a crash by signal", func(t *testing.T) { h.do(t, "systemctl kill --signal=SEGV penstock.service") }},
		{"a kill", func(t *testing.T) { h.do(t, "systemctl kill --signal=KILL penstock.service") }},
		{"nobody was refused meanwhile", func(t *testing.T) {
			var calls, refused int
			eventually(t, "the caller has counted", func() error {
				_, err := fmt.Sscanf(h.sh(t, "touch /run/enough; cat /run/calls").stdout, "%d %d", &calls, &refused)
				return err
			})
			if t.Logf("%d calls, %d refused", calls, refused); refused > 0 {
				t.Errorf("%d of %d calls were refused, want none: the unit has systemd keep the sockets", refused, calls)
			}
		}},
		{"a stop and a start", func(t *testing.T) {
			h.do(t, "systemctl stop penstock.service")
			time.Sleep(2 * time.Second) // traffic that could leave
			if text := h.do(t, "journalctl -u penstock.service -o cat --no-pager"); !strings.Contains(text, "penstock lockdown off") {
				t.Errorf("the journal does not tell how to open the host:\n%s", text)
			}
			h.do(t, "systemctl start penstock.service")
		}},
		{"powering off and booting", func(t *testing.T) { h.powerOff(t); h.boot(t) }},
		{"a power cut and booting", func(t *testing.T) {
			if err := h.Cut(); err != nil {
				t.Fatal(err)
			}
			h.boot(t)
		}},
		// A container cannot be suspended. This is what the service sees of it: it does not run while the network goes and comes back.
		{"a sleep while the network changes", func(t *testing.T) {
			h.do(t, "systemctl kill --signal=STOP penstock.service && ip link set lan0 down")
			time.Sleep(3 * time.Second) // traffic that could leave
			h.do(t, "ip link set lan0 up")
			h.online(t)
			if r := h.sh(t, "curl -sS -m 2 http://news.example/"); r.code == 0 {
				t.Errorf("while penstock sleeps: got %s, want no answer", r)
			}
			h.do(t, "systemctl kill --signal=CONT penstock.service")
		}},
	} {
		t.Run(step.sentence, func(t *testing.T) {
			step.do(t)
			h.isConnected(t)
			dark(t, c, step.sentence)
		})
	}
	t.Run("a configuration with a fault", func(t *testing.T) {
		config := h.do(t, "cat /etc/penstock/config.yaml")
		h.put(t, "/etc/penstock/config.yaml", strings.Replace(config, "rules:", "ruls:", 1), 0o600)
		for _, step := range []struct {
			sentence string
			do       func()
		}{
			{"a restart", func() { h.do(t, "systemctl restart penstock.service") }},
			{"a boot", func() { h.powerOff(t); h.boot(t) }},
		} {
			step.do()
			eventually(t, "status says that the last good configuration runs, after "+step.sentence, func() error {
				r := h.sh(t, "penstock status")
				if line, _, _ := strings.Cut(r.stdout, "\n"); !strings.Contains(line, "last good configuration") || !strings.Contains(line, "ruls") {
					return fmt.Errorf("got %s", r)
				}
				return nil
			})
			if failed := h.do(t, "journalctl -b -p err -o cat --no-pager -u penstock.service"); !strings.Contains(failed, "ruls") {
				t.Errorf("after %s: journalctl -p err does not name the fault:\n%s", step.sentence, failed)
			}
			h.carries(t)
			dark(t, c, step.sentence+" with a fault in the configuration")
		}
		h.put(t, "/etc/penstock/config.yaml", config, 0o600)
		h.do(t, "penstock reload")
		h.isConnected(t)
	})
	if r := c.Stop(); r.Tunnel == 0 {
		t.Errorf("the router saw no packet of the tunnel: %+v", r)
	}

	h.do(t, "systemctl disable --now chatter.service")
	h.follow(t, "uninstall")
	h.online(t)
	if after := h.state(t); after != before {
		t.Errorf("the host is not as it was (- before, + now):\n%s", difference(before, after))
	}
}

// state is everything of the machine that penstock may change, as programs show it.
func (h *hosted) state(t *testing.T) string {
	t.Helper()
	var b strings.Builder
	for _, look := range []string{
		"ip -4 rule", "ip -6 rule", "ip -4 route show table all", "ip -6 route show table all | sed 's/ expires [0-9]*sec//'",
		"ip -o addr | sed 's/valid_lft.*//'", "cat /etc/resolv.conf", "stat -c %A,%U,%G,%N /etc/resolv.conf", "nft list ruleset",
		"resolvectl dns; resolvectl domain; resolvectl default-route", "systemctl list-unit-files --no-legend --state=enabled", "ls -A /etc /etc/systemd/system /var/lib /var/log",
	} {
		r := h.sh(t, look)
		fmt.Fprintf(&b, "== %s\n%s%s", look, r.stdout, r.stderr)
	}
	// The router gives out an address for each boot.
	return regexp.MustCompile(`192\.168\.70\.\d{3}|(fd70|fe80):(:?[0-9a-f]+)*`).ReplaceAllString(b.String(), "ADDRESS")
}

// container [172.30.0.2] --- ct0 [machine: firewalld, forwarding with masquerading] lan0 --- br0 access (captures) === WireGuard ===> gateway
func machineWithAFirewallAndContainers(t *testing.T) {
	h := newHosted(t, "rules:", "always_on: {lockdown: true}\nrules:")
	h.networkd(t)
	h.do(t, "systemctl enable firewalld.service")
	h.boot(t)
	h.online(t)
	c := h.watch(t)
	h.follow(t, "install")
	h.isConnected(t)
	// What a container engine sets up.
	h.do(t, `set -e
		ip netns add ct
		ip link add ct0 type veth peer name eth0 netns ct
		ip addr add 172.30.0.1/24 dev ct0
		ip link set ct0 up
		ip -n ct addr add 172.30.0.2/24 dev eth0
		ip -n ct link set eth0 up
		ip -n ct link set lo up
		ip -n ct route add default via 172.30.0.1
		echo 1 > /proc/sys/net/ipv4/ip_forward
		firewall-cmd --quiet --zone=trusted --add-interface=ct0
		nft add table ip engine
		nft add chain ip engine post '{ type nat hook postrouting priority srcnat; }'
		nft add rule ip engine post ip saddr 172.30.0.0/24 oifname != ct0 masquerade
		mkdir -p /etc/netns/ct
		echo nameserver 9.9.9.9 > /etc/netns/ct/resolv.conf`)
	inside := "ip netns exec ct "
	for _, row := range []struct{ sentence, script, want string }{
		{"a container reaches a public site by address", "curl -sS -m 10 http://203.0.113.10/", "this is"},
		{"a container resolves through penstock, whatever server it asks", "curl -sS -m 10 http://intranet.corp.example/", "this is intranet.corp.example\n"},
	} {
		eventually(t, row.sentence, func() error {
			if r := h.sh(t, inside+row.script); !strings.HasPrefix(r.stdout, row.want) {
				return fmt.Errorf("got %s, want %q", r, row.want)
			}
			return nil
		})
	}
	if r := h.sh(t, inside+"curl -sS -m 5 http://casino.example/"); r.code == 0 {
		t.Errorf("a container and a gambling site: got %s, want a refusal", r)
	}
	if r := h.sh(t, inside+"ping -c 1 -W 3 172.30.0.1"); r.code != 0 {
		t.Errorf("a container and its host: got %s", r)
	}
	if r := h.sh(t, "ping -c 1 -W 3 172.30.0.2"); r.code != 0 {
		t.Errorf("the host and a container: got %s", r)
	}
	for _, step := range []string{"firewall-cmd --reload", "firewall-cmd --complete-reload", "systemctl restart firewalld.service"} {
		h.do(t, step)
		h.isConnected(t)
		dark(t, c, step)
	}
	h.do(t, "systemctl stop firewalld.service") // it may remove its own tables, not ours
	h.isConnected(t)
	if r := c.Stop(); r.Err() != nil || r.Tunnel == 0 {
		t.Errorf("the router saw %+v: %v", r, r.Err())
	}
}

// machine [chatter, penstock without lockdown] lan0 --- br0 access (captures) === WireGuard ===> [penstock] gateway --- intranet
func machineWithoutLockdown(t *testing.T) {
	h := newHosted(t, "metrics:", "control: {group: penstock}\nmetrics:")
	h.networkd(t)
	h.boot(t)
	h.follow(t, "install")
	h.isConnected(t)
	h.do(t, "systemctl enable --now chatter.service")
	c := h.watch(t)
	t.Run("a crash does not open what was captured", func(t *testing.T) {
		for _, signal := range []string{"SEGV", "ABRT", "KILL"} {
			h.do(t, "systemctl kill --signal="+signal+" penstock.service")
			h.isConnected(t)
			dark(t, c, "after "+signal)
		}
	})
	t.Run("the watchdog ends a process that hangs", func(t *testing.T) {
		h.do(t, "mkdir -p /etc/systemd/system/penstock.service.d && printf '[Service]\\nWatchdogSec=2s\\n' > /etc/systemd/system/penstock.service.d/quick.conf && systemctl daemon-reload")
		h.do(t, "systemctl kill --signal=KILL penstock.service") // the next one has the short time
		h.isConnected(t)
		before := h.do(t, "systemctl show -p MainPID --value penstock.service")
		h.do(t, "systemctl kill --signal=STOP penstock.service")
		eventually(t, "another process runs", func() error {
			if now := h.do(t, "systemctl show -p MainPID --value penstock.service"); now == before || strings.TrimSpace(now) == "0" {
				return fmt.Errorf("main process %s", now)
			}
			return nil
		})
		h.isConnected(t)
		dark(t, c, "after the watchdog")
	})
	t.Run("a member of the group may look, others are told what is missing", func(t *testing.T) {
		if r := h.sh(t, "runuser -u ana -- penstock status"); r.code != 4 || !strings.Contains(r.stderr, "penstock") || strings.Contains(r.stderr, "not running") {
			t.Errorf("status by a stranger: got %s, want no permission", r)
		}
		h.do(t, "adduser --quiet ana penstock")
		if r := h.sh(t, "runuser -u ana -- penstock status"); r.code != 0 {
			t.Errorf("status by a member of the group: got %s", r)
		}
		if r := h.sh(t, "runuser -u ana -- penstock down corp"); r.code != 4 {
			t.Errorf("down by a member of the group: got %s, want no permission", r)
		}
	})
	t.Run("the service's line in systemctl is current", func(t *testing.T) {
		h.do(t, "penstock down corp")
		eventually(t, "systemctl status says that it is down", func() error {
			if line := h.do(t, "systemctl show -p StatusText --value penstock.service"); !strings.HasPrefix(line, "down") {
				return fmt.Errorf("got %q", line)
			}
			return nil
		})
		h.do(t, "penstock up corp")
		h.isConnected(t)
	})
	dark(t, c, "while penstock ran")
	t.Run("a configuration with a fault, and no copy of a good one", func(t *testing.T) {
		h.do(t, "systemctl stop penstock.service && rm -r /var/lib/penstock/last-good && sed -i s/rules:/ruls:/ /etc/penstock/config.yaml")
		if r := h.sh(t, "systemctl start penstock.service"); r.code == 0 {
			t.Errorf("start: got %s, want a failure", r)
		}
		if text := h.do(t, "journalctl -b -p err -o cat --no-pager -u penstock.service"); !strings.Contains(text, "config.yaml:") || !strings.Contains(text, "rules") {
			t.Errorf("journalctl -p err does not name the place and the mend:\n%s", text)
		}
	})
	h.sh(t, "curl -s --max-time 5 http://"+publicIPv4+"/") // whatever becomes of it
	if r := c.Stop(); r.Clear == 0 {
		t.Errorf("while penstock was stopped the router saw nothing in clear: the capture proves nothing: %+v", r)
	}
}

// machine [penstock demo]: the demo brings its own world. It runs alone, because the demo counts the answers in a second.
func TestMachineRunsTheDemoForAnyone(t *testing.T) {
	h := newHosted(t)
	h.boot(t)
	h.do(t, "cp /srv/penstock/penstock /usr/local/bin/penstock")
	const withoutTUN = "unshare --mount sh -c 'mount -t tmpfs none /dev/net && runuser -u ana -- penstock demo%s'"
	for _, row := range []struct{ who, script string }{
		{"root", "penstock demo"},
		{"root, a fleet", "penstock demo --fleet"},
		{"an ordinary user", "runuser -u ana -- penstock demo"},
		{"an ordinary user, a fleet", "runuser -u ana -- penstock demo --fleet"},
		{"an ordinary user without a TUN device", fmt.Sprintf(withoutTUN, "")},
		{"an ordinary user without a TUN device, a fleet", fmt.Sprintf(withoutTUN, " --fleet")},
		{"an ordinary user without namespaces or any right, a fleet",
			"systemd-run --quiet --pipe --wait --uid=ana -p NoNewPrivileges=yes -p CapabilityBoundingSet= -p RestrictNamespaces=yes /usr/local/bin/penstock demo --fleet"},
		{"an ordinary user without namespaces or any right",
			"systemd-run --quiet --pipe --wait --uid=ana -p NoNewPrivileges=yes -p CapabilityBoundingSet= -p RestrictNamespaces=yes /usr/local/bin/penstock demo"},
		{"root without namespaces or any right",
			"systemd-run --quiet --pipe --wait -p NoNewPrivileges=yes -p CapabilityBoundingSet= -p RestrictNamespaces=yes -p PrivateDevices=yes /usr/local/bin/penstock demo"},
	} {
		t.Run(row.who, func(t *testing.T) {
			r := h.sh(t, row.script)
			if r.code != 0 || !strings.Contains(r.stdout, "casino.example") {
				t.Errorf("got %s", r)
			}
		})
	}
}
