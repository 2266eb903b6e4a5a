package firewall

import (
	"bytes"
	"errors"
	"net/netip"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Forwarding makes a Table the one of a TUN whose packets the host routes and masquerades.
type Forwarding struct {
	On       bool
	Networks []netip.Prefix // of the TUN: nobody else may send to them, and nothing may leave from them
	// Closed4 and Closed6 are the interfaces that would forward nothing without us: all of what comes in there and is no answer is
	// dropped, or the host would be a router for its neighbours.
	Closed4, Closed6 []string
	Probes           []netip.Addr // what is sent to these is counted, and dropped just before it would leave
}

// The chains whose rules count.
const (
	chainAdmit = "admit"
	chainLeave = "leave"
)

// forwarding are the chains of the table of a TUN whose packets are forwarded:
//
//	guard       drop packets for our networks that arrive by another interface
//	mark        mark what comes out of the TUN, as if it were sent by one of our sockets, and the answers to it, so that rules of another
//	            penstock on this host do not capture them
//	host        drop what comes out of the TUN for the host itself
//	admit       forward what comes out of the TUN, and the answers to it, and what another penstock forwards; nothing else into the
//	            TUN, or in by a closed interface
//	leave       drop probes
//	silent      drop what only a router says: to the neighbours behind a closed interface the host is none. The kernel says it before
//	            admit drops what it is about. What is about an answer to us goes out, such as that it is too big: an ICMP error has the
//	            connection of what it is about, which nothing confirms if that is dropped.
//	masquerade  give what comes out of the TUN the host's address
//	last        drop what still has an address of ours, and what is routed back by the closed bridge that it came in by
//
// What a bridge passes between its ports comes by admit like that: see bridge_linux.go.
//
// admit runs before the chains of others at the same hook, and leave after them, so that their counters of probes show whether others
// drop what we admit.
func (t Table) forwarding() []chain {
	accepts := nftables.ChainPolicyAccept
	named := func(name string, hook *nftables.ChainHook, priority nftables.ChainPriority) chain {
		return chain{Chain: baseChain(name, hook, &priority, accepts)}
	}
	in, out := isInterface(expr.MetaKeyIIFNAME, t.TUN), isInterface(expr.MetaKeyOIFNAME, t.TUN)
	guard := named("guard", nftables.ChainHookPrerouting, *nftables.ChainPriorityRaw)
	mark := named("mark", nftables.ChainHookPrerouting, *nftables.ChainPriorityMangle)
	host := named("host", nftables.ChainHookInput, *nftables.ChainPriorityFilter)
	admit := named(chainAdmit, nftables.ChainHookForward, *nftables.ChainPriorityFilter-1)
	leave := named(chainLeave, nftables.ChainHookPostrouting, *nftables.ChainPriorityNATSource-1)
	silent := named("silent", nftables.ChainHookOutput, *nftables.ChainPriorityFilter)
	masquerade := named("masquerade", nftables.ChainHookPostrouting, *nftables.ChainPriorityNATSource)
	masquerade.Type = nftables.ChainTypeNAT
	last := named("last", nftables.ChainHookPostrouting, *nftables.ChainPriorityConntrackHelper)

	for _, p := range t.Forward.Networks {
		guard.rules = append(guard.rules, rulesOf(destination(p), notInterface(expr.MetaKeyIIFNAME, t.TUN), notInterface(expr.MetaKeyIIFNAME, "lo"), drop()))
		last.rules = append(last.rules, rulesOf(from(p), notInterface(expr.MetaKeyOIFNAME, t.TUN), notInterface(expr.MetaKeyOIFNAME, "lo"), drop()))
	}
	if t.Mark != 0 {
		mark.rules = [][]expr.Any{
			rulesOf(in, t.setMark()),
			rulesOf(in, inState(expr.CtStateBitNEW), t.rememberMark()),
			rulesOf(notInterface(expr.MetaKeyIIFNAME, t.TUN), t.remembered(), t.setMark()),
		}
	}
	host.rules = [][]expr.Any{rulesOf(in, drop())}
	for _, a := range t.Forward.Probes {
		probe := rulesOf(in, destination(netip.PrefixFrom(a, a.BitLen())))
		admit.rules = append(admit.rules, rulesOf(probe, []expr.Any{&expr.Counter{}}, accept()))
		leave.rules = append(leave.rules, rulesOf(probe, drop()))
	}
	answers := inState(expr.CtStateBitESTABLISHED | expr.CtStateBitRELATED)
	admit.rules = append(admit.rules,
		rulesOf(in, out, drop()),
		rulesOf(in, inState(expr.CtStateBitINVALID), drop()), // it would leave with the address that it has
		rulesOf(in, accept()),
		rulesOf(out, answers, accept()),
		rulesOf(out, drop()),
	)
	if t.Mark != 0 { // another penstock's, and the answers to it: a neighbour's packets bear no mark
		admit.rules = append(admit.rules, rulesOf(t.marked(expr.MetaKeyMARK), accept()))
	}
	if t.Mark != 0 && len(t.Bridges) > 0 {
		last.rules = append(last.rules, rulesOf(t.marked(expr.MetaKeyMARK), accept()))
	}
	if len(t.Forward.Closed4)+len(t.Forward.Closed6) > 0 {
		silent.rules = [][]expr.Any{rulesOf(isTransport(unix.IPPROTO_TCP), accept()), rulesOf(isTransport(unix.IPPROTO_UDP), accept()), rulesOf(isConfirmed(), accept())}
	}
	for _, closed := range []struct {
		family, icmp byte
		names        []string
		ofRouters    []messages
	}{
		{unix.NFPROTO_IPV4, unix.IPPROTO_ICMP, t.Forward.Closed4, ofRouters4[:]},
		{unix.NFPROTO_IPV6, unix.IPPROTO_ICMPV6, t.Forward.Closed6, ofRouters6[:]},
	} {
		for _, name := range closed.names {
			rule := rulesOf(isProtocol(closed.family), isInterface(expr.MetaKeyIIFNAME, name))
			if slices.Contains(t.Bridges, name) {
				last.rules = append(last.rules, rulesOf(rule, isInterface(expr.MetaKeyOIFNAME, name), received(), drop()))
				rule = rulesOf(rule, notInterface(expr.MetaKeyOIFNAME, name))
			}
			admit.rules = append(admit.rules, rulesOf(rule, drop()))
			for _, m := range closed.ofRouters {
				silent.rules = append(silent.rules, rulesOf(m.match(closed.icmp), isInterface(expr.MetaKeyOIFNAME, name), drop()))
			}
		}
	}
	masquerade.rules = [][]expr.Any{rulesOf(in, []expr.Any{&expr.Masq{}})}
	return append(t.notes(), guard, mark, host, admit, leave, silent, masquerade, last)
}

// messages are ICMP messages of one type, with codes from one to another.
type messages struct{ kind, from, to byte }

// match matches such messages of a family.
func (m messages) match(protocol byte) []expr.Any {
	return rulesOf(isTransport(protocol), []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 0, Len: 2},
		&expr.Range{Op: expr.CmpOpEq, Register: 1, FromData: []byte{m.kind, m.from}, ToData: []byte{m.kind, m.to}},
	})
}

// What only routers say: that no way leads to a network or host (IPv6 hosts say so, too), that a packet is too big, that another router is
// nearer, and that no hop is left.
var (
	ofRouters4 = [...]messages{{3, 0, 1}, {3, 4, 4}, {5, 0, 255}, {11, 0, 0}}
	ofRouters6 = [...]messages{{2, 0, 255}, {137, 0, 255}, {3, 0, 0}}
)

// ForwardingTable is a table with Forward in the kernel.
type ForwardingTable struct {
	Name             string
	Closed4, Closed6 []string // as in Forwarding
	Notes            []string
}

// ForwardingTables returns the tables with Forward in the kernel that have our name; none if the kernel has no nftables.
func ForwardingTables() ([]ForwardingTable, error) {
	chains, c, err := ourChains(chainAdmit)
	if err != nil {
		return nil, err
	}
	var list []ForwardingTable
	for _, chain := range chains {
		rules, err := c.GetRules(chain.Table, chain)
		if err != nil {
			return nil, err
		}
		t := ForwardingTable{Name: chain.Table.Name, Notes: notesIn(c, chain.Table)}
		for _, r := range rules {
			switch family, name := closes(r.Exprs); family {
			case unix.NFPROTO_IPV4:
				t.Closed4 = append(t.Closed4, name)
			case unix.NFPROTO_IPV6:
				t.Closed6 = append(t.Closed6, name)
			}
		}
		list = append(list, t)
	}
	return list, nil
}

// closes returns the family and the interface that a rule of admit closes: see forwarding. family is 0 for another rule.
func closes(rule []expr.Any) (family byte, name string) {
	if len(rule) < 4 {
		return 0, ""
	}
	protocol, ok1 := rule[0].(*expr.Meta)
	is, ok2 := rule[1].(*expr.Cmp)
	in, ok3 := rule[2].(*expr.Meta)
	named, ok4 := rule[3].(*expr.Cmp)
	if !ok1 || !ok2 || !ok3 || !ok4 || protocol.Key != expr.MetaKeyNFPROTO || in.Key != expr.MetaKeyIIFNAME || len(is.Data) != 1 {
		return 0, ""
	}
	return is.Data[0], string(bytes.TrimRight(named.Data, "\x00"))
}

// Sieve returns a base chain of another program's that sees what the host forwards or what it sends, and so may treat the one otherwise
// than the other, as "chain CHAIN of table TABLE"; "" if there is none. One without rules that lets everything pass is none.
func Sieve() (string, error) {
	c, err := nftables.New()
	if err != nil {
		return "", err
	}
	chains, err := c.ListChains()
	if err != nil {
		return "", err
	}
	for _, chain := range chains {
		if chain.Hooknum == nil || !sifts(*chain.Hooknum, chain.Type == nftables.ChainTypeNAT) || strings.HasPrefix(chain.Table.Name, namePrefix) {
			continue
		}
		switch chain.Table.Family {
		case nftables.TableFamilyIPv4, nftables.TableFamilyIPv6, nftables.TableFamilyINet:
		default:
			continue
		}
		rules, err := c.GetRules(chain.Table, chain)
		if err != nil || len(rules) > 0 || chain.Policy != nil && *chain.Policy == nftables.ChainPolicyDrop {
			return "chain " + chain.Name + " of table " + chain.Table.Name, nil
		}
	}
	return legacySieve(sifts, xtables4, xtables6)
}

// sifts reports whether rules at a hook count for Sieve. Those for what the host receives do not, nor does NAT of what leaves: forwarded or
// sent, it passes there alike.
func sifts(hook nftables.ChainHook, nat bool) bool {
	switch hook {
	case *nftables.ChainHookPrerouting, *nftables.ChainHookForward, *nftables.ChainHookOutput:
		return true
	case *nftables.ChainHookPostrouting:
		return !nat
	}
	return false
}

// Probed returns how many packets to each of the Probes were admitted, and how many of those came as far as the end, since the table
// of the TUN was made.
func Probed(tun string) (admitted, left []uint64, err error) {
	c, err := nftables.New()
	if err != nil {
		return nil, nil, err
	}
	table := &nftables.Table{Name: Name(tun), Family: nftables.TableFamilyINet}
	for name, counts := range map[string]*[]uint64{chainAdmit: &admitted, chainLeave: &left} {
		rules, err := c.GetRules(table, &nftables.Chain{Name: name, Table: table})
		if err != nil {
			return nil, nil, err
		}
		for _, r := range rules {
			for _, e := range r.Exprs {
				if counter, ok := e.(*expr.Counter); ok {
					*counts = append(*counts, counter.Packets)
				}
			}
		}
	}
	if len(admitted) < len(left) {
		return nil, nil, errors.New("the nftables table of penstock is not as it was made")
	}
	return admitted[:len(left)], left, nil // the probes come first
}
