package firewall

import (
	"bytes"
	"encoding/binary"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/xt"
	"golang.org/x/sys/unix"
)

// Bar returns a base chain of another program's that may stop or change what the host forwards out of a TUN, or the answers to that, as
// Sieve does; "" if there is none. It follows the rules as far as it understands them: a chain that certainly lets all of these packets
// pass is none, whatever else it does. In the older filters any rule counts.
func Bar(tun string, index int, v4 bool) (string, error) {
	c, err := nftables.New()
	if err != nil {
		return "", err
	}
	chains, err := c.ListChains()
	if err != nil {
		return "", err
	}
	family, table, x := byte(unix.NFPROTO_IPV4), nftables.TableFamilyIPv4, xtables4
	if !v4 {
		family, table, x = unix.NFPROTO_IPV6, nftables.TableFamilyIPv6, xtables6
	}
	for _, chain := range chains {
		nat := chain.Type == nftables.ChainTypeNAT
		if chain.Hooknum == nil || !bars(*chain.Hooknum, nat) || strings.HasPrefix(chain.Table.Name, namePrefix) {
			continue
		}
		if chain.Table.Family != table && chain.Table.Family != nftables.TableFamilyINet {
			continue
		}
		for _, answers := range []bool{false, true} {
			if answers && nat { // only what begins a connection comes there
				continue
			}
			p := passage{conn: c, chains: chains, tun: tun, index: index, family: family, hook: *chain.Hooknum, answers: answers}
			dropped := chain.Policy != nil && *chain.Policy == nftables.ChainPolicyDrop
			if end := p.walk(chain.Table, chain.Name, 0); end == unsure || end == through && dropped {
				return "chain " + chain.Name + " of table " + chain.Table.Name, nil
			}
		}
	}
	return legacySieve(bars, x)
}

// bars reports whether rules at a hook count for Bar.
func bars(hook nftables.ChainHook, nat bool) bool {
	return hook != *nftables.ChainHookOutput && sifts(hook, nat)
}

// passage is how packets of ours pass a hook.
type passage struct {
	conn    *nftables.Conn
	chains  []*nftables.Chain
	tun     string
	index   int  // of the TUN
	family  byte // unix.NFPROTO_*
	hook    nftables.ChainHook
	answers bool // they go into the TUN; else they come out of it
}

// end is what becomes of them in a chain.
type end int

const (
	unsure   end = iota
	through      // all of them come to the end of the chain, or some, and the others are accepted
	accepted     // all of them
)

// answer says whether packets match.
type answer int

const (
	maybe answer = iota
	yes
	no
)

// is is yes for true.
func is(b bool) answer {
	if b {
		return yes
	}
	return no
}

// not turns an answer round.
func not(a answer) answer { return [...]answer{maybe: maybe, yes: no, no: yes}[a] }

// deepest bounds how far chains lead to others. The kernel's bound is 16.
const deepest = 16

// walk follows the packets through a chain.
func (p passage) walk(table *nftables.Table, name string, depth int) end {
	i := slices.IndexFunc(p.chains, func(c *nftables.Chain) bool {
		return c.Name == name && c.Table.Name == table.Name && c.Table.Family == table.Family
	})
	if i < 0 || depth > deepest {
		return unsure
	}
	rules, err := p.conn.GetRules(p.chains[i].Table, p.chains[i])
	if err != nil {
		return unsure // it has just been removed, or has what we cannot read
	}
	all := accepted // what it is if those that are left are accepted
	for _, r := range rules {
		match, verdict := p.judge(r.Exprs)
		if match == no || verdict == nil {
			continue
		}
		next := accepted
		switch verdict.Kind {
		case expr.VerdictAccept:
		case expr.VerdictReturn:
			next = through
		case expr.VerdictContinue:
			continue
		case expr.VerdictJump:
			if next = p.walk(table, verdict.Chain, depth+1); next == through {
				continue
			}
		case expr.VerdictGoto:
			next = p.walk(table, verdict.Chain, depth+1)
		default:
			return unsure
		}
		switch {
		case next == unsure:
			return unsure
		case match == yes:
			return min(all, next)
		}
		all = min(all, next)
	}
	return through
}

// judge says whether the packets match a rule, and what it does with them: nil for nothing that matters. The verdict of a rule that does
// something unknown is that of a drop. The library leaves out expressions that it does not know: a statement among them leaves a rule that
// does nothing, or that loads a register for it, and a comparison with what it has loaded is one with nothing.
func (p passage) judge(rule []expr.Any) (answer, *expr.Verdict) {
	doubt := &expr.Verdict{Kind: expr.VerdictDrop}
	match, verdict, harmless := yes, (*expr.Verdict)(nil), false
	var loaded value
	add := func(a answer) {
		switch {
		case a == no || match == no:
			match = no
		case a == maybe:
			match = maybe
		}
	}
	for _, e := range rule {
		switch e := e.(type) {
		case *expr.Counter:
		case *expr.Log:
			harmless = true
		case *expr.Meta:
			if e.SourceRegister {
				verdict = doubt
			}
			loaded = value{kind: ofMeta, meta: e.Key}
		case *expr.Ct:
			if e.SourceRegister {
				verdict = doubt
			}
			loaded = value{}
			if e.Key == expr.CtKeySTATE {
				loaded = value{kind: ofState, mask: ^uint32(0)}
			}
		case *expr.Fib:
			loaded = value{}
			if e.ResultADDRTYPE && e.FlagDADDR {
				loaded.kind = ofDestination
			}
		case *expr.Payload:
			if e.OperationType == expr.PayloadWrite {
				verdict = doubt
			}
			loaded = value{}
		case *expr.Bitwise:
			if loaded.kind == ofState && len(e.Mask) == 4 && len(e.Xor) == 4 && number(e.Xor) == 0 {
				loaded.mask &= number(e.Mask)
			} else {
				loaded = value{}
			}
		case *expr.Cmp:
			add(p.compare(loaded, e))
			loaded = value{}
		case *expr.Range:
			add(maybe)
			loaded = value{}
		case *expr.Lookup:
			add(maybe)
			if e.IsDestRegSet {
				verdict = doubt
			}
			loaded = value{}
		case *expr.Limit, *expr.Connlimit, *expr.Quota:
			add(maybe)
		case *expr.Match:
			add(p.matches(e))
		case *expr.Exthdr:
			harmless = harmless || e.SourceRegister != 0 // such as a smaller TCP segment
			loaded = value{}
		case *expr.Target:
			if slices.Contains([]string{"TCPMSS", "LOG", "NFLOG"}, e.Name) {
				harmless = true
			} else {
				verdict = doubt
			}
		case *expr.Verdict:
			if verdict == nil {
				verdict = e
			}
		default:
			verdict = doubt
		}
	}
	if verdict == nil && !harmless {
		verdict = doubt
	}
	return match, verdict
}

// value is what a rule compares, as far as we know it.
type value struct {
	kind int
	meta expr.MetaKey
	mask uint32 // of the state
}

// Kinds of values. 0 is one that we do not know.
const (
	_ = iota
	ofMeta
	ofState       // of the connection
	ofDestination // the type of the destination's address
)

func (p passage) compare(v value, c *expr.Cmp) answer {
	equal := maybe
	switch v.kind {
	case ofMeta:
		equal = p.compareMeta(v.meta, c.Data)
	case ofState:
		if len(c.Data) == 4 {
			equal = p.compareState(v.mask, number(c.Data))
		}
	case ofDestination: // what is for the host itself does not leave by the kernel
		if len(c.Data) == 4 && number(c.Data) == unix.RTN_LOCAL {
			equal = no
		}
	}
	switch c.Op {
	case expr.CmpOpEq:
		return equal
	case expr.CmpOpNeq:
		return not(equal)
	}
	return maybe
}

func (p passage) compareMeta(key expr.MetaKey, want []byte) answer {
	in := key == expr.MetaKeyIIFNAME || key == expr.MetaKeyIIF
	known := in != p.answers && (in || p.hook != *nftables.ChainHookPrerouting) // it is the TUN
	switch key {
	case expr.MetaKeyNFPROTO:
		return is(bytes.Equal(want, []byte{p.family}))
	case expr.MetaKeyIIFNAME, expr.MetaKeyOIFNAME:
		name := append([]byte(p.tun), make([]byte, unix.IFNAMSIZ)...)[:unix.IFNAMSIZ]
		ours := bytes.HasPrefix(name, want) // a name that ends with * is shorter
		switch {
		case known:
			return is(ours)
		case ours && len(want) == len(name) && (in || p.hook != *nftables.ChainHookPrerouting):
			return no
		}
	case expr.MetaKeyIIF, expr.MetaKeyOIF:
		if len(want) != 4 || p.index == 0 {
			return maybe
		}
		ours := int(number(want)) == p.index
		switch {
		case known:
			return is(ours)
		case ours && (in || p.hook != *nftables.ChainHookPrerouting):
			return no
		}
	}
	return maybe
}

// states are those that connections of the packets can have, if nobody prevents that they are tracked.
func (p passage) states() []uint32 {
	if p.answers {
		return []uint32{expr.CtStateBitESTABLISHED, expr.CtStateBitRELATED}
	}
	return []uint32{expr.CtStateBitNEW, expr.CtStateBitESTABLISHED, expr.CtStateBitRELATED}
}

// compareState says whether the masked state is a number.
func (p passage) compareState(mask, want uint32) answer {
	same := 0
	for _, s := range p.states() {
		if s&mask == want {
			same++
		}
	}
	switch same {
	case 0:
		return no
	case len(p.states()):
		return yes
	}
	return maybe
}

// matches says whether the packets match an extension of iptables.
func (p passage) matches(m *expr.Match) answer {
	switch info := m.Info.(type) {
	case *xt.ConntrackMtinfo1:
		return p.matchesState(info.MatchFlags, info.InvertFlags, uint32(info.StateMask))
	case *xt.ConntrackMtinfo2:
		return p.matchesState(info.MatchFlags, info.InvertFlags, uint32(info.StateMask))
	case *xt.ConntrackMtinfo3:
		return p.matchesState(info.MatchFlags, info.InvertFlags, uint32(info.StateMask))
	case *xt.AddrTypeV1:
		if info.Source == 0 && info.Dest == uint16(xt.AddrTypeLocal) && info.Flags == 0 {
			return no
		}
	case *xt.Comment:
		return yes
	}
	return maybe
}

func (p passage) matchesState(flags, invert uint16, mask uint32) answer {
	if flags&^uint16(xt.ConntrackState|xt.ConntrackStateAlias) != 0 {
		return maybe
	}
	in := not(p.compareState(mask, 0))
	if invert&uint16(xt.ConntrackState) != 0 {
		return not(in)
	}
	return in
}

func number(b []byte) uint32 { return binary.NativeEndian.Uint32(b) }
