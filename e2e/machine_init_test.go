package e2e

import (
	"strings"
	"testing"

	"penstock/e2e/netlab"
)

// machine [pen0 -> penstock.service] === WireGuard ===> [penstock] gateway
//
// A Debian with nothing of penstock but the program and the company's file.
func machineThatInitSetsUp(t *testing.T) {
	h := newHosted(t)
	h.networkd(t)
	h.boot(t)
	h.online(t)
	h.do(t, "install -m 755 /srv/penstock/penstock /usr/bin/penstock")
	list := " --list gambling=/etc/gambling.txt --list adult=/etc/adult.hosts --intranet corp.example "
	out := h.do(t, "cd /srv/penstock && "+strings.Replace(strings.TrimSpace(documented(t, "init")), " --yes", list+"--yes", 1))
	for _, want := range []string{"made /etc/penstock/config.yaml", "made /etc/systemd/system/penstock.service", "penstock status"} {
		if !strings.Contains(out, want) {
			t.Errorf("init: got no %q in\n%s", want, out)
		}
	}
	if got := h.do(t, "systemctl is-enabled penstock.service penstock-lockdown.service"); got != "enabled\nenabled\n" {
		t.Errorf("is-enabled: got %q", got)
	}
	h.isConnected(t)
	if r := h.sh(t, "penstock explain https://"+netlab.GamblingSite); r.code != 6 || !strings.Contains(r.stdout, "no-gambling") {
		t.Errorf("explain: got %s, want that no-gambling blocks it", r)
	}
	if r := h.sh(t, "getent ahosts "+netlab.GamblingSite); r.code != 2 {
		t.Errorf("a blocked name: got %s, want that it does not exist", r)
	}
	if r := h.sh(t, "getent ahosts "+netlab.PublicSite); r.code != 0 {
		t.Errorf("another name: got %s", r)
	}
}
