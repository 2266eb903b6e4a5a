package e2e

import (
	"errors"
	"strings"
	"testing"
	"time"
)

// readOnlyUnit makes the state read-only at boot, as a file system with errors is.
const readOnlyUnit = `[Unit]
DefaultDependencies=no
After=local-fs.target
Before=penstock-lockdown.service penstock.service
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=mount --bind -o ro /var/lib/penstock /var/lib/penstock
[Install]
RequiredBy=penstock-lockdown.service
`

// machine [chatter, penstock] lan0 --- br0 access (captures) === WireGuard ===> [penstock] gateway --- intranet
func machineThatBootsInTrouble(t *testing.T) {
	h := newHosted(t, "rules:", "always_on: {lockdown: true}\nrules:")
	h.networkd(t)
	h.boot(t)
	h.online(t)
	h.follow(t, "install")
	h.isConnected(t)
	h.do(t, "penstock doctor") // and as the unit may look:
	h.do(t, `curl -sS --unix-socket /run/penstock/control.sock -X POST http://penstock/v1/doctor | tee /dev/stderr | grep -vE '"(warning|fault)"'`)
	h.do(t, "systemctl enable --now chatter.service")
	c := h.watch(t)
	config := h.do(t, "cat /etc/penstock/config.yaml")
	other := strings.Replace(config, "name: pen0,", "name: pen0, state_file: /var/lib/penstock/other.json,", 1)
	if other == config {
		t.Fatalf("the configuration does not name pen0:\n%s", config)
	}

	t.Run("nftables.service flushes before lockdown is restored", func(t *testing.T) {
		if after := h.do(t, "systemctl show -P After penstock-lockdown.service"); !strings.Contains(after, "nftables.service") {
			t.Errorf("penstock-lockdown.service is after %s, want after nftables.service", after)
		}
	})
	t.Run("another state file and a fault", func(t *testing.T) {
		h.put(t, "/etc/penstock/config.yaml", other, 0o600)
		h.do(t, "systemctl restart penstock.service")
		h.isConnected(t)
		h.do(t, "rm -f /var/lib/penstock/host.json*")
		h.put(t, "/etc/penstock/config.yaml", strings.Replace(other, "rules:", "ruls:", 1), 0o600)
		h.powerOff(t)
		h.boot(t)
		h.carries(t)
		dark(t, c, "another state file and a fault")
		h.put(t, "/etc/penstock/config.yaml", other, 0o600)
		h.do(t, "systemctl stop penstock.service")
		if r := h.sh(t, "penstock lockdown"); !strings.HasPrefix(r.stdout, "on: the host is closed") {
			t.Errorf("lockdown without -c: got %s, want that of the system's configuration", r)
		}
		h.put(t, "/etc/penstock/config.yaml", config, 0o600)
		h.do(t, "systemctl start penstock.service")
		h.isConnected(t)
	})
	for _, row := range []struct{ sentence, before string }{
		{"a state file that cannot be written", "true"},
		{"no state file, and none can be written", "rm -f /var/lib/penstock/*.json*"},
	} {
		t.Run(row.sentence, func(t *testing.T) {
			h.put(t, "/etc/systemd/system/readonly.service", readOnlyUnit, 0o644)
			h.do(t, "systemctl daemon-reload && systemctl enable readonly.service")
			h.powerOff(t)
			h.do(t, row.before)
			h.boot(t)
			time.Sleep(2 * time.Second) // traffic that could leave
			if r := h.sh(t, "touch /var/lib/penstock/x"); r.code == 0 {
				t.Error("the state can be written: this would prove nothing")
			}
			if r := h.sh(t, "penstock lockdown"); !strings.HasPrefix(r.stdout, "on: ") {
				t.Errorf("lockdown: got %s, want on", r)
			}
			dark(t, c, row.sentence)
			h.do(t, "systemctl disable readonly.service")
			h.powerOff(t)
			h.boot(t)
			h.isConnected(t)
			dark(t, c, "a boot after that")
		})
	}
	if r := c.Stop(); r.Tunnel == 0 {
		t.Errorf("the router saw no packet of the tunnel: %+v", r)
	}
	t.Run("another program deletes the table", func(t *testing.T) {
		h.do(t, "systemctl stop penstock.service && nft flush ruleset")
		if r := h.sh(t, "penstock lockdown"); r.code != 1 || !strings.Contains(r.stderr, "the host is open") {
			t.Errorf("lockdown: got %s, want the truth", r)
		}
		c := h.watch(t)
		eventually(t, "traffic leaves in clear", func() error {
			if r := c.Report(); r.Clear == 0 {
				return errors.New("none: the test would prove nothing")
			}
			return nil
		})
		h.do(t, "penstock lockdown restore")
		if r := h.sh(t, "penstock lockdown"); !strings.HasPrefix(r.stdout, "on: ") {
			t.Errorf("lockdown after restore: got %s, want on", r)
		}
	})
}
