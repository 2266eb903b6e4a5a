package firewall

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"penstock/router/hostnet/internal/hosttest"
)

// The packets come out of pen0, and the answers to them go there.
func TestBarSeesWhatMayStopForwardedPacketsOrTheirAnswers(t *testing.T) {
	for _, name := range []string{"nft", "iptables-nft", "ip6tables-nft", "iptables-legacy", "ip6tables-legacy"} {
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
	defer hosttest.New(t).Close(t)
	pen0, err := net.InterfaceByName("pen0")
	hosttest.Must(t, err)
	const (
		open    = "nft add table inet o; nft add chain inet o c '{ type filter hook forward priority 0; }'; nft add rule inet o c "
		closed  = "nft add table inet o; nft add chain inet o c '{ type filter hook forward priority 0; policy drop; }'; nft add rule inet o c "
		raw     = "nft add table inet o; nft add chain inet o c '{ type filter hook prerouting priority raw; }'; nft add rule inet o c "
		late    = "nft add table inet o; nft add chain inet o c '{ type filter hook postrouting priority 0; }'; nft add rule inet o c "
		chains  = "nft add table inet o; nft add chain inet o a; nft add chain inet o b; "
		into    = "; nft add rule inet o c "
		docker  = "iptables-nft -P FORWARD DROP; iptables-nft -N DOCKER-USER; iptables-nft -A FORWARD -j DOCKER-USER; iptables-nft -A FORWARD -o docker0 -j ACCEPT"
		admits  = "; iptables-nft -I FORWARD -i pen0 -j ACCEPT; iptables-nft -I FORWARD -o pen0 -j ACCEPT"
		bar     = "chain c of table o"
		forward = "chain FORWARD of table filter"
	)
	for _, row := range []struct{ sentence, do, want4, want6 string }{
		{"nobody has rules", "", "", ""},
		{"a chain is empty", "nft add table inet o; nft add chain inet o c '{ type filter hook forward priority 0; }'", "", ""},
		{"a chain is closed", closed + "counter accept; nft flush chain inet o c", bar, bar},
		{"a closed chain accepts everything", closed + "counter accept", "", ""},
		{"TCP is dropped", open + "meta l4proto tcp drop", bar, bar},
		{"a port is rejected", open + "tcp dport 25 reject", bar, bar},
		{"TCP of IPv6 is dropped", open + "meta nfproto ipv6 meta l4proto tcp drop", "", bar},
		{"TCP of IPv4 is dropped", "nft add table ip o; nft add chain ip o c '{ type filter hook forward priority 0; }'; nft add rule ip o c meta l4proto tcp drop", bar, ""},
		{"answers are dropped", open + "oifname pen0 drop", bar, bar},
		{"answers are dropped by what they are", open + "ct state established drop", bar, bar},
		{"what is invalid is dropped", open + "ct state invalid drop", "", ""},
		{"what comes in by another interface is dropped", open + "iifname eth0 drop", bar, bar}, // answers come from there
		{"what begins there is dropped", open + "iifname eth0 ct state new drop", "", ""},
		{"what goes to another interface is dropped", open + "oifname eth0 drop", bar, bar},
		{"nothing but what comes out of the TUN is admitted", closed + "iifname pen0 accept", bar, bar},
		{"the answers are admitted, too", closed + "iifname pen0 accept" + into + "oifname pen0 accept", "", ""},
		{"all answers are admitted", closed + "ct state established,related accept" + into + "iifname pen0 accept", "", ""},
		{"an interface is admitted by its number", closed + "iif pen0 accept" + into + "oif pen0 accept", "", ""},
		{"another is", closed + "iif up0 accept" + into + "oif up0 accept", bar, bar},
		{"interfaces are admitted by the begin of their names", closed + `iifname "pen*" accept` + into + `oifname "pen*" accept`, "", ""},
		{"some of it is admitted", closed + "iifname pen0 tcp dport 443 accept" + into + "oifname pen0 accept", bar, bar},
		{"it is admitted after a drop", open + "tcp dport 25 drop" + into + "accept", bar, bar},
		{"it is admitted before a drop", open + "accept" + into + "tcp dport 25 drop", "", ""},
		{"another chain is asked, and closes", chains + open + "jump a; nft add rule inet o a tcp dport 25 drop", bar, bar},
		{"another chain is asked, and does nothing", chains + open + "jump a", "", ""},
		{"another chain is asked for others", chains + open + "iifname != pen0 oifname != pen0 jump a; nft add rule inet o a drop", "", ""},
		{"another chain is asked, and admits all", chains + closed + "jump a; nft add rule inet o a goto b; nft add rule inet o b accept", "", ""},
		{"another chain is asked, and some return", chains + closed + "jump a; nft add rule inet o a tcp dport 25 return; nft add rule inet o a accept", bar, bar},
		{"all return from another chain", chains + open + "goto a; nft add rule inet o a return; nft add rule inet o a drop" + into + "drop", "", ""},
		{"a map has the verdict", open + "ct state vmap { established : accept, invalid : drop }", bar, bar},
		{"a set names interfaces", closed + "iifname { pen0, eth0 } accept", bar, bar},
		{"nothing is tracked", raw + "notrack", bar, bar},
		{"nothing is tracked, and accepted", raw + "notrack accept", bar, bar},
		{"a zone of its own", raw + "ct zone set 5", bar, bar},
		{"a mark", raw + "meta mark set 5", bar, bar},
		{"what comes in by the TUN goes to a proxy", raw + "meta l4proto tcp tproxy to :1234 accept", bar, bar},
		{"a socket takes it", raw + "socket transparent 1 accept", "", ""},
		{"it is only logged", raw + "log prefix x", "", ""},
		{"segments are made smaller", open + "tcp flags syn tcp option maxseg size set rt mtu", "", ""},
		{"a hop is taken", open + "ip ttl set 1", bar, ""},
		{"the last hook drops", late + "meta l4proto tcp drop", bar, bar},
		{"the last hook drops what goes out by the TUN", late + "oifname pen0 drop", bar, bar},
		{"what the host sends or receives is dropped", "nft add table inet o; nft add chain inet o c '{ type filter hook output priority 0; policy drop; }'; nft add chain inet o i '{ type filter hook input priority 0; policy drop; }'", "", ""},
		{"what leaves is masqueraded", "nft add table inet o; nft add chain inet o c '{ type nat hook postrouting priority srcnat; }'; nft add rule inet o c masquerade", "", ""},
		{"what comes in is redirected", "nft add table inet o; nft add chain inet o c '{ type nat hook prerouting priority dstnat; }'; nft add rule inet o c tcp dport 80 redirect to :3128", bar, bar},
		{"what others send is redirected", "nft add table inet o; nft add chain inet o c '{ type nat hook prerouting priority dstnat; }'; nft add rule inet o c iifname eth0 tcp dport 80 redirect to :3128", "", ""},
		{"what is for the host is redirected", "nft add table inet o; nft add chain inet o c '{ type nat hook prerouting priority dstnat; }'; nft add rule inet o c fib daddr type local tcp dport 80 redirect to :3128", "", ""},
		{"another penstock closes", "nft add table inet penstock_x; nft add chain inet penstock_x c '{ type filter hook forward priority 0; policy drop; }'", "", ""},

		{"Docker", docker, forward, ""},
		{"Docker, and an admission", docker + admits, "", ""},
		{"Docker, and half an admission", docker + "; iptables-nft -I FORWARD -i pen0 -j ACCEPT", forward, ""},
		{"Docker admits answers", docker + "; iptables-nft -I FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -m comment --comment x -j ACCEPT; iptables-nft -I FORWARD -i pen0 -j ACCEPT", "", ""},
		{"Docker redirects what is for the host", "iptables-nft -t nat -N DOCKER; iptables-nft -t nat -A DOCKER ! -i docker0 -p tcp --dport 80 -j DNAT --to-destination 172.17.0.2:80; iptables-nft -t nat -A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER", "", ""},
		{"iptables drops TCP", "iptables-nft -A FORWARD -p tcp -j DROP", forward, ""},
		{"ip6tables drops TCP", "ip6tables-nft -A FORWARD -p tcp -j DROP", "", forward},
		{"iptables drops what is invalid", "iptables-nft -A FORWARD -m conntrack --ctstate INVALID -j DROP", "", ""},
		{"iptables drops what is no answer", "iptables-nft -A FORWARD -m conntrack ! --ctstate RELATED,ESTABLISHED -j DROP", forward, ""},
		{"iptables tracks nothing", "iptables-nft -t raw -A PREROUTING -j NOTRACK", "chain PREROUTING of table raw", ""},
		{"iptables tracks nothing of an address", "iptables-nft -t raw -A PREROUTING -s 203.0.113.0/24 -j CT --notrack", "chain PREROUTING of table raw", ""},
		{"iptables makes segments smaller", "iptables-nft -t mangle -A FORWARD -p tcp --tcp-flags SYN,RST SYN -j TCPMSS --clamp-mss-to-pmtu", "", ""},
		{"iptables marks", "iptables-nft -t mangle -A PREROUTING -j MARK --set-mark 5", "chain PREROUTING of table mangle", ""},
		{"iptables-legacy drops what the host sends", "iptables-legacy -A OUTPUT -p tcp -j DROP", "", ""},
		{"iptables-legacy has a rule", "iptables-legacy -A FORWARD -p tcp -j DROP", forward + " (iptables-legacy)", ""},
		{"iptables-legacy is closed", "iptables-legacy -P FORWARD DROP", forward + " (iptables-legacy)", ""},
		{"iptables-legacy tracks nothing", "iptables-legacy -t raw -A PREROUTING -j NOTRACK", "chain PREROUTING of table raw (iptables-legacy)", ""},
		{"ip6tables-legacy is closed", "ip6tables-legacy -P FORWARD DROP", "", forward + " (iptables-legacy)"},
	} {
		sh(row.do)
		for v4, want := range map[bool]string{true: row.want4, false: row.want6} {
			if got, err := Bar("pen0", pen0.Index, v4); got != want || err != nil {
				t.Errorf("%s: IPv4 %t: got %q, %v; want %q", row.sentence, v4, got, err, want)
			}
		}
		sh(noRules)
	}
}

// The files with the names of the older tables are root's alone.
func TestTheOlderTablesAreReadWithOneCapability(t *testing.T) {
	if _, err := exec.LookPath("iptables-legacy"); err != nil || os.Getuid() != 0 {
		t.Skip("needs iptables-legacy, and root")
	}
	if !hosttest.InNamespaces(t) {
		return
	}
	lock := filepath.Join(t.TempDir(), "lock")
	for _, row := range []struct{ do, want string }{
		{"true", ""},
		{"iptables-legacy -t raw -A PREROUTING -j NOTRACK", "chain PREROUTING of table raw (iptables-legacy)"},
	} {
		cmd := exec.Command("sh", "-ec", row.do)
		cmd.Env = append(os.Environ(), "XTABLES_LOCKFILE="+lock)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", row.do, err, out)
		}
		x := xtables4
		x.names = filepath.Join(t.TempDir(), "names")
		hosttest.Must(t, os.WriteFile(x.names, nil, 0))
		var got string
		asNobody(t, func() {
			chain, err := legacySieve(bars, x)
			if err != nil {
				t.Error(err)
			}
			got = chain
		})
		if got != row.want {
			t.Errorf("after %q: got %q, want %q", row.do, got, row.want)
		}
	}
}

// asNobody calls f in a thread that has CAP_NET_ADMIN alone, and ends that.
func asNobody(t *testing.T, f func()) {
	t.Helper()
	var over sync.WaitGroup
	over.Go(func() {
		runtime.LockOSThread() // for good: it is not used for anything else
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		admin := uint32(1 << unix.CAP_NET_ADMIN)
		data := [2]unix.CapUserData{{Effective: admin, Permitted: admin}}
		if err := unix.Capset(&header, &data[0]); err != nil {
			t.Error(err)
			return
		}
		f()
	})
	over.Wait()
}
