package hostnet

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"golang.org/x/sys/unix"
)

// nftSetVersion changes with the rules that chains makes of the same settings.
const nftSetVersion = 2

// nftTable is our nftables table, replaced as a whole in one transaction. Only the name is in the
// journal: undoing it is deleting the table.
type nftTable struct {
	Name string `json:"name"`

	tun         string
	mark, mask  uint32
	own         []netip.Addr   // dropped when they arrive by another interface
	admit       []netip.Prefix // may leave unmarked
	lan         []netip.Prefix // may, but for questions
	captured    []netip.Prefix // may not; with lockdown nothing may
	lockdown    bool
	restoreMark bool // give the mark to answers too, for a strict reverse path filter
}

// tableName is the table of a TUN: two penstocks with two TUNs do not share one.
func tableName(tun string) string {
	return "penstock_" + strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' {
			return r
		}
		return '_'
	}, tun)
}

// nftKey is the name of the table.
type nftKey string

func (t *nftTable) stage() stage { return stageNft }
func (t *nftTable) key() any     { return nftKey(t.Name) }
func (t *nftTable) entry() entry { return entry{Nft: t} }

func (t *nftTable) String() string { return "nft table inet " + t.Name }

// bearable: without lockdown the rules alone close what is captured, but for sockets bound to an
// interface, so a kernel built without nftables is put up with.
func (t *nftTable) bearable(err error) bool {
	return !t.lockdown && (errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EPROTONOSUPPORT) || errors.Is(err, unix.ENOENT))
}

// present compares what can be listed: chains, hooks, policies, and the comment of every rule, which
// carries a digest of the whole set.
func (t *nftTable) present(*view) (bool, error) {
	c, err := nftables.New()
	if err != nil {
		return false, err
	}
	list, err := c.ListChainsOfTableFamily(nftables.TableFamilyINet)
	if err != nil {
		return false, nil // no nftables here: make will say so
	}
	found := make(map[string]*nftables.Chain)
	for _, chain := range list {
		if chain.Table.Name == t.Name {
			found[chain.Name] = chain
		}
	}
	want, comments := t.chains(), t.comments()
	if len(found) != len(want) {
		return false, nil
	}
	for _, w := range want {
		f := found[w.Name]
		if f == nil || f.Hooknum == nil || *f.Hooknum != *w.Hooknum || f.Policy == nil || *f.Policy != *w.Policy {
			return false, nil
		}
		rules, err := c.GetRules(f.Table, f)
		if err != nil || len(rules) != len(w.rules) {
			return false, nil // went away while it was listed, or was changed
		}
		for i, r := range rules {
			comment, _ := userdata.GetString(r.UserData, userdata.TypeComment)
			if comment != comments(i) {
				return false, nil
			}
		}
	}
	return true, nil
}

func (t *nftTable) make(*kernel) error {
	c, err := nftables.New()
	if err != nil {
		return err
	}
	table := &nftables.Table{Name: t.Name, Family: nftables.TableFamilyINet}
	c.AddTable(table) // so that the deletion finds one
	c.DelTable(table)
	c.AddTable(table)
	comments := t.comments()
	for _, chain := range t.chains() {
		chain.Table = table
		c.AddChain(&chain.Chain)
		for i, exprs := range chain.rules {
			c.AddRule(&nftables.Rule{
				Table:    table,
				Chain:    &chain.Chain,
				Exprs:    exprs,
				UserData: userdata.AppendString(nil, userdata.TypeComment, comments(i)),
			})
		}
	}
	return c.Flush()
}

func (t *nftTable) undo(*kernel) error {
	c, err := nftables.New()
	if err != nil {
		return err
	}
	c.DelTable(&nftables.Table{Name: t.Name, Family: nftables.TableFamilyINet})
	if err := c.Flush(); err != nil && !gone(err) && !errors.Is(err, unix.EPROTONOSUPPORT) {
		return err
	}
	return nil
}

// comments returns the comment of the i-th rule of each chain.
func (t *nftTable) comments() func(i int) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%d %+v", nftSetVersion, *t))
	digest := hex.EncodeToString(sum[:6])
	return func(i int) string { return fmt.Sprintf("penstock %s %d", digest, i) }
}

// nftChain is one base chain with its rules.
type nftChain struct {
	nftables.Chain
	rules [][]expr.Any
}

// chains is the set:
//
//	guard    drop what arrives for our TUN's addresses by another interface
//	restore  give the mark back to answers of marked packets (only with restoreMark)
//	egress   admit loopback, the TUN, marked packets, DHCP, neighbour discovery, admitted prefixes and, but
//	         for DNS, the LAN; drop captured prefixes, or everything with lockdown
//
// egress stands at postrouting, where forwarded packets pass as well, and it is what stops a socket
// bound to an interface: for those IPv4 ignores an unreachable rule and takes the destination for a
// neighbour (ip_route_output_key_hash_rcu, "routing tables are wrong", Linux 6.18).
func (t *nftTable) chains() []nftChain {
	guard := nftChain{Chain: baseChain("guard", nftables.ChainHookPrerouting, nftables.ChainPriorityRaw, nftables.ChainPolicyAccept)}
	for _, addr := range t.own {
		guard.rules = append(guard.rules, rulesOf(notInterface(expr.MetaKeyIIFNAME, t.tun), notInterface(expr.MetaKeyIIFNAME, "lo"),
			destination(netip.PrefixFrom(addr, addr.BitLen())), drop()))
	}
	if len(t.captured) == 0 && !t.lockdown {
		return []nftChain{guard}
	}

	policy := nftables.ChainPolicyAccept
	if t.lockdown {
		policy = nftables.ChainPolicyDrop
	}
	egress := nftChain{Chain: baseChain("egress", nftables.ChainHookPostrouting, nftables.ChainPriorityConntrackHelper, policy)}
	add := func(parts ...[]expr.Any) { egress.rules = append(egress.rules, rulesOf(parts...)) }
	add(isInterface(expr.MetaKeyOIFNAME, "lo"), accept())
	add(isInterface(expr.MetaKeyOIFNAME, t.tun), accept())
	add(isInterface(expr.MetaKeyIIFNAME, t.tun), accept())
	if t.restoreMark {
		add(t.marked(expr.MetaKeyMARK), t.rememberMark())
	}
	add(t.marked(expr.MetaKeyMARK), accept())
	add(udpPorts(unix.NFPROTO_IPV4, 68, 67), accept())
	add(udpPorts(unix.NFPROTO_IPV6, 546, 547), accept())
	add(icmp6Types(133, 137), accept()) // neighbour discovery
	add(icmp6Types(131, 132), accept()) // multicast listener reports, without which
	add(icmp6Types(143, 143), accept()) // switches withhold neighbour solicitations
	for _, p := range t.admit {
		add(destination(p), accept())
	}
	if len(t.lan) > 0 {
		add(toPort(unix.IPPROTO_UDP, dnsPort), drop())
		add(toPort(unix.IPPROTO_TCP, dnsPort), drop())
	}
	for _, p := range t.lan {
		add(destination(p), accept())
	}
	if t.lockdown {
		add(drop())
	} else {
		for _, p := range t.captured {
			add(destination(p), drop())
		}
	}
	if !t.restoreMark {
		return []nftChain{guard, egress}
	}
	restore := nftChain{Chain: baseChain("restore", nftables.ChainHookPrerouting, nftables.ChainPriorityMangle, nftables.ChainPolicyAccept)}
	restore.rules = [][]expr.Any{rulesOf(notInterface(expr.MetaKeyIIFNAME, t.tun), t.remembered(), t.setMark())}
	return []nftChain{guard, restore, egress}
}

func baseChain(name string, hook *nftables.ChainHook, priority *nftables.ChainPriority, policy nftables.ChainPolicy) nftables.Chain {
	return nftables.Chain{Name: name, Type: nftables.ChainTypeFilter, Hooknum: hook, Priority: priority, Policy: &policy}
}
