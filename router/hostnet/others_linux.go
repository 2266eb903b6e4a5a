package hostnet

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"penstock/router/hostnet/direct"
	"penstock/router/hostnet/internal/rtnl"
)

// mainRule is the priority of the kernel's own rule for table main. What comes after it meets the default route first.
const mainRule = 32766

// mostOthers bounds what is kept of one table: a router's table is no mesh VPN's.
const mostOthers = 1024

// others finds the networks that other programs, such as mesh VPNs, lead into interfaces of their own by tables of their own.
// Our capture hides those tables, as our rules come first.
type others struct {
	next time.Time // of the next look: reading a router's tables is expensive
	last []direct.Other
}

// update adds the networks to the facts, and reports them to Config.Others.
func (o *others) update(v *view, c Config, f *facts) {
	var err error
	if f.others, err = o.look(v, c, f.names); err != nil {
		f.others = o.last
		c.Log.Debug("cannot look for the networks of other programs", "err", err)
	}
	if c.Others != nil {
		c.Others.Set(f.others)
	}
}

// look returns the networks, each table's longest first, in the order in which the kernel would ask the tables. Default
// routes do not count: whether everything leaves by another VPN is for its user to say, by stopping us.
func (o *others) look(v *view, c Config, names map[int]string) ([]direct.Other, error) {
	start := time.Now()
	if start.Before(o.next) {
		return o.last, nil
	}
	var found []direct.Other
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		tables, err := v.tablesOfOthers(family, c)
		if err != nil {
			return nil, err
		}
		for _, t := range tables {
			list, err := v.othersIn(family, t, c, names)
			if err != nil {
				return nil, err
			}
			found = append(found, list...)
		}
	}
	o.last = found
	o.next = time.Now().Add(max(repairWithin, 50*time.Since(start)))
	return found, nil
}

// otherTable is a table that unmarked packets are looked up in before main, if they are for to.
type otherTable struct {
	table int
	to    netip.Prefix // invalid: for everything
}

// tablesOfOthers returns the tables that the host's own ordinary packets would be looked up in without us.
func (v *view) tablesOfOthers(family int, c Config) ([]otherTable, error) {
	rules, err := v.rulesOf(family)
	if err != nil {
		return nil, fmt.Errorf("hostnet: %w", err)
	}
	rules = slices.SortedStableFunc(slices.Values(rules), func(a, b netlink.Rule) int { return cmp.Compare(a.Priority, b.Priority) })
	var tables []otherTable
	for i := range rules {
		r := &rules[i]
		marked := r.Mark != 0 && !r.Invert || r.Mark == 0 && r.Invert
		special := r.Src != nil || r.IifName != "" || r.OifName != "" || r.Sport != nil || r.Dport != nil || r.IPProto != 0 || r.UIDRange != nil || r.Tos != 0
		switch {
		case r.Protocol == RouteProtocol, r.Priority >= mainRule, marked, special:
			continue
		case r.Table == c.Table, r.Table == 0, r.Table == unix.RT_TABLE_MAIN, r.Table == unix.RT_TABLE_LOCAL, r.Table == unix.RT_TABLE_DEFAULT:
			continue
		}
		t := otherTable{table: r.Table}
		if r.Dst != nil {
			t.to = rtnl.Prefix(r.Dst, family)
		}
		tables = append(tables, t)
	}
	return tables, nil
}

// othersIn returns the networks of one table, longest first.
func (v *view) othersIn(family int, t otherTable, c Config, names map[int]string) ([]direct.Other, error) {
	routes, err := v.routesOf(family, t.table)
	if err != nil {
		return nil, fmt.Errorf("hostnet: %w", err)
	}
	var list []direct.Other
	for _, r := range routes {
		to := rtnl.Prefix(r.Dst, family)
		out := direct.Other{Network: to, Interface: names[r.LinkIndex], Table: t.table}
		covered := !t.to.IsValid() || t.to.Bits() <= to.Bits() && t.to.Contains(to.Addr())
		switch {
		case to.Bits() <= 1, !covered, r.Protocol == RouteProtocol, len(list) == mostOthers: // 0.0.0.0/1 and 128.0.0.0/1 are a default route
			continue
		case r.Type == unix.RTN_THROW:
			out.Interface = ""
		case r.Type != unix.RTN_UNICAST, out.Interface == "", out.Interface == c.Interface, out.Interface == "lo":
			continue
		}
		list = append(list, out)
	}
	slices.SortStableFunc(list, func(a, b direct.Other) int { return cmp.Compare(b.Network.Bits(), a.Network.Bits()) })
	return list, nil
}

// rulesOfOthers returns the rules by which a marked socket that is bound to another program's interface is looked up in that
// program's table.
func rulesOfOthers(c Config, list []direct.Other, v4 bool) []change {
	var plan []change
	var done []rule
	for _, o := range list {
		r := rule{Family: unix.AF_INET6, Priority: c.RulePriority, Mark: c.Mark, Mask: c.MarkMask, Out: o.Interface, Table: o.Table}
		if v4 {
			r.Family = unix.AF_INET
		}
		if o.Interface == "" || o.Network.Addr().Is4() != v4 || slices.Contains(done, r) {
			continue
		}
		done = append(done, r)
		plan = append(plan, &r)
	}
	return plan
}
