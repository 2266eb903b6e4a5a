package hostnet

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"penstock/router/hostnet/internal/rtnl"
)

// rule is one policy routing rule (ip rule). The zero values of its selectors match everything.
type rule struct {
	Family      int          `json:"family"` // AF_INET or AF_INET6
	Priority    int          `json:"priority"`
	Mark        uint32       `json:"mark,omitempty"`
	Mask        uint32       `json:"mask,omitempty"`
	NotMarked   bool         `json:"not_marked,omitempty"` // every packet that has not Mark
	From        string       `json:"from,omitempty"`       // interface it came in by
	Out         string       `json:"out,omitempty"`        // interface that the lookup is bound to
	Src         netip.Prefix `json:"src,omitzero"`
	To          netip.Prefix `json:"to,omitzero"`
	SrcPort     uint16       `json:"src_port,omitempty"`
	DstPort     uint16       `json:"dst_port,omitempty"` // UDP unless TCP is set
	TCP         bool         `json:"tcp,omitempty"`
	Protocol    int          `json:"protocol,omitempty"` // IP protocol; 0 if there are ports
	Table       int          `json:"table,omitempty"`    // 0: unreachable
	SkipDefault bool         `json:"skip_default,omitempty"`
}

func (r *rule) stage() stage { return stageRule }
func (r *rule) key() any     { return *r }

func (r *rule) String() string {
	return fmt.Sprintf("rule %d of family %d to table %d", r.Priority, r.Family, r.Table)
}

func (r *rule) present(v *view) (bool, error) {
	list, err := v.rulesOf(r.Family)
	if err != nil {
		return false, err
	}
	for i := range list {
		if r.is(&list[i]) {
			return true, nil
		}
	}
	return false, nil
}

func (r *rule) make(k *kernel) error {
	err := k.nl.RuleAdd(r.netlink())
	if errors.Is(err, unix.EEXIST) {
		return nil
	}
	return err
}

func (r *rule) undo(k *kernel) error {
	if err := k.nl.RuleDel(r.netlink()); err != nil && !gone(err) {
		return err
	}
	return nil
}

func (r *rule) netlink() *netlink.Rule {
	n := netlink.NewRule()
	n.Family = r.Family
	n.Priority = r.Priority
	n.Protocol = RouteProtocol
	n.Table = r.Table
	n.IifName = r.From
	n.OifName = r.Out
	n.Invert = r.NotMarked
	if r.Mask != 0 {
		n.Mark, n.Mask = r.Mark, &r.Mask
	}
	n.IPProto = r.Protocol
	if r.Src.IsValid() {
		n.Src = rtnl.IPNet(r.Src)
	}
	if r.To.IsValid() {
		n.Dst = rtnl.IPNet(r.To)
	}
	if r.DstPort != 0 {
		n.IPProto = unix.IPPROTO_UDP
		if r.TCP {
			n.IPProto = unix.IPPROTO_TCP
		}
		n.Dport = netlink.NewRulePortRange(r.DstPort, r.DstPort)
	}
	if r.SrcPort != 0 {
		n.Sport = netlink.NewRulePortRange(r.SrcPort, r.SrcPort)
	}
	if r.SkipDefault {
		n.SuppressPrefixlen = 0
	}
	if r.Table == 0 {
		n.Type = unix.RTN_UNREACHABLE
	}
	return n
}

// is reports whether the kernel's rule is this one. The library does not return a rule's action: ours with table 0 is the
// unreachable one.
func (r *rule) is(n *netlink.Rule) bool {
	if n.Priority != r.Priority || n.Table != r.Table { // most are others: do not convert for them
		return false
	}
	w := r.netlink()
	return n.Priority == w.Priority && n.Protocol == w.Protocol && n.Table == w.Table &&
		n.Mark == w.Mark && maskOf(n) == maskOf(w) && n.Invert == w.Invert && n.IifName == w.IifName &&
		n.SuppressPrefixlen == w.SuppressPrefixlen && n.IPProto == w.IPProto &&
		samePorts(n.Sport, w.Sport) && samePorts(n.Dport, w.Dport) && sameNet(n.Src, r.Src, r.Family) && n.OifName == w.OifName && n.UIDRange == nil &&
		sameNet(n.Dst, r.To, r.Family)
}

// sameNet reports whether a rule's network is p. Both may be missing.
func sameNet(n *net.IPNet, p netip.Prefix, family int) bool {
	if n == nil || !p.IsValid() {
		return n == nil && !p.IsValid()
	}
	return rtnl.Prefix(n, family) == p
}

func maskOf(n *netlink.Rule) uint32 {
	if n.Mask == nil {
		return 0
	}
	return *n.Mask
}

func samePorts(a, b *netlink.RulePortRange) bool {
	if a == nil || b == nil {
		return a == b
	}
	return *a == *b
}

// ruleOf is the inverse of netlink.
func ruleOf(n *netlink.Rule, family int) *rule {
	r := &rule{
		Family: family, Priority: n.Priority, Mark: n.Mark, Mask: maskOf(n), NotMarked: n.Invert, From: n.IifName, Out: n.OifName,
		TCP: n.IPProto == unix.IPPROTO_TCP, Table: n.Table, SkipDefault: n.SuppressPrefixlen == 0,
	}
	if n.Src != nil {
		r.Src = rtnl.Prefix(n.Src, family)
	}
	if n.Dst != nil {
		r.To = rtnl.Prefix(n.Dst, family)
	}
	if n.Sport == nil && n.Dport == nil {
		r.TCP, r.Protocol = false, n.IPProto
	}
	if n.Sport != nil {
		r.SrcPort = n.Sport.Start
	}
	if n.Dport != nil {
		r.DstPort = n.Dport.Start
	}
	return r
}
