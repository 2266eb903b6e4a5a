package firewall

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"penstock/router/hostnet/internal/hosttest"
)

func TestSieveSeesTheOlderFilters(t *testing.T) {
	if _, err := exec.LookPath("iptables-legacy"); err != nil {
		t.Skip("needs iptables-legacy, of the package iptables")
	}
	if !hosttest.InNamespaces(t) {
		return
	}
	lock := filepath.Join(t.TempDir(), "lock")
	for _, row := range []struct {
		do    string
		wants bool
	}{
		{"", false}, // neither is loaded
		{"iptables-legacy -A INPUT -p tcp --dport 80 -j DROP", false},
		{"iptables-legacy -A OUTPUT -p tcp --dport 80 -j DROP", true},
		{"iptables-legacy -F OUTPUT", false},
		{"iptables-legacy -P OUTPUT DROP", true},
		{"iptables-legacy -P OUTPUT ACCEPT", false},
		{"iptables-legacy -t mangle -A OUTPUT -p udp -j DROP", false}, // marks and the like; nftables' are not looked at either
		{"ip6tables-legacy -P INPUT DROP", false},
		{"ip6tables-legacy -P OUTPUT DROP", true},
		{"ip6tables-legacy -P OUTPUT ACCEPT", false},
		{"ip6tables-legacy -N mine", false},
		{"ip6tables-legacy -A OUTPUT -j mine", true},
	} {
		if words := strings.Fields(row.do); len(words) > 0 {
			cmd := exec.Command(words[0], words[1:]...)
			cmd.Env = append(os.Environ(), "XTABLES_LOCKFILE="+lock)
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("%s: %v: %s", row.do, err, out)
			}
		}
		got, err := Sieve()
		if err != nil || (got != "") != row.wants {
			t.Errorf("after %q: got %q, %v; want one: %v", row.do, got, err, row.wants)
		}
	}
}
