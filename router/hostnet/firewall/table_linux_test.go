package firewall

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/nftables"
	"go.uber.org/goleak"

	"penstock/router/hostnet/internal/hosttest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func full() Table {
	return Table{
		TUN: "pen0", Mark: 1, Mask: 1,
		Own:      []netip.Addr{netip.MustParseAddr("10.77.0.1")},
		Admit:    []netip.Prefix{netip.MustParsePrefix("172.30.0.0/16")},
		LAN:      []netip.Prefix{netip.MustParsePrefix("192.168.1.0/24")},
		Captured: []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")},
	}
}

func TestEveryFieldChangesTheDigest(t *testing.T) {
	seen := make(map[string]string)
	for name, set := range map[string]func(*Table){
		"as it is":            func(*Table) {},
		"another TUN":         func(t *Table) { t.TUN = "pen1" },
		"another mark":        func(t *Table) { t.Mark, t.Mask = 2, 2 },
		"another address":     func(t *Table) { t.Own = nil },
		"nothing admitted":    func(t *Table) { t.Admit = nil },
		"no LAN":              func(t *Table) { t.LAN = nil },
		"admitted is the LAN": func(t *Table) { t.Admit, t.LAN = t.LAN, t.Admit },
		"nothing captured":    func(t *Table) { t.Captured = nil },
		"lockdown":            func(t *Table) { t.Lockdown = true },
		"a strict filter":     func(t *Table) { t.RestoreMark = true },
		"forwarding":          func(t *Table) { t.Forward.On = true },
		"a closed interface":  func(t *Table) { t.Forward = Forwarding{On: true, Closed4: []string{"up0"}} },
		"another family":      func(t *Table) { t.Forward = Forwarding{On: true, Closed6: []string{"up0"}} },
		"another network":     func(t *Table) { t.Forward = Forwarding{On: true, Networks: t.LAN} },
		"a note":              func(t *Table) { t.Notes = []string{"sysctl"} },
		"a bridge":            func(t *Table) { t.Bridges = []string{"br0"} },
		"a probe":             func(t *Table) { t.Forward = Forwarding{On: true, Probes: t.Own} },
	} {
		table := full()
		set(&table)
		digest := table.comments()(0)
		if other, ok := seen[digest]; ok {
			t.Errorf("%q and %q have the same digest", name, other)
		}
		seen[digest] = name
	}
}

func TestATableIsPresentWholeOrNotAtAll(t *testing.T) {
	if !hosttest.InNamespaces(t) {
		return
	}
	present := func(when string, table Table, want bool) {
		t.Helper()
		if got, err := table.Present(); got != want || err != nil {
			t.Errorf("%s: got %v, %v; want %v", when, got, err, want)
		}
	}
	table, other := full(), full()
	other.Lockdown = true
	present("before", table, false)
	hosttest.Must(t, table.Apply())
	present("applied", table, true)
	present("another one of the same name", other, false)
	hosttest.Must(t, other.Apply())
	present("replaced", other, true)
	present("the one that was replaced", table, false)

	c, err := nftables.New()
	hosttest.Must(t, err)
	chains, err := c.ListChainsOfTableFamily(nftables.TableFamilyINet)
	hosttest.Must(t, err)
	for _, chain := range chains {
		if chain.Name != "egress" {
			continue
		}
		rules, err := c.GetRules(chain.Table, chain)
		hosttest.Must(t, err)
		hosttest.Must(t, c.DelRule(rules[0]))
		hosttest.Must(t, c.Flush())
	}
	present("with a rule removed", other, false)
	hosttest.Must(t, Remove(Name("pen0")))
	hosttest.Must(t, Remove(Name("pen0"))) // once more is nothing
	present("removed", other, false)
}

// A host with many containers has a network and a bridge for each group of them.
func TestATableMayHaveManyRules(t *testing.T) {
	if !hosttest.InNamespaces(t) {
		return
	}
	table := full()
	for i := range 1000 {
		table.LAN = append(table.LAN, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i)}), 24))
	}
	table.Notes = []string{"first", strings.Repeat("x", 300), "resolver /etc/resolv.conf", strings.Repeat("y", longestNote)}
	hosttest.Must(t, table.Apply())
	found, err := Tables()
	if want := []string{table.Notes[0], table.Notes[2], table.Notes[3]}; err != nil || len(found) != 1 || !slices.Equal(found[0].Notes, want) {
		t.Errorf("got %+v, %v, want notes %q", found, err, want)
	}
	if there, err := table.Present(); !there || err != nil {
		t.Errorf("got %v, %v, want the table", there, err)
	}
}
