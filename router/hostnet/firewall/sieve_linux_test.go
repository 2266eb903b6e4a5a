package firewall

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"penstock/router/hostnet/internal/hosttest"
)

// noRules removes what the row before has done.
const noRules = `nft flush ruleset
for i in iptables-legacy ip6tables-legacy; do
	for t in filter nat mangle raw; do $i -t $t -F; $i -t $t -X; done
	for c in INPUT FORWARD OUTPUT; do $i -P $c ACCEPT; done
	$i -t mangle -P POSTROUTING ACCEPT
done`

func TestSieveSeesWhatMayTreatForwardedPacketsOtherwise(t *testing.T) {
	for _, name := range []string{"nft", "iptables-nft", "iptables-legacy", "ip6tables-legacy"} {
		if _, err := exec.LookPath(name); err != nil {
			t.Skip("needs " + name + ", of the package nftables or iptables")
		}
	}
	if !hosttest.InNamespaces(t) {
		return
	}
	lock := filepath.Join(t.TempDir(), "lock")
	sh := func(line string) {
		cmd := exec.Command("sh", "-ec", line)
		cmd.Env = append(os.Environ(), "XTABLES_LOCKFILE="+lock)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", line, err, out)
		}
	}
	for _, row := range []struct{ do, want string }{
		{"", ""}, // no older table is loaded
		{noRules, ""},
		{"nft add table inet o; nft add chain inet o c '{ type filter hook output priority 0; }'", ""},
		{"nft add table inet o; nft add chain inet o c '{ type filter hook output priority 0; policy drop; }'", "chain c of table o"},
		{"nft add table inet o; nft add chain inet o c; nft add rule inet o c drop", ""},
		{"nft add table inet o; nft add chain inet o c '{ type filter hook input priority 0; policy drop; }'; nft add rule inet o c accept", ""},
		{"nft add table ip o; nft add chain ip o c '{ type filter hook forward priority 0; }'; nft add rule ip o c meta l4proto tcp drop", "chain c of table o"},
		{"nft add table ip6 o; nft add chain ip6 o c '{ type route hook output priority 0; }'; nft add rule ip6 o c drop", "chain c of table o"},
		{"nft add table inet o; nft add chain inet o c '{ type filter hook prerouting priority raw; }'; nft add rule inet o c ct zone set 5", "chain c of table o"},
		{"nft add table inet o; nft add chain inet o c '{ type filter hook postrouting priority 0; }'; nft add rule inet o c drop", "chain c of table o"},
		{"nft add table inet o; nft add chain inet o c '{ type nat hook postrouting priority srcnat; }'; nft add rule inet o c masquerade", ""},
		{"nft add table inet o; nft add chain inet o c '{ type nat hook input priority 100; }'; nft add rule inet o c snat ip to 192.0.2.1", ""},
		{"nft add table bridge o; nft add chain bridge o c '{ type filter hook forward priority 0; policy drop; }'", ""},
		{"nft add table arp o; nft add chain arp o c '{ type filter hook output priority 0; policy drop; }'", ""},
		{"nft add table netdev o; nft add chain netdev o c '{ type filter hook ingress device lo priority 0; policy drop; }'", ""},
		{"nft add table inet penstock_x; nft add chain inet penstock_x c '{ type filter hook forward priority 0; policy drop; }'", ""},
		{"iptables-nft -A INPUT -p tcp -j DROP", ""},
		{"iptables-nft -t mangle -A OUTPUT -p tcp -j DROP", "chain OUTPUT of table mangle"},
		{"iptables-nft -t nat -A OUTPUT -p tcp -j REDIRECT --to-ports 9040", "chain OUTPUT of table nat"},
		{"iptables-nft -t nat -A PREROUTING -p tcp -j REDIRECT --to-ports 3128", "chain PREROUTING of table nat"},
		{"iptables-nft -t nat -A POSTROUTING -j MASQUERADE", ""},
		{"iptables-nft -t raw -A PREROUTING -j NOTRACK", "chain PREROUTING of table raw"},
		{"iptables-nft -N DOCKER-USER; iptables-nft -A FORWARD -j DOCKER-USER", "chain FORWARD of table filter"},
		{"iptables-legacy -A INPUT -p tcp -j DROP; iptables-legacy -P INPUT DROP; iptables-legacy -N mine; iptables-legacy -A mine -j DROP", ""},
		{"iptables-legacy -A OUTPUT -p tcp -j DROP", "chain OUTPUT of table filter (iptables-legacy)"},
		{"iptables-legacy -P OUTPUT DROP", "chain OUTPUT of table filter (iptables-legacy)"},
		{"iptables-legacy -P FORWARD DROP", "chain FORWARD of table filter (iptables-legacy)"},
		{"iptables-legacy -N DOCKER-USER; iptables-legacy -A FORWARD -j DOCKER-USER", "chain FORWARD of table filter (iptables-legacy)"},
		{"iptables-legacy -t mangle -A INPUT -j DROP", ""},
		{"iptables-legacy -t mangle -A OUTPUT -p tcp -j DROP", "chain OUTPUT of table mangle (iptables-legacy)"},
		{"iptables-legacy -t mangle -A POSTROUTING -p tcp -j DROP", "chain POSTROUTING of table mangle (iptables-legacy)"},
		{"iptables-legacy -t mangle -P POSTROUTING DROP", "chain POSTROUTING of table mangle (iptables-legacy)"},
		{"iptables-legacy -t raw -A OUTPUT -p tcp -j DROP", "chain OUTPUT of table raw (iptables-legacy)"},
		{"iptables-legacy -t raw -A PREROUTING -j NOTRACK", "chain PREROUTING of table raw (iptables-legacy)"},
		{"iptables-legacy -t nat -A OUTPUT -p tcp -j REDIRECT --to-ports 9040", "chain OUTPUT of table nat (iptables-legacy)"},
		{"iptables-legacy -t nat -A PREROUTING -p tcp -j REDIRECT --to-ports 3128", "chain PREROUTING of table nat (iptables-legacy)"},
		{"iptables-legacy -t nat -A POSTROUTING -j MASQUERADE; iptables-legacy -t nat -A INPUT -j SNAT --to-source 192.0.2.1", ""},
		{"ip6tables-legacy -P INPUT DROP", ""},
		{"ip6tables-legacy -P OUTPUT DROP", "chain OUTPUT of table filter (iptables-legacy)"},
		{"ip6tables-legacy -t raw -A OUTPUT -j DROP", "chain OUTPUT of table raw (iptables-legacy)"},
	} {
		sh(row.do)
		if got, err := Sieve(); got != row.want || err != nil {
			t.Errorf("after %q: got %q, %v; want %q", row.do, got, err, row.want)
		}
		sh(noRules)
	}
}
