package doctor

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"penstock/cmd/internal/control"
	"penstock/router/hostnet/direct"
)

// smallestMTU is what IPv6 asks of each network, bytes.
const smallestMTU = 1280

// mainTable is the kernel's number for the host's ordinary routes.
const mainTable = 254

func judgePath(f *Facts, v4 bool) []control.Finding {
	if !f.Routes.Known {
		return notChecked(f.Routes.Why)
	}
	best := f.defaultRoute(v4)
	switch {
	case best == nil && v4 && f.defaultRoute(false) != nil:
		return warning("get an IPv4 address from the network, unless every server that is needed has IPv6", "there is no default route: nothing leaves by IPv4")
	case best == nil && v4:
		return fault("connect the host to a network: ip route", "there is no default route")
	case best == nil:
		return ok("there is no default route: nothing leaves by IPv6")
	}
	found := "by " + best.Interface
	if best.Gateway.IsValid() {
		found = fmt.Sprintf("by %s on %s", best.Gateway, best.Interface)
	}
	i := slices.IndexFunc(f.Links.Is, func(l Link) bool { return l.Name == best.Interface })
	if i < 0 {
		return ok("%s", found)
	}
	link := f.Links.Is[i]
	switch {
	case !link.Up:
		return fault("ip link set "+link.Name+" up", "%s, which is down", found)
	case link.MTU < smallestMTU:
		return warning("ip link set "+link.Name+" mtu 1500, if the network allows it", "%s, with an MTU of %d: less than every network must carry", found, link.MTU)
	}
	return ok("%s, MTU %d", found, link.MTU)
}

// defaultRoute returns the best of a family that is not ours, or nil.
func (f *Facts) defaultRoute(v4 bool) *Route {
	tun := tunOf(f)
	var best *Route
	for i := range f.Routes.Is {
		r := &f.Routes.Is[i]
		if r.To.Bits() == 0 && r.To.Addr().Is4() == v4 && r.Table == mainTable && !r.Ours && r.Interface != tun && (best == nil || r.Metric < best.Metric) {
			best = r
		}
	}
	return best
}

func judgePortal(f *Facts) []control.Finding {
	s := f.Running.Is
	if !f.Running.Known {
		return notChecked(f.notAsked())
	}
	if strings.Contains(s.Reason, "portal") {
		return fault("sign in to the network: penstock status says where", "%s", s.Verdict)
	}
	return ok("none is in the way")
}

// ownAddresses are those at which our DNS server answers on this host.
func ownAddresses(f *Facts) []netip.Addr {
	tun, name := f.tun(), tunOf(f)
	for _, l := range f.Links.Is { // where it really is: penstock may have moved it
		if l.Name == name && len(l.Addresses) > 0 {
			tun.Address = l.Addresses
		}
	}
	var list []netip.Addr
	for _, p := range tun.ServiceAddrs() {
		list = append(list, p.Addr())
	}
	if f.Config.Known {
		for _, a := range f.Config.Is.DNS.Listen {
			list = append(list, a.Addr())
		}
	}
	return list
}

func judgeResolver(f *Facts) []control.Finding {
	r := f.Resolver.Is
	switch {
	case !f.Resolver.Known:
		return notChecked(f.Resolver.Why)
	case f.Running.Known && !f.Config.Known:
		return notChecked(f.unconfigured())
	}
	own := ownAddresses(f)
	asksUs := func(servers []netip.Addr) bool {
		return slices.ContainsFunc(servers, func(a netip.Addr) bool { return slices.Contains(own, a) })
	}
	servers := joined(r.Servers)
	by := ""
	if r.Link != "" {
		by = ", a link to " + r.Link
	} else if r.Writer != "" && r.Writer != "penstock" {
		by = ", written by " + r.Writer
	}
	auto := f.Running.Known && f.tun().DNS == "auto"
	switch {
	case r.Missing:
		return fault("write a nameserver into "+r.File+", or start what writes it", "there is no %s: programs find no names", r.File)
	case len(r.Servers) == 0:
		return fault("write a nameserver into "+r.File+", or start what writes it", "%s names no server: programs find no names", r.File)
	case f.Absent && len(f.tun().Address) > 0 && asksUs(r.Servers):
		return fault("start penstock, or: penstock cleanup"+f.stateFlag(), "%s asks penstock (%s), which does not run: programs find no names", r.File, servers)
	case auto && (asksUs(r.Servers) || r.Resolved && asksUs(r.Behind)):
		how := ""
		if !asksUs(r.Servers) {
			how = " by systemd-resolved"
		}
		return ok("programs ask penstock%s (%s)", how, servers)
	case auto:
		mend := "make " + r.File + " writable (chattr -i, or a read-write mount), or restart penstock"
		if by != "" {
			mend = "stop that program from writing " + r.File + ", or set listen.tun.dns: manual and have it name " + joined(own)
		}
		if f.captures(r.Servers) {
			return warning(mend, "programs ask %s (%s%s): penstock answers in its place, but the search domains of transports have no effect", servers, r.File, by)
		}
		return fault(mend, "programs ask %s instead of penstock (%s%s)", servers, r.File, by)
	}
	return ok("programs ask %s (%s%s)", servers, r.File, by)
}

// captures reports whether questions to all of the servers enter the TUN.
func (f *Facts) captures(servers []netip.Addr) bool {
	tun := tunOf(f)
	return f.Ways.Known && !slices.ContainsFunc(servers, func(a netip.Addr) bool {
		return !slices.ContainsFunc(f.Ways.Is, func(w direct.Way) bool { return w.To == netip.AddrPortFrom(a, 53) && w.Interface == tun })
	})
}

func joined(addrs []netip.Addr) string {
	var list []string
	for _, a := range addrs {
		list = append(list, a.String())
	}
	return strings.Join(list, ", ")
}

// judgeLeak asks whether packets of the host's programs enter the TUN.
func judgeLeak(f *Facts) []control.Finding {
	tun := tunOf(f)
	switch {
	case !f.Running.Known:
		return notChecked(f.notAsked())
	case !f.Config.Known:
		return notChecked(f.unconfigured())
	case f.Config.Is.Listen.TUN == nil:
		return ok("this configuration has no listen.tun: the host's own packets are not penstock's")
	case !f.ownsHost():
		return notChecked("listen.tun.routes is manual: whoever made the routes must know")
	case !f.Ways.Known:
		return notChecked(f.Ways.Why)
	}
	var bad, good []string
	for _, w := range f.Ways.Is {
		what, where := "packets to the internet by IPv4", "enter "+tun
		if !w.To.Addr().Is4() {
			what = "packets to the internet by IPv6"
		}
		if w.To.Port() == 53 {
			what = "questions to " + w.To.Addr().String()
		}
		leaks := false
		switch {
		case w.Interface == tun:
		case w.Nowhere:
			where = "go nowhere"
		case w.Local && w.To.Port() == 53: // the check of the resolver says whom that one asks
			where = "stay on this host"
		default:
			where, leaks = "leave by "+w.Interface, true
		}
		if leaks {
			bad = append(bad, what+" "+where)
		} else {
			good = append(good, what+" "+where)
		}
	}
	if len(bad) > 0 {
		return fault("see which rule comes before penstock's: ip rule; ip -6 rule. Remove it, or restart penstock", "%s, past penstock", strings.Join(bad, "; "))
	}
	return ok("%s", some(good))
}

// named is a network of ours and what it is.
type named struct {
	what   string
	prefix netip.Prefix
	firm   bool // it cannot be moved by penstock itself
}

func judgeAddresses(f *Facts) []control.Finding {
	switch {
	case !f.Links.Known || !f.Routes.Known:
		return notChecked(orElse(f.Links.Why, f.Routes.Why))
	case !f.Config.Known:
		return notChecked(f.unconfigured())
	}
	var list []control.Finding
	for _, n := range ownNetworks(f) {
		with := collisions(f, n.prefix)
		if len(with) == 0 {
			continue
		}
		one := control.Finding{Name: "addresses: " + n.what, Result: control.ResultFault, Found: fmt.Sprintf("%s is also %s: packets go astray", n.prefix, some(with)), Mend: "choose other addresses for " + n.what + ", or for the host's network"}
		if !n.firm {
			one.Result = control.ResultWarning
			one.Found = fmt.Sprintf("%s is also %s", n.prefix, some(with))
			if strings.HasPrefix(n.what, "transports.") {
				one.Mend = "hosts there are reached in only one of the two: renumber one of the networks, or say with a rule which one is meant"
			} else {
				one.Mend = "nothing: penstock takes another network as long as " + n.what + " is not set"
			}
		}
		list = append(list, one)
	}
	if len(list) == 0 {
		return ok("no network of penstock's is another one of the host")
	}
	return list
}

// ownNetworks returns the networks of the TUN, of the peers and of the transports.
func ownNetworks(f *Facts) []named {
	var list []named
	cfg := f.Config.Is
	if t := cfg.Listen.TUN; t != nil {
		addresses := t.Address
		for _, l := range f.Links.Is { // where it really is: penstock may have moved it
			if f.Running.Known && l.Name == tunOf(f) && len(l.Addresses) > 0 {
				addresses = l.Addresses
			}
		}
		for _, p := range addresses {
			if !p.Addr().IsLinkLocalUnicast() {
				list = append(list, named{"listen.tun.address", p.Masked(), t.AddressGiven})
			}
		}
	}
	var inner []netip.Prefix
	if w := cfg.Listen.WireGuard; w != nil {
		for _, p := range w.Address {
			inner = append(inner, p.Masked())
			list = append(list, named{"listen.wireguard.address", p.Masked(), true})
		}
	}
	for _, peer := range cfg.Peers.All() {
		for _, p := range peer.AllowedIPs {
			if !slices.ContainsFunc(inner, func(in netip.Prefix) bool { return in.Overlaps(p) && in.Bits() <= p.Bits() }) && p.Bits() > 1 {
				list = append(list, named{"the allowed_ips of peer " + peer.Name, p.Masked(), true})
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(f.Behind.Is)) {
		for _, p := range f.Behind.Is[name] {
			list = append(list, named{"transports." + name, p, false})
		}
	}
	for _, split := range cfg.DNS.Split {
		for _, u := range split.Upstream {
			if a, err := netip.ParseAddr(u.Address); err == nil && u.Via != "direct" {
				list = append(list, named{"transports." + u.Via + " (the DNS server of " + strings.Join(split.Domains, ", ") + ")", netip.PrefixFrom(a, a.BitLen()), false})
			}
		}
	}
	return list
}

// isReused reports whether a network is one that many places number alike. Where the addresses are public, a transport and the host
// mean the same hosts by them.
func isReused(p netip.Prefix) bool {
	return p.Addr().IsPrivate() || netip.MustParsePrefix("100.64.0.0/10").Contains(p.Addr())
}

// collisions returns the networks of the host that overlap one of ours.
func collisions(f *Facts, ours netip.Prefix) []string {
	tun := tunOf(f)
	mine := func(name string) bool { return name == tun || f.mayForward() && strings.HasPrefix(name, "penk") }
	var list []string
	seen := make(map[netip.Prefix]bool)
	add := func(p netip.Prefix, name string) {
		if p = p.Masked(); !seen[p] {
			seen[p] = true
			list = append(list, fmt.Sprintf("%s of %s", p, name))
		}
	}
	for _, l := range f.Links.Is {
		for _, p := range l.Addresses {
			if !mine(l.Name) && !p.Addr().IsLoopback() && !p.Addr().IsLinkLocalUnicast() && p.Overlaps(ours) {
				add(p, l.Name)
			}
		}
	}
	for _, r := range f.Routes.Is {
		if !mine(r.Interface) && !r.Ours && r.To.Bits() > 1 && !r.To.Addr().IsMulticast() && !r.To.Addr().IsLinkLocalUnicast() && r.To.Overlaps(ours) {
			add(r.To, "the route by "+r.Interface)
		}
	}
	return list
}

func judgePorts(f *Facts) []control.Finding {
	switch {
	case !f.Config.Known:
		return notChecked(f.unconfigured())
	case !f.Sockets.Known:
		return notChecked(f.Sockets.Why)
	}
	var bad, silent, good []string
	for _, p := range portsOf(f.Config.Is) {
		what := fmt.Sprintf("%s %s (%s)", p.Network, p.Address, p.Key)
		taken := false
		var by *Socket
		for i, s := range f.Sockets.Is {
			if s.Network != p.Network || !meet(s.Address, p.Address) {
				continue
			}
			if taken = true; s.Program != "" && !strings.HasPrefix(s.Program, "penstock") {
				by = &f.Sockets.Is[i]
			}
		}
		switch {
		case by != nil:
			bad = append(bad, fmt.Sprintf("%s is taken by %s (process %d)", what, by.Program, by.PID))
		case taken && f.Absent:
			bad = append(bad, what+" is taken by a program that this user may not see, or another penstock")
		case !taken && f.Running.Known:
			silent = append(silent, what)
		default:
			good = append(good, what)
		}
	}
	switch {
	case len(bad) > 0:
		return fault("stop that program, or choose another port", "%s", some(bad))
	case len(silent) > 0:
		return warning("see whether a change waits for a restart: penstock status", "penstock runs, but nobody listens on %s", some(silent))
	case len(good) == 0:
		return ok("none is needed")
	case f.Running.Known:
		return ok("penstock listens on %s", some(good))
	}
	return ok("free: %s", some(good))
}

// meet reports whether two sockets could not both listen.
func meet(a, b netip.AddrPort) bool {
	return a.Port() == b.Port() && (a.Addr() == b.Addr() || a.Addr().IsUnspecified() || b.Addr().IsUnspecified())
}

func judgeOthers(f *Facts) []control.Finding {
	if !f.OtherVPNs.Known && !f.Links.Known {
		return notChecked(f.OtherVPNs.Why)
	}
	tun := tunOf(f)
	devices := make(map[string]bool)
	for _, l := range f.Links.Is {
		virtual := l.Kind == "wireguard" || l.Kind == "tun" || l.Kind == "tuntap" || l.Kind == "ppp"
		ours := l.Name == tun || strings.HasPrefix(l.Name, "penk") || slices.ContainsFunc(f.Routes.Is, func(r Route) bool { return r.Ours && r.Interface == l.Name })
		if virtual && l.Up && !l.InBridge && !ours {
			devices[l.Name] = true
		}
	}
	var hidden, all []string
	for _, o := range f.OtherVPNs.Is {
		if o.Interface == "" {
			continue
		}
		delete(devices, o.Interface)
		all = append(all, o.String())
		if f.ownsHost() && !f.isDirect(o) {
			hidden = append(hidden, o.String())
		}
	}
	for _, name := range slices.Sorted(maps.Keys(devices)) {
		all = append(all, "the interface "+name)
	}
	switch {
	case len(hidden) > 0:
		return warning("to reach hosts there, add a rule with that cidr and do: direct", "no rule lets flows go to %s", some(hidden))
	case len(all) > 0:
		return ok("found: %s", some(all))
	}
	return ok("none is found")
}

// isDirect reports whether a rule lets flows to the network of another VPN, or a part of it, leave directly.
func (f *Facts) isDirect(o direct.Other) bool {
	for _, r := range f.Config.Is.Rules {
		if r.Do.Action != "direct" {
			continue
		}
		if r.Match == nil || slices.ContainsFunc(r.Match.CIDR, func(text string) bool { return covers(text, o.Network) }) {
			return true
		}
	}
	return false
}

// covers reports whether a cidr of a rule has something of a network.
func covers(text string, network netip.Prefix) bool {
	if text == "private" {
		return network.Addr().IsPrivate() || netip.MustParsePrefix("100.64.0.0/10").Overlaps(network)
	}
	if p, err := netip.ParsePrefix(text); err == nil {
		return p.Overlaps(network)
	}
	a, err := netip.ParseAddr(text)
	return err == nil && network.Contains(a)
}
