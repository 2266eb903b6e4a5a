package e2e

import (
	"fmt"
	"strings"
	"testing"
)

// networkManager gives the machine its network by NetworkManager, which writes resolv.conf.
func (h *hosted) networkManager(t *testing.T) {
	t.Helper()
	h.put(t, "/etc/NetworkManager/conf.d/lan.conf", "[main]\ndns=default\nrc-manager=file\n[device-lan]\nmatch-device=interface-name:lan0\nmanaged=1\n", 0o644)
	h.put(t, "/etc/NetworkManager/system-connections/lan.nmconnection", "[connection]\nid=lan\ntype=ethernet\ninterface-name=lan0\nautoconnect=true\n"+
		"[ipv4]\nmethod=auto\n[ipv6]\nmethod=auto\naddr-gen-mode=0\n", 0o600)
	h.do(t, "systemctl enable NetworkManager.service && rm -f /etc/resolv.conf && touch /etc/resolv.conf")
}

// dhclient gives the machine its network by the ISC client, which renames a new resolv.conf over the old one.
func (h *hosted) dhclient(t *testing.T) {
	t.Helper()
	h.put(t, "/etc/systemd/system/dhclient.service", "[Unit]\nAfter=network-pre.target\n[Service]\nExecStart=/sbin/dhclient -d -4 lan0\nRestart=always\n[Install]\nWantedBy=multi-user.target\n", 0o644)
	h.do(t, "systemctl enable dhclient.service && rm -f /etc/resolv.conf && touch /etc/resolv.conf")
}

// resolvedBeside runs systemd-resolved, whose own servers resolv.conf names.
func (h *hosted) resolvedBeside(t *testing.T) {
	t.Helper()
	h.networkd(t)
	h.do(t, "ln -sf /run/systemd/resolve/resolv.conf /etc/resolv.conf")
}

// strictResolved runs systemd-resolved with settings that no LAN meets, and that penstock's own link must not have.
func (h *hosted) strictResolved(t *testing.T) {
	t.Helper()
	h.networkd(t)
	h.put(t, "/etc/systemd/resolved.conf.d/strict.conf", "[Resolve]\nDNSOverTLS=yes\nDNSSEC=yes\n", 0o644)
}

// machine [resolved, NetworkManager or dhclient; penstock] lan0 --- br0 access (captures) === WireGuard ===> [penstock] gateway --- intranet
//
// Whatever manages the resolver, names resolve through penstock, nothing leaves in clear, and the host is as before in the end.
func machineWithEveryResolver(t *testing.T) {
	for _, row := range []struct {
		sentence string
		set      func(*hosted, *testing.T)
		disturb  []string
	}{
		{"NetworkManager writes resolv.conf", (*hosted).networkManager,
			[]string{"nmcli general reload dns-full", "nmcli device reapply lan0", "systemctl restart NetworkManager.service", "nmcli connection down lan; nmcli connection up lan"}},
		{"dhclient writes resolv.conf", (*hosted).dhclient, []string{"systemctl restart dhclient.service"}},
		{"systemd-resolved is there, but resolv.conf names servers", (*hosted).resolvedBeside, []string{"systemctl restart systemd-resolved.service", "networkctl renew lan0"}},
		{"systemd-resolved wants DNS over TLS and DNSSEC", (*hosted).strictResolved, []string{"systemctl restart systemd-resolved.service"}},
	} {
		t.Run(row.sentence, func(t *testing.T) {
			h := newHosted(t, "rules:", "always_on: {lockdown: true, lan: block}\nrules:") // or an answer to DHCP may be seen
			row.set(h, t)
			h.boot(t)
			eventually(t, "the machine has its route and its resolver", func() error {
				if r := h.sh(t, "ip route get 203.0.113.10 && grep -q ^nameserver /etc/resolv.conf"); r.code != 0 {
					return fmt.Errorf("%s", r)
				}
				return nil
			})
			before := h.resolverState(t)
			c := h.watch(t)
			h.follow(t, "install")
			h.isConnected(t)
			if out := h.do(t, "penstock status"); !strings.Contains(out, "\ndirect by the kernel\n") {
				t.Errorf("status: got\n%s\nwant direct by the kernel", out)
			}
			for _, disturb := range row.disturb {
				h.do(t, disturb)
				h.isConnected(t)
				dark(t, c, disturb)
			}
			h.powerOff(t)
			h.boot(t)
			h.isConnected(t)
			dark(t, c, "a boot")
			text := h.do(t, "journalctl -b -u penstock.service -o cat --no-pager")
			if n := strings.Count(text, "\n"); n > 60 {
				t.Errorf("penstock printed %d lines, want one for each change:\n%s", n, text)
			}
			h.follow(t, "uninstall")
			eventually(t, "the resolver is as it was", func() error {
				if after := h.resolverState(t); after != before {
					return fmt.Errorf("(- before, + now)\n%s", difference(before, after))
				}
				return nil
			})
		})
	}
}

// resolverState is how the machine resolves names, and its rules and firewall.
func (h *hosted) resolverState(t *testing.T) string {
	t.Helper()
	return h.do(t, "grep -v ^# /etc/resolv.conf; stat -c %A,%U,%G,%N /etc/resolv.conf; ip rule; ip -6 rule; nft list ruleset; ls /etc/systemd/system")
}
