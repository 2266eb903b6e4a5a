package hostnet

import (
	"net"
	"net/netip"
	"slices"
	"sync/atomic"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"penstock/router/hostnet/firewall"
)

const (
	allForward4 = "net/ipv4/ip_forward"
	allForward6 = "net/ipv6/conf/all/forwarding"
)

// forward4 and force6 are the parameters of an interface that make the host forward what comes in there. The second one does not
// make the host a router in the eyes of IPv6, which would end its use of router advertisements; Linux has it since 6.17.
func forward4(name string) string { return "net/ipv4/conf/" + name + "/forwarding" }
func force6(name string) string   { return "net/ipv6/conf/" + name + "/force_forwarding" }

// forwarding is what a host with Settings.Forward needs so that it forwards: packets out of the TUN, and answers in by any uplink.
type forwarding struct {
	sysctls          []change
	closed4, closed6 []string // uplinks that forward only because of us
	bridges          []string
	index            map[string]int // of interfaces, by name
}

// planForwarding looks at how the host forwards now. known are the changes of our own journal. An interface that forwards already
// is left alone, and so is one that somebody else has made forward meanwhile, together with all others.
func planForwarding(c Config, f facts, known []entry) forwarding {
	p := forwarding{bridges: f.bridges, index: make(map[string]int, len(f.names))}
	for i, name := range f.names {
		p.index[name] = i
	}
	plan := func(name string, of func(string) string, all string) (ours bool) {
		value, err := readSysctl(of(name))
		if err != nil {
			return false
		}
		s := &sysctl{Path: of(name), Old: value, New: "1"}
		if all != "" && sysctlOrEmpty(all) != "1" {
			s.Unless = all
		}
		find := func() int {
			return slices.IndexFunc(known, func(e entry) bool { return e.change().key() == s.key() })
		}
		i := find()
		if i < 0 && name != c.Interface { // unless an earlier version has noted it by its name
			s.Index = p.index[name]
			i = find()
		}
		switch {
		case i < 0 && value == "1", i >= 0 && known[i].Sysctl.Unless != "" && s.Unless == "":
			return false
		}
		p.sysctls = append(p.sysctls, s)
		return true
	}
	plan(c.Interface, forward4, "")
	uplinks := without(f.uplinks.list, c.Beside)
	for _, name := range uplinks {
		if plan(name, forward4, allForward4) {
			p.closed4 = append(p.closed4, name)
		}
	}
	if !f.ipv6OnTUN || sysctlOrEmpty(allForward6) == "1" || !exists(procSys+"/"+force6(c.Interface)) {
		return p
	}
	plan(c.Interface, force6, "")
	for _, name := range uplinks {
		if plan(name, force6, "") {
			p.closed6 = append(p.closed6, name)
		}
	}
	return p
}

// without returns a list without a name.
func without(list []string, name string) []string {
	return slices.DeleteFunc(slices.Clone(list), func(n string) bool { return n == name })
}

// table is the table that forwards, and forwards nothing else where the host did not before.
func (p forwarding) table(c Config, s Settings) *nftTable {
	t := firewall.Table{TUN: c.Interface, Mark: c.Mark, Mask: c.MarkMask, Bridges: p.bridges, Forward: firewall.Forwarding{
		On: true, Closed4: p.closed4, Closed6: p.closed6, Probes: s.Probes,
	}}
	for _, name := range slices.Compact(slices.Sorted(slices.Values(slices.Concat(p.closed4, p.closed6)))) {
		t.Notes = append(t.Notes, noteOfInterface(p.index[name], name))
	}
	for _, a := range s.Addresses {
		t.Forward.Networks = append(t.Forward.Networks, a.Masked())
	}
	return &nftTable{Name: firewall.Name(c.Interface), table: t}
}

// Values of Forwarding.families.
const (
	forwards4 = 1 << iota
	forwards6
)

// Forwarding is what Settings.Forward has come to.
type Forwarding struct {
	tun      string
	beside   string // Config.Beside
	mark     uint32 // Config.Mark
	families atomic.Uint32
	sources  sources
}

// Elsewhere reports whether masquerading may give packets to an address another source than the host's own sockets have, because a route
// names one. For the unspecified address it reports whether that is so for all of its family. It does not block.
func (w *Forwarding) Elsewhere(to netip.Addr) bool { return w.sources.contains(to) }

// Families reports which families the host forwards from the TUN, as of the last Apply or look of Watch. It does not block.
func (w *Forwarding) Families() (v4, v6 bool) {
	is := w.families.Load()
	return is&forwards4 != 0, is&forwards6 != 0
}

// Probed returns how many packets to each of Settings.Probes the host began to forward, and how many came as far as the end, since the
// table was made. If one does not, another program's firewall drops it.
func (w *Forwarding) Probed() (begun, left []uint64, err error) { return firewall.Probed(w.tun) }

// Sieve returns a chain of another program's firewall that may treat what the host forwards for the TUN otherwise than what it sends; ""
// if there is none.
func (w *Forwarding) Sieve() (string, error) { return firewall.Sieve() }

// Bar returns a chain of another program's firewall that may stop or change what the host forwards of a family for the TUN, or the answers
// to that; "" if there is none.
func (w *Forwarding) Bar(v4 bool) (string, error) {
	index := 0 // it has just gone
	if i, err := net.InterfaceByName(w.tun); err == nil {
		index = i.Index
	}
	return firewall.Bar(w.tun, index, v4)
}

// Sends reports whether the host has a route for packets of its own to an address, marked as those out of the TUN are.
func (w *Forwarding) Sends(to netip.Addr) bool {
	nl, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return false
	}
	defer nl.Close()
	routes, err := nl.RouteGetWithOptions(to.AsSlice(), &netlink.RouteGetOptions{Mark: w.mark})
	return err == nil && len(routes) > 0 && routes[0].Type == unix.RTN_UNICAST
}

// see looks at what Families and Elsewhere report. ready says that the TUN and the table are there.
func (w *Forwarding) see(v *view, s Settings, f facts, ready bool) error {
	var is uint32
	var err error
	if s.Forward && ready {
		err = w.sources.update(v)
		names := append([]string{w.tun}, without(slices.Concat(f.uplinks.list, f.cut), w.beside)...)
		off := func(path func(string) string) bool {
			return slices.ContainsFunc(names, func(name string) bool {
				value, err := readSysctl(path(name))
				return err == nil && value != "1" || err != nil && name == w.tun
			})
		}
		if s.speaks(true) && !off(forward4) {
			is |= forwards4
		}
		if s.speaks(false) && f.ipv6OnTUN && (sysctlOrEmpty(allForward6) == "1" || !off(force6)) {
			is |= forwards6
		}
	}
	w.families.Store(is)
	return err
}

// speaks reports whether the TUN has an address of a family.
func (s Settings) speaks(v4 bool) bool {
	return slices.ContainsFunc(s.Addresses, func(p netip.Prefix) bool { return p.Addr().Is4() == v4 })
}

// withoutForwarding takes the sysctls out of a plan, so that they are undone: without the table the host must not forward.
func withoutForwarding(plan []change) []change {
	return slices.DeleteFunc(slices.Clone(plan), func(c change) bool { return c.stage() == stageSysctl })
}
