package firewall

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"golang.org/x/sys/unix"
)

// version changes with the rules that chains makes of the same Table.
const version = 7

// dnsPort is where questions go. A LAN's own resolver is not asked: it would learn every name, and its answers would get
// past the filter.
const dnsPort = 53

// Table is the table of one TUN. It is replaced as a whole, in one transaction.
type Table struct {
	TUN         string
	Mark, Mask  uint32         // of our own packets
	Own         []netip.Addr   // dropped if they arrive by another interface, or leave by one
	Admit       []netip.Prefix // may be sent to without the mark
	LAN         []netip.Prefix // may be sent to as well, but not to port 53
	Captured    []netip.Prefix // may not be sent to; with Lockdown nothing else may either
	Lockdown    bool
	RestoreMark bool // mark answers too, for a strict reverse path filter
	// Bridges are the bridges of the host. What they pass between their ports is not the host's, such as the packets of a virtual
	// machine that has an address of its own in the network outside.
	Bridges []string
	// Notes are kept in the kernel as long as the table. They change no packet. Those that are too long are left out.
	Notes   []string
	Forward Forwarding
}

const namePrefix = "penstock_"

// Name returns the name of the table of a TUN, so that two penstocks with two TUNs do not share one.
func Name(tun string) string {
	return namePrefix + strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' {
			return r
		}
		return '_'
	}, tun)
}

// Present reports whether the table is in the kernel as it should be. It compares chains, hooks and policies, and the
// comment of every rule, which carries a digest of the whole table.
func (t Table) Present() (bool, error) {
	c, err := nftables.New()
	if err != nil {
		return false, err
	}
	list, err := c.ListChainsOfTableFamily(nftables.TableFamilyINet)
	if err != nil {
		return false, nil // no nftables here: Apply says so
	}
	found := make(map[string]*nftables.Chain)
	for _, chain := range list {
		if chain.Table.Name == Name(t.TUN) {
			found[chain.Name] = chain
		}
	}
	want, comments := t.chains(), t.comments()
	if len(found) != len(want) {
		return false, nil
	}
	for _, w := range want {
		f := found[w.Name]
		if f == nil || w.Hooknum != nil && (f.Hooknum == nil || *f.Hooknum != *w.Hooknum || f.Policy == nil || *f.Policy != *w.Policy) {
			return false, nil
		}
		rules, err := c.GetRules(f.Table, f)
		if err != nil || len(rules) != len(w.rules) {
			return false, nil // it was removed while it was listed, or was changed
		}
		for i, r := range rules {
			comment, _ := userdata.GetString(r.UserData, userdata.TypeComment)
			if comment != comments(i)+w.note(i) {
				return false, nil
			}
		}
	}
	return true, nil
}

// Apply puts the table into the kernel, in place of what is there under its name.
func (t Table) Apply() error {
	c, err := nftables.New(nftables.WithSockOptions(roomy))
	if err != nil {
		return err
	}
	table := &nftables.Table{Name: Name(t.TUN), Family: nftables.TableFamilyINet}
	c.AddTable(table) // DelTable fails without one
	c.DelTable(table)
	c.AddTable(table)
	comments := t.comments()
	for _, ch := range t.chains() {
		ch.Table = table
		c.AddChain(&ch.Chain)
		for i, exprs := range ch.rules {
			c.AddRule(&nftables.Rule{
				Table:    table,
				Chain:    &ch.Chain,
				Exprs:    exprs,
				UserData: userdata.AppendString(nil, userdata.TypeComment, comments(i)+ch.note(i)),
			})
		}
	}
	return c.Flush()
}

// roomy makes room for a table with many rules: it is sent as one message, and the answers to all rules come before the first is read.
func roomy[C interface {
	SetReadBuffer(bytes int) error
	SetWriteBuffer(bytes int) error
}](conn C) error {
	const room = 8 << 20 // bytes
	return errors.Join(conn.SetReadBuffer(room), conn.SetWriteBuffer(room))
}

// Found is a table of ours in the kernel.
type Found struct {
	Name, TUN string // TUN has underscores in place of other signs than letters and digits
	Lockdown  bool   // what it does not admit is dropped
	Closes    bool   // it drops something that leaves by another interface than TUN
	Notes     []string
}

// Tables returns the tables in the kernel that have our name; none if the kernel has no nftables.
func Tables() ([]Found, error) {
	chains, c, err := ourChains("egress")
	if err != nil {
		return nil, err
	}
	var list []Found
	for _, chain := range chains {
		tun := strings.TrimPrefix(chain.Table.Name, namePrefix)
		rules, _ := c.GetRules(chain.Table, chain) // none if it has just been removed
		// Only a table that closes something admits what comes in by the TUN.
		closes := slices.ContainsFunc(rules, func(r *nftables.Rule) bool {
			in, ok := first(r.Exprs).(*expr.Meta)
			return ok && in.Key == expr.MetaKeyIIFNAME
		})
		list = append(list, Found{chain.Table.Name, tun, chain.Policy != nil && *chain.Policy == nftables.ChainPolicyDrop, closes, notesIn(c, chain.Table)})
	}
	return list, nil
}

// first returns the first expression of a rule, or nil.
func first(rule []expr.Any) expr.Any {
	if len(rule) == 0 {
		return nil
	}
	return rule[0]
}

// ourChains returns the chains with a name in tables that have our name, and what lists their rules; none if the kernel has no nftables.
func ourChains(name string) ([]*nftables.Chain, *nftables.Conn, error) {
	c, err := nftables.New()
	if err != nil {
		return nil, nil, err
	}
	chains, err := c.ListChainsOfTableFamily(nftables.TableFamilyINet)
	switch {
	case errors.Is(err, unix.EPERM): // there may be some
		return nil, nil, err
	case err != nil:
		return nil, c, nil // no nftables here
	}
	return slices.DeleteFunc(chains, func(chain *nftables.Chain) bool {
		return chain.Name != name || !strings.HasPrefix(chain.Table.Name, namePrefix)
	}), c, nil
}

// Remove deletes the table with the name, if there is one.
func Remove(name string) error {
	c, err := nftables.New()
	if err != nil {
		return err
	}
	c.DelTable(&nftables.Table{Name: name, Family: nftables.TableFamilyINet})
	if err := c.Flush(); err != nil && !errors.Is(err, unix.ENOENT) && !IsUnsupported(err) {
		return err
	}
	return nil
}

// IsUnsupported reports whether err says that the kernel was built without nftables, or without a part that we use.
func IsUnsupported(err error) bool {
	return errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EPROTONOSUPPORT) || errors.Is(err, unix.EAFNOSUPPORT)
}

// comments returns the comment of the i-th rule of each chain.
func (t Table) comments() func(i int) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%d %+v", version, t))
	digest := hex.EncodeToString(sum[:6])
	return func(i int) string { return fmt.Sprintf("penstock %s %d", digest, i) }
}

// chain is one chain with its rules: a base chain, or one that another, after it, jumps to.
type chain struct {
	nftables.Chain
	rules [][]expr.Any
	notes []string // of the rules, if they have any
}

// chains are the chains of the table:
//
//	notes    hold Notes: nothing leads here (only with Notes)
//	guard    drop packets for our TUN's addresses that arrive by another interface
//	bridged  admit what leaves by Bridges, of what egress leads here (only with Bridges)
//	restore  mark the answers to marked packets (only with RestoreMark)
//	egress   admit loopback, the TUN and what Bridges pass, drop what comes from Own; admit marked packets, DHCP, neighbour discovery, Admit
//	         and, but for DNS, LAN; then drop Captured, or everything with Lockdown
//
// egress hooks into postrouting, which forwarded packets pass too. It is what stops a socket that is bound to an
// interface: for those IPv4 ignores an unreachable rule and treats the destination as a neighbour
// (ip_route_output_key_hash_rcu, "routing tables are wrong", Linux 6.18).
func (t Table) chains() []chain {
	if t.Forward.On {
		return t.forwarding()
	}
	guard := chain{Chain: baseChain("guard", nftables.ChainHookPrerouting, nftables.ChainPriorityRaw, nftables.ChainPolicyAccept)}
	for _, addr := range t.Own {
		guard.rules = append(guard.rules, rulesOf(destination(netip.PrefixFrom(addr, addr.BitLen())),
			notInterface(expr.MetaKeyIIFNAME, t.TUN), notInterface(expr.MetaKeyIIFNAME, "lo"), drop()))
	}
	policy := nftables.ChainPolicyAccept
	if t.Lockdown {
		policy = nftables.ChainPolicyDrop
	}
	egress := chain{Chain: baseChain("egress", nftables.ChainHookPostrouting, nftables.ChainPriorityConntrackHelper, policy)}
	add := func(parts ...[]expr.Any) { egress.rules = append(egress.rules, rulesOf(parts...)) }
	add(isInterface(expr.MetaKeyOIFNAME, "lo"), accept())
	add(isInterface(expr.MetaKeyOIFNAME, t.TUN), accept())
	chains := append(t.notes(), guard)
	if len(t.Bridges) > 0 {
		chains = append(chains, t.bridged())
		for _, kind := range etherTypes {
			add(fromNowhere(), received(), isEtherType(kind), jump(chainBridged))
		}
	}
	// What has the TUN's address answers a packet out of it, such as the kernel's "port unreachable" to a resolver's late
	// answer. Outside the TUN, that would show the answer to the network.
	for _, addr := range t.Own {
		add(source(addr), drop())
	}
	if len(t.Captured) == 0 && !t.Lockdown {
		return append(chains, egress)
	}
	add(isInterface(expr.MetaKeyIIFNAME, t.TUN), accept())
	if t.RestoreMark {
		add(t.marked(expr.MetaKeyMARK), t.rememberMark())
	}
	add(t.marked(expr.MetaKeyMARK), accept())
	add(udpPorts(unix.NFPROTO_IPV4, 68, 67), accept())
	add(udpPorts(unix.NFPROTO_IPV6, 546, 547), accept())
	add(icmp6Types(133, 137), accept()) // neighbour discovery
	add(icmp6Types(131, 132), accept()) // multicast listener reports: without them
	add(icmp6Types(143, 143), accept()) // switches withhold neighbour solicitations
	for _, p := range t.Admit {
		add(destination(p), accept())
	}
	if len(t.LAN) > 0 {
		add(toPort(unix.IPPROTO_UDP, dnsPort), drop())
		add(toPort(unix.IPPROTO_TCP, dnsPort), drop())
	}
	for _, p := range t.LAN {
		add(destination(p), accept())
	}
	if t.Lockdown {
		add(drop())
	} else {
		for _, p := range t.Captured {
			add(destination(p), drop())
		}
	}
	if !t.RestoreMark {
		return append(chains, egress)
	}
	restore := chain{Chain: baseChain("restore", nftables.ChainHookPrerouting, nftables.ChainPriorityMangle, nftables.ChainPolicyAccept)}
	restore.rules = [][]expr.Any{rulesOf(notInterface(expr.MetaKeyIIFNAME, t.TUN), t.remembered(), t.setMark())}
	return append(chains, restore, egress)
}

func baseChain(name string, hook *nftables.ChainHook, priority *nftables.ChainPriority, policy nftables.ChainPolicy) nftables.Chain {
	return nftables.Chain{Name: name, Type: nftables.ChainTypeFilter, Hooknum: hook, Priority: priority, Policy: &policy}
}
