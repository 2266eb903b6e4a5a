package doctor

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"penstock/cmd/internal/config"
	"penstock/cmd/internal/control"
	"penstock/router/hostnet"
	"penstock/router/hostnet/direct"
	"penstock/router/transport/wireguard"
)

func prefix(s string) netip.Prefix     { return netip.MustParsePrefix(s) }
func addr(s string) netip.Addr         { return netip.MustParseAddr(s) }
func addrPort(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

var noon = time.Date(2031, 5, 6, 12, 0, 0, 0, time.UTC)

// sound is the facts of a laptop on which all is well.
func sound() *Facts {
	cfg := &config.Config{
		Path: "/etc/penstock/config.yaml",
		Listen: config.Listen{TUN: &config.TUN{
			Name: "pen0", Address: []netip.Prefix{prefix("10.77.0.1/24"), prefix("fd77::1/64")}, Routes: "auto", DNS: "auto", StateFile: "/var/lib/penstock/host.json",
		}},
		Metrics: config.Metrics{Listen: "127.0.0.1:9477"},
		Rules:   []config.Rule{{Name: "mesh", Match: &config.Match{CIDR: []string{"100.64.0.0/16"}}, Do: config.Do{Action: "direct"}}},
	}
	return &Facts{
		Now: noon, Built: noon.Add(-time.Hour),
		Config: known(cfg), Checked: known(Checked{}), Lists: known([]control.ListStatus{{List: "a.txt", Entries: 3}}),
		Running: known(control.Status{State: "connected", Verdict: "connected via corp", Listen: []string{"tun pen0"}, Transports: []control.TransportStatus{{Name: "corp", State: "connected", LastRx: noon}}}),
		Rights:  known(Rights{NetAdmin: true}), Device: known(Device{Headers: true}), Kernel: known(Kernel{Release: "6.1"}), Nftables: known(""),
		Resolver: known(Resolver{File: "/etc/resolv.conf", Servers: []netip.Addr{addr("10.77.0.2")}}),
		Links: known([]Link{
			{Name: "eth0", Up: true, MTU: 1500, Addresses: []netip.Prefix{prefix("192.168.1.5/24")}},
			{Name: "pen0", Kind: "tuntap", Up: true, MTU: 1420, Addresses: []netip.Prefix{prefix("10.77.0.1/24")}},
		}),
		Routes: known([]Route{
			{To: prefix("0.0.0.0/0"), Interface: "eth0", Gateway: addr("192.168.1.1"), Table: mainTable},
			{To: prefix("10.77.0.0/24"), Interface: "pen0", Table: mainTable}, {To: prefix("0.0.0.0/0"), Interface: "pen0", Table: 7077, Ours: true},
		}),
		Ways: known([]direct.Way{
			{To: addrPort("9.9.9.9:443"), Interface: "pen0"}, {To: addrPort("[2620:fe::fe]:443"), Nowhere: true}, {To: addrPort("10.77.0.2:53"), Interface: "pen0"},
		}),
		Past: known(wireguard.Past{Time: noon.Add(-time.Minute)}), Sockets: known([]Socket{{"tcp", addrPort("127.0.0.1:9477"), "penstock", 7}}),
		OtherVPNs: known([]direct.Other{{Network: prefix("100.64.0.0/10"), Interface: "mesh0", Table: 52}}), Secrets: known([]SecretFile{{Path: "k"}}),
		Disks: known([]Disk{{Path: "/var/lib/penstock", Free: 1 << 40}}), Left: known(hostnet.Left{Changes: []string{"rule"}, Held: true}),
		Endpoints: known([]Endpoint(nil)), Unit: known(Unit{Installed: true, State: "active", Enabled: "enabled"}),
		Behind: known(map[string][]netip.Prefix{"corp": {prefix("10.20.0.0/16")}}),
	}
}

func absent(f *Facts) {
	f.Running, f.Absent = Fact[control.Status]{Why: "penstock is not running"}, true
}

func TestASoundHostHasNothingToMend(t *testing.T) {
	for _, one := range Judge(sound(), nil) {
		if one.Result != control.ResultOK || one.Found == "" || one.Mend != "" {
			t.Errorf("got %+v, want ok with what was found", one)
		}
	}
	if !IsSound(Judge(sound(), nil)) || IsSound(one(control.ResultWarning, "", "")) {
		t.Error("IsSound tells all ok from a warning wrongly")
	}
}

func TestNothingKnownIsNoFault(t *testing.T) {
	for _, one := range Judge(&Facts{Now: noon}, nil) {
		if one.Result == control.ResultFault || one.Result == control.ResultWarning {
			t.Errorf("got %+v, want no fault of what was not looked at", one)
		}
	}
}

func TestChecks(t *testing.T) {
	const okay, warns, faulty, not = control.ResultOK, control.ResultWarning, control.ResultFault, control.ResultNotChecked
	for _, row := range []struct {
		sentence     string
		change       func(*Facts)
		name, result string
		found, mend  string
	}{
		{"a penstock that does not run", absent, "penstock", not, "does not run", ""},
		{"one that may not be asked", func(f *Facts) { f.Running = Fact[control.Status]{Why: "no permission"} }, "penstock", not, "no permission", ""},
		{"one that is degraded", func(f *Facts) { f.Running.Is.Degraded = true }, "penstock", warns, "", "penstock status"},
		{"one that is blocked", func(f *Facts) { f.Running.Is.State = "blocked" }, "penstock", faulty, "", "penstock status"},
		{"a unit that has failed", func(f *Facts) { absent(f); f.Unit.Is = Unit{true, "failed", "enabled", 0, "exit-code", 5} }, "unit", faulty, "exit-code, exit code 5", "journalctl"},
		{"and then penstock should run", func(f *Facts) { absent(f); f.Unit.Is.State = "failed" }, "penstock", faulty, "its unit has failed", "journalctl"},
		{"a unit that is not enabled", func(f *Facts) { f.Unit.Is.Enabled = "disabled" }, "unit", warns, "next boot", "systemctl enable"},
		{"a unit that ends again and again", func(f *Facts) { f.Unit.Is.Restarts = 9 }, "unit", warns, "restarted 9 times", "journalctl"},
		{"nobody", func(f *Facts) { f.Rights.Is = Rights{User: 65534} }, "rights", not, "user 65534", ""},
		{"root in a container", func(f *Facts) { f.Rights.Is.NetAdmin = false }, "rights", faulty, "without CAP_NET_ADMIN", "--cap-add NET_ADMIN"},
		{"a configuration with a fault", func(f *Facts) { f.Config, f.Invalid = Fact[*config.Config]{}, "c.yaml:1:2: x\nmore" }, "configuration", faulty, "c.yaml:1:2: x ...", "penstock check"},
		{"and then nothing that needs it is checked", func(f *Facts) { f.Config, f.Invalid = Fact[*config.Config]{}, "c.yaml:1:2: x" }, "ports", not, "mend that first", ""},
		{"a test that fails", func(f *Facts) { f.Checked.Is.Failed = []string{"a.yaml:3: no"} }, "configuration", faulty, "a.yaml:3: no", "penstock check"},
		{"a configuration with a warning", func(f *Facts) { f.Checked.Is.Warnings = []string{"shadowed"} }, "configuration", warns, "shadowed", "penstock check"},
		{"a check that takes long", func(f *Facts) { f.Checked = Fact[Checked]{Why: "no answer in time"} }, "configuration", not, "no answer in time", ""},
		{"a key that others may read", func(f *Facts) { f.Secrets.Is[0].Why = "mode 0644 of k: chmod 600 k" }, "secrets", faulty, "chmod 600 k", "each"},
		{"a reload that was refused", func(f *Facts) { f.Running.Is.ReloadError = "c.yaml:1: no" }, "reload", faulty, "c.yaml:1: no", "penstock reload"},
		{"a change that waits", func(f *Facts) { f.Running.Is.Restart = []string{"listen.tun"} }, "reload", warns, "listen.tun", "restart"},
		{"a clock behind the last handshake", func(f *Facts) { f.Past.Is = wireguard.Past{Time: noon.Add(time.Hour), What: "the last handshake was"} }, "clock", faulty, "the last handshake was", "set the clock"},
		{"a clock behind the build", func(f *Facts) { f.Built = noon.Add(time.Hour) }, "clock", faulty, "before this penstock was made", "set the clock"},
		{"no TUN device", func(f *Facts) { f.Device.Is = Device{Missing: true} }, "TUN device", faulty, "no /dev/net/tun", "modprobe tun"},
		{"no TUN device where none is needed", func(f *Facts) { f.Device.Is, f.Config.Is.Listen.TUN = Device{Missing: true}, nil }, "TUN device", okay, "not needed", ""},
		{"a TUN device that nobody may open", func(f *Facts) { f.Device.Is, f.Rights.Is = Device{Refused: true}, Rights{User: 5} }, "TUN device", not, "may not open", ""},
		{"a TUN without offloads", func(f *Facts) { f.Device.Is.Headers = false }, "TUN offloads", warns, "slowly", "kernel"},
		{"an old kernel", func(f *Facts) { f.Kernel.Is.GSO = "no such option" }, "UDP offloads", warns, "Linux 6.1 sends UDP one packet", "4.18"},
		{"no nftables", func(f *Facts) { f.Nftables.Is = "protocol not supported" }, "nftables", warns, "lockdown would not work", "modprobe"},
		{"no nftables under lockdown", func(f *Facts) { f.Nftables.Is, f.Config.Is.AlwaysOn.Lockdown = "no", true }, "nftables", faulty, "need it", "modprobe"},
		{"no policy routing", func(f *Facts) { f.Kernel.Is.Rules = "not supported" }, "policy routing", faulty, "not supported", "CONFIG_IP_MULTIPLE_TABLES"},
		{"no marks", func(f *Facts) { f.Kernel.Is.Marks = "not permitted" }, "packet marks", faulty, "not permitted", "SO_MARK"},
		{"what a killed penstock left", func(f *Facts) { absent(f); f.Left.Is.Held = false }, "host changes", faulty, "changes on the host: 1: rule", "penstock cleanup --state /var/lib"},
		{"the state file of a configuration that this user may not read", func(f *Facts) {
			f.Config, f.Left = Fact[*config.Config]{Why: "no permission to read it"}, known(hostnet.Left{})
		}, "host changes", not, "no permission", ""},
		{"a host that lockdown closes", func(f *Facts) { absent(f); f.Left.Is = hostnet.Left{Lockdown: true} }, "host changes", warns, "closed", "lockdown off --state"},
		{"no network", func(f *Facts) { f.Routes.Is = nil }, "path IPv4", faulty, "no default route", "ip route"},
		{"our own route is no path", func(f *Facts) { f.Routes.Is = f.Routes.Is[1:] }, "path IPv4", faulty, "no default route", "ip route"},
		{"a network with IPv6 alone", func(f *Facts) {
			f.Routes.Is[0] = Route{To: prefix("::/0"), Interface: "eth0", Gateway: addr("fe80::1"), Table: mainTable}
		}, "path IPv4", warns, "nothing leaves by IPv4", "every server"},
		{"no IPv6 is no fault", func(*Facts) {}, "path IPv6", okay, "nothing leaves", ""},
		{"a path that is too narrow", func(f *Facts) { f.Links.Is[0].MTU = 900 }, "path IPv4", warns, "MTU of 900", "mtu"},
		{"a path that is down", func(f *Facts) { f.Links.Is[0].Up = false }, "path IPv4", faulty, "down", "ip link set eth0 up"},
		{"a captive portal", func(f *Facts) { f.Running.Is.Reason = "captive_portal" }, "captive portal", faulty, "", "sign in"},
		{"programs that ask others", func(f *Facts) { f.Resolver.Is.Servers = []netip.Addr{addr("192.168.1.1")} }, "resolver", faulty, "192.168.1.1 instead of penstock", "restart"},
		{"a resolver file that cannot be changed", func(f *Facts) {
			f.Resolver.Is.Servers = []netip.Addr{addr("192.168.1.1")}
			f.Ways.Is[2] = direct.Way{To: addrPort("192.168.1.1:53"), Interface: "pen0"}
		}, "resolver", warns, "penstock answers in its place", "chattr -i"},
		{"a program that writes resolv.conf", func(f *Facts) {
			f.Resolver.Is = Resolver{Servers: []netip.Addr{addr("8.8.8.8")}, Writer: "NetworkManager"}
		}, "resolver", faulty, "by NetworkManager", "stop that program"},
		{"programs that ask us by systemd-resolved", func(f *Facts) {
			f.Resolver.Is = Resolver{Servers: []netip.Addr{addr("127.0.0.53")}, Resolved: true, Behind: []netip.Addr{addr("10.77.0.2")}}
		}, "resolver", okay, "by systemd-resolved", ""},
		{"programs that ask systemd-resolved, which asks others", func(f *Facts) {
			f.Resolver.Is = Resolver{Servers: []netip.Addr{addr("127.0.0.53")}, Resolved: true, Behind: []netip.Addr{addr("8.8.8.8")}}
		}, "resolver", faulty, "instead of penstock", "restart"},
		{"programs that ask a penstock that does not run", absent, "resolver", faulty, "does not run", "penstock cleanup"},
		{"no resolv.conf", func(f *Facts) { f.Resolver.Is.Missing = true }, "resolver", faulty, "no names", "nameserver"},
		{"an empty resolv.conf", func(f *Facts) { f.Resolver.Is.Servers = nil }, "resolver", faulty, "names no server", "nameserver"},
		{"a leak by IPv4", func(f *Facts) { f.Ways.Is[0].Interface = "eth0" }, "leak", faulty, "IPv4 leave by eth0", "ip rule"},
		{"a leak by IPv6", func(f *Facts) { f.Ways.Is[1] = direct.Way{To: f.Ways.Is[1].To, Interface: "eth0"} }, "leak", faulty, "IPv6 leave by eth0", "ip rule"},
		{"questions that leak", func(f *Facts) { f.Ways.Is[2].Interface = "eth0" }, "leak", faulty, "questions to 10.77.0.2 leave by eth0", "ip rule"},
		{"questions to a resolver of the host", func(f *Facts) { f.Ways.Is[2] = direct.Way{To: addrPort("127.0.0.53:53"), Interface: "lo", Local: true} }, "leak", okay, "stay on this host", ""},
		{"no leak where nothing runs", absent, "leak", not, "does not run", ""},
		{"a bridge in our network", func(f *Facts) {
			f.Config.Is.Listen.TUN.AddressGiven = true
			f.Links.Is = append(f.Links.Is, Link{Name: "docker0", Kind: "bridge", Addresses: []netip.Prefix{prefix("10.77.9.1/16")}})
		}, "addresses: listen.tun.address", faulty, "10.77.0.0/24 is also 10.77.0.0/16 of docker0", "other addresses"},
		{"a route in a network that penstock may move", func(f *Facts) {
			f.Routes.Is = append(f.Routes.Is, Route{To: prefix("10.77.0.128/25"), Interface: "virbr0", Table: mainTable})
		}, "addresses: listen.tun.address", warns, "10.77.0.128/25 of the route by virbr0", "takes another network"},
		{"a transport's network that is the LAN's too", func(f *Facts) { f.Behind.Is["corp"] = []netip.Prefix{prefix("192.168.0.0/16")} }, "addresses: transports.corp", warns, "192.168.1.0/24 of eth0", "renumber"},
		{"a peer's network", func(f *Facts) {
			f.Config.Is.Peers = config.ListPeers(config.Peer{Name: "ana", AllowedIPs: []netip.Prefix{prefix("192.168.1.0/24")}})
		},
			"addresses: the allowed_ips of peer ana", faulty, "of eth0", "other addresses"},
		{"a port that another has", func(f *Facts) { absent(f); f.Sockets.Is = []Socket{{"tcp", addrPort("[::]:9477"), "nginx", 12}} }, "ports", faulty, "(metrics.listen) is taken by nginx (process 12)", "another port"},
		{"a port that somebody unknown has", func(f *Facts) { absent(f); f.Sockets.Is[0].Program = "" }, "ports", faulty, "may not see", "another port"},
		{"a port that only UDP has", func(f *Facts) { absent(f); f.Sockets.Is[0].Network = "udp" }, "ports", okay, "free: tcp 127.0.0.1:9477", ""},
		{"a port that penstock should have", func(f *Facts) { f.Sockets.Is = nil }, "ports", warns, "nobody listens", "restart"},
		{"a VPN without a rule", func(f *Facts) { f.OtherVPNs.Is[0].Network = prefix("10.8.0.0/24") }, "other VPNs", warns, "10.8.0.0/24 by mesh0", "do: direct"},
		{"a VPN's interface", func(f *Facts) { f.Links.Is = append(f.Links.Is, Link{Name: "wg0", Kind: "wireguard", Up: true}) }, "other VPNs", okay, "the interface wg0", ""},
		{"a transport that is not connected", func(f *Facts) {
			f.Running.Is.Transports[0] = control.TransportStatus{Name: "corp", State: "blocked", Reason: "auth_failed", Error: "wrong password"}
		},
			"transports: corp", faulty, "blocked: auth_failed: wrong password", "penstock reconnect corp"},
		{"a transport whose server wants its user", func(f *Facts) {
			f.Running.Is.Transports[0] = control.TransportStatus{Name: "corp", State: "waiting", Reason: "sign_in", SignIn: "Your code"}
		}, "transports: corp", warns, "sign in: Your code", "penstock login corp"},
		{"a transport that was told to be down", func(f *Facts) { f.Running.Is.Transports[0].State = "down" }, "transports: corp", warns, "as it was told", "penstock up corp"},
		{"a server without an address", func(f *Facts) { absent(f); f.Endpoints.Is = []Endpoint{{"corp", "vpn.example", "no such host"}} }, "transports: corp", faulty, "vpn.example has no address", "resolver"},
		{"a list that does not load", func(f *Facts) { f.Lists.Is[0].Error = "404" }, "lists", faulty, "404", "penstock lists refresh"},
		{"an old list", func(f *Facts) {
			f.Lists.Is[0] = control.ListStatus{List: "https://x.example/l", Updated: noon.AddDate(0, -1, 0)}
		}, "lists", warns, "days old", "penstock lists"},
		{"a full disk", func(f *Facts) { f.Disks.Is[0].Free = 1 << 20 }, "disk: /var/lib/penstock", faulty, "1 MiB are free", "make room"},
		{"a disk without inodes", func(f *Facts) { f.Disks.Is[0].Full = true }, "disk: /var/lib/penstock", faulty, "no further file", "df -i"},
		{"a disk that will be full", func(f *Facts) { f.Disks.Is[0].Free = 50 << 20 }, "disk: /var/lib/penstock", warns, "50 MiB", "make room"},
	} {
		t.Run(row.sentence, func(t *testing.T) {
			f := sound()
			row.change(f)
			list := Judge(f, nil)
			i := slices.IndexFunc(list, func(f control.Finding) bool { return f.Name == row.name })
			if i < 0 {
				t.Fatalf("got %+v, want a finding %q", list, row.name)
			}
			got := list[i]
			if got.Result != row.result || !strings.Contains(got.Found, row.found) || !strings.Contains(got.Mend, row.mend) || (got.Mend == "") != (row.mend == "") {
				t.Errorf("got %+v, want %s with %q and the mend %q", got, row.result, row.found, row.mend)
			}
		})
	}
}

func TestTheRunningPenstockLooksWhereWeMayNot(t *testing.T) {
	f := sound()
	f.Nftables = Fact[string]{Why: "permission denied"}
	list := Judge(f, []control.Finding{{Name: "nftables", Result: control.ResultFault, Found: "not usable"}, {Name: "leak", Result: control.ResultFault, Found: "theirs"}})
	for _, one := range list {
		if one.Name == "nftables" && (one.Result != control.ResultFault || one.Found != "not usable (says the running penstock)") {
			t.Errorf("what we could not look at: got %+v, want what it found", one)
		}
		if one.Name == "leak" && one.Result != control.ResultOK {
			t.Errorf("what we looked at: got %+v, want what we found", one)
		}
	}
}
