package e2e

import (
	"fmt"
	"strings"
	"testing"
)

// lines returns the lines of penstock's journal, from a mark on, that contain text.
func (h *hosted) lines(t *testing.T, since, text string) (found []string) {
	t.Helper()
	out := h.do(t, "journalctl --no-pager -o cat -u penstock.service --after-cursor='"+since+"'")
	for line := range strings.Lines(out) {
		if strings.Contains(line, text) {
			found = append(found, line)
		}
	}
	return found
}

// now returns a mark in the journal.
func (h *hosted) now(t *testing.T) string {
	t.Helper()
	out := h.do(t, "journalctl -n 1 -o cat --show-cursor")
	_, cursor, _ := strings.Cut(out, "-- cursor: ")
	return strings.TrimSpace(cursor)
}

// machine [penstock, systemd-resolved] lan0 --- br0 access === WireGuard ===> [penstock] gateway --- intranet
func machineWithResolved(t *testing.T) {
	h := newHosted(t, "rules:", "flow_log: {journal: true}\nrules:")
	h.networkd(t)
	h.boot(t)
	h.follow(t, "install")
	h.isConnected(t)
	eventually(t, "the journal has the flow to the intranet, with fields", func() error {
		r := h.sh(t, "journalctl -u penstock PENSTOCK_KIND=flow PENSTOCK_HOST=intranet.corp.example -o json")
		for _, field := range []string{`"PENSTOCK_VERDICT":"via"`, `"PENSTOCK_VIA":"corp"`, `"PENSTOCK_RULE":"intranet"`, `"SYSLOG_IDENTIFIER":"penstock"`, `"MESSAGE":"flow: via corp tcp from `} {
			if !strings.Contains(r.stdout, field) {
				return fmt.Errorf("no %s: %s", field, r)
			}
		}
		return nil
	})
	for _, mode := range []string{"DNSOverTLS=yes", "DNSSEC=yes", "DNSOverTLS=opportunistic\nDNSSEC=allow-downgrade"} {
		h.put(t, "/etc/systemd/resolved.conf.d/mode.conf", "[Resolve]\n"+mode+"\n", 0o644)
		h.do(t, "systemctl restart systemd-resolved.service")
		h.isConnected(t)
	}
	var mark string
	eventually(t, "penstock has got over the restarts, which it may notice late", func() error {
		mark = h.now(t)
		h.do(t, "sleep 1")
		if got := h.lines(t, mark, "put back"); len(got) > 0 {
			return fmt.Errorf("it still says %q", got)
		}
		return nil
	})
	h.do(t, "systemctl stop systemd-resolved.service")
	eventually(t, "status says that no name resolves", func() error {
		if r := h.sh(t, "penstock status"); r.code != 4 || !strings.Contains(r.stdout, "systemctl start systemd-resolved") {
			return fmt.Errorf("status: %s", r)
		}
		return nil
	})
	if r := h.sh(t, "sleep 3; curl -sS http://127.0.0.1:9477/readyz"); !strings.Contains(r.stdout, "no name resolves") {
		t.Errorf("readyz: got %s, want that no name resolves", r)
	}
	if got := h.lines(t, mark, "put back"); len(got) != 1 {
		t.Errorf("got %q about it in 3 s, want one line", got)
	}
	h.do(t, "systemctl start systemd-resolved.service")
	h.isConnected(t)
}

// machine [penstock, no systemd-resolved] lan0 --- br0 access === WireGuard ===> [penstock] gateway --- intranet
//
// Programs such as NetworkManager, dhclient and resolvconf replace /etc/resolv.conf by rename, which removes the mount by
// which the service may write it.
func machineWhoseResolverFileIsReplaced(t *testing.T) {
	h := newHosted(t)
	h.networkd(t)
	h.boot(t)
	h.do(t, "systemctl disable --now systemd-resolved.service; rm /etc/resolv.conf; printf 'nameserver 192.168.70.1\\n' > /etc/resolv.conf")
	h.follow(t, "install")
	h.isConnected(t)
	mark := h.now(t)
	for range 4 {
		h.do(t, "printf '# by another program\\nnameserver 192.168.70.1\\n' > /etc/resolv.conf.new; mv /etc/resolv.conf.new /etc/resolv.conf; sleep 1")
	}
	h.isConnected(t)
	if got := h.lines(t, mark, "resolv.conf"); len(got) > 1 {
		t.Errorf("got %q about it in 4 s, want one line at most", got)
	}
	h.do(t, "rm /etc/resolv.conf; systemctl restart penstock.service")
	eventually(t, "status says that no name resolves", func() error {
		if r := h.sh(t, "penstock status"); r.code != 4 || !strings.Contains(r.stdout, "/etc/resolv.conf") {
			return fmt.Errorf("status: %s", r)
		}
		return nil
	})
	h.do(t, "printf 'nameserver 192.168.70.1\\n' > /etc/resolv.conf")
	h.isConnected(t)
}
