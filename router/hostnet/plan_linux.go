package hostnet

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"penstock/router/hostnet/direct"
	"penstock/router/hostnet/firewall"
	"penstock/router/hostnet/internal/rtnl"
	"penstock/router/hostnet/resolver"
)

// Parameters of all interfaces that a laptop sets.
const (
	arpIgnore    = "net/ipv4/conf/all/arp_ignore"
	srcValidMark = "net/ipv4/conf/all/src_valid_mark"
)

// facts are what a plan depends on besides the settings.
type facts struct {
	link       *netlink.LinkAttrs // our TUN; nil before it exists
	wasUp      bool
	neighbours []neighbour // addresses of the other interfaces
	uplinks
	ipv6          bool   // the kernel has IPv6
	ipv6OnTUN     bool   // and has not switched it off on our TUN
	strictReverse bool   // some interface has rp_filter 1
	arpIgnore     string // of all interfaces; "" if unreadable
	srcValidMark  string
	others        []direct.Other // networks of other programs' tables; only Apply and Watch look for them
}

// neighbour is an address of another interface than our TUN.
type neighbour struct {
	index  int // of the interface
	prefix netip.Prefix
}

// gather reads the facts. Without a TUN facts.link is nil; that is no error here.
func gather(v *view, tun string) (facts, error) {
	f := facts{
		ipv6:         exists(procSys + "/net/ipv6/conf/all"),
		arpIgnore:    sysctlOrEmpty(arpIgnore),
		srcValidMark: sysctlOrEmpty(srcValidMark),
	}
	f.strictReverse = strictReversePath(tun)
	link, err := v.nl.LinkByName(tun)
	switch {
	case rtnl.IsNotFound(err):
	case err != nil:
		return f, fmt.Errorf("hostnet: interface %s: %w", tun, err)
	default:
		f.link = link.Attrs()
		f.wasUp = f.link.Flags&unix.IFF_UP != 0
		f.ipv6OnTUN = f.ipv6 && sysctlOrEmpty("net/ipv6/conf/"+tun+"/disable_ipv6") != "1"
	}
	if f.uplinks, err = v.findUplinks(tun); err != nil {
		return f, fmt.Errorf("hostnet: %w", err)
	}
	if _, err := v.addrsOf(0); err != nil {
		return f, fmt.Errorf("hostnet: %w", err)
	}
	for index, list := range v.addrs {
		if f.link != nil && index == f.link.Index {
			continue
		}
		for _, a := range list {
			if a.IPNet != nil && !a.IP.IsLoopback() {
				ip, _ := netip.AddrFromSlice(a.IP)
				f.neighbours = append(f.neighbours, neighbour{index, rtnl.Prefix(a.IPNet, rtnl.Family(ip.Unmap()))})
			}
		}
	}
	return f, nil
}

// strictReversePath reports whether answers to marked packets would be dropped, because the reverse route is looked up
// without the mark and leads into the TUN. Loose mode (2) lets them pass.
func strictReversePath(tun string) bool {
	all := sysctlOrEmpty("net/ipv4/conf/all/rp_filter")
	if all == "2" {
		return false
	}
	paths, _ := filepath.Glob(procSys + "/net/ipv4/conf/*/rp_filter") // the pattern is valid
	return slices.ContainsFunc(paths, func(path string) bool {
		name := filepath.Base(filepath.Dir(path))
		if name == tun || name == "lo" {
			return false
		}
		raw, err := os.ReadFile(path)
		return err == nil && strings.TrimSpace(string(raw)) == "1"
	})
}

// planFilter returns the nftables table that closes the host.
func planFilter(c Config, s Settings, f facts) *nftTable {
	t := firewall.Table{
		TUN: c.Interface, Mark: c.Mark, Mask: c.MarkMask,
		Captured: sorted(s.Capture), Lockdown: s.Lockdown,
		Admit: sorted(s.Exclude), LAN: lanOf(s, f),
		RestoreMark: f.strictReverse && len(s.Capture) > 0, Bridges: f.bridges,
	}
	for _, a := range s.Addresses {
		t.Own = append(t.Own, a.Addr())
	}
	return &nftTable{Name: firewall.Name(c.Interface), table: t}
}

// planKernel returns every change but the resolver's, in the order in which they are made. known are the changes of our own
// journal.
func planKernel(c Config, s Settings, f facts, known []entry) []change {
	var plan []change
	if s.Forward {
		p := planForwarding(c, f, known)
		plan = append(plan, p.table(c, s))
		plan = append(plan, p.sysctls...)
		if f.link != nil {
			plan = append(plan, planLink(c, s, f)...)
		}
		return plan
	}
	var sysctls []change
	if len(s.Addresses) > 0 && f.arpIgnore != "8" { // 8 answers nothing at all, which is stricter
		sysctls = append(sysctls, &sysctl{Path: arpIgnore, Old: f.arpIgnore, New: "2"})
	}
	if f.strictReverse && len(s.Capture) > 0 {
		sysctls = append(sysctls, &sysctl{Path: srcValidMark, Old: f.srcValidMark, New: "1"})
	}
	if len(s.Addresses) > 0 || len(s.Capture) > 0 || s.Lockdown {
		filter := planFilter(c, s, f)
		filter.table.Notes = notesFor(c, sysctls, known)
		plan = append(plan, filter)
	}
	plan = append(plan, sysctls...)
	if f.link != nil && s.needTUN() {
		plan = append(plan, planLink(c, s, f)...)
	}
	if len(s.Capture) == 0 {
		return plan
	}
	for _, p := range widest(ofFamily(capturedBy(s), true)) {
		plan = append(plan, &route{To: p, Table: c.Table, Closed: true})
	}
	plan = append(plan, planRules(c, s, f, true)...)
	if f.ipv6 {
		plan = append(plan, planRules(c, s, f, false)...)
	}
	return plan
}

// planLink returns what belongs to the TUN, and goes with it.
func planLink(c Config, s Settings, f facts) []change {
	index := f.link.Index
	plan := []change{&linkUp{Name: c.Interface, Index: index, MTU: s.MTU, WasMTU: f.link.MTU, WasQueue: f.link.TxQLen, WasUp: f.wasUp}}
	for _, a := range s.Addresses {
		if a.Addr().Is4() || f.ipv6OnTUN {
			plan = append(plan, &address{Name: c.Interface, Index: index, Prefix: a, NoPrefixRoute: len(s.Capture) > 0})
		}
	}
	for _, p := range capturedBy(s) {
		if p.Addr().Is4() || f.ipv6OnTUN {
			plan = append(plan, &route{To: p, Index: index, Table: c.Table})
		}
	}
	return plan
}

// capturedBy returns what our table routes: the captured prefixes and those of the TUN's addresses, which are not in main.
func capturedBy(s Settings) []netip.Prefix {
	if len(s.Capture) == 0 {
		return nil
	}
	return sorted(slices.Concat(s.Capture, s.Addresses))
}

// widest returns the default route of a sorted list of one family, which comes first and covers the others, or all if there is none.
func widest(list []netip.Prefix) []netip.Prefix {
	if len(list) > 0 && list[0].Bits() == 0 {
		return list[:1]
	}
	return list
}

// protocols are those that the unreachable rules of IPv4 name: what sockets and tunnels send. The check of a new route's gateway has none,
// and a rule without one would refuse the gateways of a network that has just come (fib_check_nh_v4_gw, Linux 6.18). What has another
// protocol meets the unreachable route of our table, unless it looks for neighbours alone (SO_DONTROUTE), and the nftables table.
var protocols = [...]int{
	unix.IPPROTO_ICMP, unix.IPPROTO_IGMP, unix.IPPROTO_IPIP, unix.IPPROTO_TCP, unix.IPPROTO_UDP, unix.IPPROTO_DCCP, unix.IPPROTO_IPV6,
	unix.IPPROTO_GRE, unix.IPPROTO_ESP, unix.IPPROTO_AH, unix.IPPROTO_PIM, unix.IPPROTO_L2TP, unix.IPPROTO_SCTP, unix.IPPROTO_UDPLITE,
	unix.IPPROTO_RAW,
}

// planRules returns the rules of one family, as the package comment lists them. The unreachable ones are made first, so
// that nothing passes while the rules are made.
func planRules(c Config, s Settings, f facts, v4 bool) []change {
	base := rule{Family: unix.AF_INET6, Mark: c.Mark, Mask: c.MarkMask}
	dhcp := rule{SrcPort: 546, DstPort: 547}
	if v4 {
		base.Family = unix.AF_INET
		dhcp = rule{SrcPort: 68, DstPort: 67}
	}
	at := func(offset int, r rule) *rule {
		r.Family, r.Priority = base.Family, c.RulePriority+offset
		return &r
	}
	marked := rule{Mark: base.Mark, Mask: base.Mask}
	unmarked := rule{Mark: base.Mark, Mask: base.Mask, NotMarked: true}

	plan := []change{
		at(1, marked),
		at(0, withTable(marked, unix.RT_TABLE_MAIN)),
	}
	plan = append(plan, rulesOfOthers(c, f.others, v4)...)
	captured := ofFamily(capturedBy(s), v4)
	for _, p := range widest(captured) {
		var closed rule // nothing marked comes this far
		if p.Bits() > 0 {
			closed.To = p
		}
		if !v4 {
			plan = append(plan, at(6, closed))
			continue
		}
		for _, protocol := range protocols {
			closed.Protocol = protocol
			plan = append(plan, at(6, closed))
		}
	}
	plan = append(plan,
		at(2, rule{From: c.Interface, Table: unix.RT_TABLE_MAIN, SkipDefault: true}),
		at(2, withTable(dhcp, unix.RT_TABLE_MAIN)),
	)
	exclude := sorted(s.Exclude)
	for _, p := range ofFamily(exclude, v4) {
		plan = append(plan, at(2, rule{To: p, Table: unix.RT_TABLE_MAIN}))
	}
	if s.LAN && len(captured) > 0 {
		for _, tcp := range []bool{false, true} {
			plan = append(plan, at(3, rule{DstPort: dnsPort, TCP: tcp, Table: c.Table}))
		}
		for _, a := range ofFamily(s.Addresses, v4) {
			plan = append(plan, at(3, rule{Src: netip.PrefixFrom(a.Addr(), a.Addr().BitLen()), Table: c.Table}))
		}
	}
	for _, p := range ofFamily(lanOf(s, f), v4) {
		// Packets to a network that has just gone must not go to the default gateway.
		beyond := !p.Addr().IsMulticast() && p.Addr() != broadcast
		r := rule{To: p, Table: unix.RT_TABLE_MAIN, SkipDefault: beyond}
		if !slices.Contains(exclude, p) {
			plan = append(plan, at(4, r))
		}
	}
	if v4 {
		// The kernel looks up by the rules whether a new route's gateway is a neighbour (fib_check_nh_v4_gw). Without these a
		// DHCP client could not set the default route of a new network.
		for _, name := range f.uplinks.list {
			plan = append(plan, at(4, rule{Out: name, Table: unix.RT_TABLE_MAIN, SkipDefault: true}))
		}
	}
	if len(captured) > 0 {
		plan = append(plan, at(5, withTable(unmarked, c.Table)))
	}
	return plan
}

// dnsPort is where questions go. A LAN's own resolver is not asked: it would learn every name, and its answers would get
// past the filter.
const dnsPort = 53

var broadcast = netip.AddrFrom4([4]byte{255, 255, 255, 255})

func withTable(r rule, table int) rule {
	r.Table = table
	return r
}

// networks returns the networks of the other interfaces, with the host bits of the addresses in them.
func (f facts) networks() []netip.Prefix {
	out := make([]netip.Prefix, len(f.neighbours))
	for i, n := range f.neighbours {
		out[i] = n.prefix
	}
	return out
}

// findOverlap returns how a network of the TUN overlaps one of another interface, or nil.
func findOverlap(s Settings, f facts) *direct.OverlapError {
	for _, n := range f.neighbours {
		if o := direct.FindOverlap(s.Addresses, f.names[n.index], []netip.Prefix{n.prefix}, f.networks()); o != nil {
			return o
		}
	}
	return nil
}

// lanOf returns what LAN leaves to the host: nothing without it.
func lanOf(s Settings, f facts) []netip.Prefix {
	if !s.LAN {
		return nil
	}
	return slices.Concat(connected(f.networks(), s.Capture), linkScope[:])
}

// takenByOthers returns an error if other programs, or a penstock with another state file, use our table or our rule
// priorities. known are the changes of our own journal.
func takenByOthers(v *view, c Config, s Settings, f facts, known []entry) error {
	if len(s.Capture) == 0 {
		return nil
	}
	families := []int{unix.AF_INET}
	if f.ipv6 {
		families = append(families, unix.AF_INET6)
	}
	for _, family := range families {
		rules, err := v.rulesOf(family)
		if err != nil {
			return fmt.Errorf("hostnet: %w", err)
		}
		for _, r := range rules {
			if r.Priority >= c.RulePriority && r.Priority < c.RulePriority+rulePriorities && r.Protocol != RouteProtocol {
				return fmt.Errorf("hostnet: another program uses rule priority %d (see ip rule): choose another first priority than %d", r.Priority, c.RulePriority)
			}
		}
		routes, err := v.routesOf(family, c.Table)
		if err != nil {
			return fmt.Errorf("hostnet: %w", err)
		}
		for _, r := range routes {
			if r.Protocol == RouteProtocol && r.Type == unix.RTN_UNREACHABLE {
				continue // it leads nowhere, and may be left of one that was killed
			}
			if r.Protocol != RouteProtocol {
				return fmt.Errorf("hostnet: another program uses routing table %d (see ip route show table %d): choose another", c.Table, c.Table)
			}
			// Each of two penstocks would put back what the other replaces, without end.
			ours := route{To: rtnl.Prefix(r.Dst, family), Index: r.LinkIndex, Table: c.Table}
			if (f.link == nil || r.LinkIndex != f.link.Index) && !inEntries(known, ours.key()) {
				return anotherRuns(c.Table)
			}
		}
	}
	return closedByAnother(c, known)
}

// closedByAnother returns an error if the table of another penstock drops what leaves by our TUN. One that runs and captures something is
// found by its routes, so this is one that died. known are the changes of our own journal.
func closedByAnother(c Config, known []entry) error {
	tables, err := firewall.Tables()
	if err != nil {
		return nil // to make ours will say why
	}
	for _, t := range tables {
		if !t.Closes || t.Name == firewall.Name(c.Interface) || inEntries(known, nftKey(t.Name)) {
			continue
		}
		mend := "penstock lockdown off, with --state and its state file, or nft delete table inet " + t.Name
		if i := slices.IndexFunc(t.Notes, func(n string) bool { return strings.HasPrefix(n, noteState+" ") }); i >= 0 {
			undo := "penstock cleanup"
			if t.Lockdown {
				undo = "penstock lockdown off"
			}
			mend = undo + " --state " + strings.TrimPrefix(t.Notes[i], noteState+" ")
		}
		return fmt.Errorf("hostnet: the nftables table %s of another penstock, which has died or does not let go of the host, drops what leaves by %s: %s",
			t.Name, c.Interface, mend)
	}
	return nil
}

func anotherRuns(table int) error {
	return fmt.Errorf("hostnet: another penstock leads packets into a TUN of its own (see ip route show table %d): stop it first", table)
}

// besideAnother returns an error if another penstock carries this host's packets. Our TUN is not there yet. What a killed penstock
// left leads into no TUN that a process holds. known are the changes of our own journal.
func besideAnother(v *view, c Config, known []entry) error {
	families := []int{unix.AF_INET}
	if exists(procSys + "/net/ipv6/conf/all") {
		families = append(families, unix.AF_INET6)
	}
	for _, family := range families {
		routes, err := v.routesOf(family, c.Table)
		if err != nil {
			return fmt.Errorf("hostnet: %w", err)
		}
		for _, r := range routes {
			ours := route{To: rtnl.Prefix(r.Dst, family), Index: r.LinkIndex, Table: c.Table}
			if r.Protocol != RouteProtocol || inEntries(known, ours.key()) {
				continue
			}
			link, err := v.nl.LinkByIndex(r.LinkIndex)
			if err == nil && link.Attrs().RawFlags&unix.IFF_RUNNING != 0 {
				return anotherRuns(c.Table)
			}
		}
	}
	return nil
}

// chooseResolver decides what auto means on this host. Only Apply calls it: settings must not flap when systemd-resolved
// restarts.
func chooseResolver(k *kernel, c Config, s Settings) ResolverMode {
	switch {
	case len(s.DNS) == 0:
		return ResolverNone
	case s.Resolver != "" && s.Resolver != ResolverAuto:
		return s.Resolver
	case resolver.StubInUse(c.ResolvConf) && k.resolved.Comes():
		return ResolverResolved
	}
	return ResolverFile
}

// planResolver returns the change to the resolver settings, if there is to be one.
func planResolver(c Config, s Settings, f facts) ([]change, error) {
	switch {
	case s.Resolver == ResolverFile:
		r, err := resolver.PlanFile(c.ResolvConf, s.DNS, s.Search)
		if err != nil {
			return nil, fmt.Errorf("hostnet: %w", err)
		}
		return []change{&resolvConf{r}}, nil
	case s.Resolver == ResolverResolved && f.link != nil:
		return []change{&resolvedLink{&resolver.Link{Name: c.Interface, Index: f.link.Index, DNS: s.DNS, Domains: s.Search}}}, nil
	}
	return nil, nil
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return !errors.Is(err, fs.ErrNotExist)
}

// sysctlOrEmpty reads a parameter; what cannot be read counts as unset.
func sysctlOrEmpty(path string) string {
	value, _ := readSysctl(path)
	return value
}
