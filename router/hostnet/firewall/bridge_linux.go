package firewall

import (
	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// With br_netfilter, which Docker loads, the frames that a bridge passes between its ports come by the hooks for IP packets too
// (net.bridge.bridge-nf-call-iptables). They must pass, and this is how the kernel shows them (net/bridge/br_netfilter_hooks.c,
// Linux 6.18):
//
//	                                         forward        postrouting
//	between ports of br0                     br0 to br0     out by br0, in by none, with the frame's header
//	routed from br0 back to br0              br0 to br0     out by br0, in by br0, with the header of the frame it came in
//	sent by the host                         never          out by br0, in by none, without a header
//	neighbour discovery by the host          never          out by br0, in by br0, without a header
//
// So only postrouting tells what a bridge passes. The kernel's IPsec alone leaves something in the place of a header: see etherTypes.

// etherTypes are those of the frames that pass: IPv4, IPv6, and either of them with a VLAN tag
// (net.bridge.bridge-nf-filter-vlan-tagged). What IPsec leaves in that place is bytes of the source address, of the ports (port 4500 has
// none of these values) or of the number of the association, of which 3 in 65536 have one of them (net/xfrm/xfrm_output.c).
var etherTypes = []uint16{unix.ETH_P_IP, unix.ETH_P_IPV6, unix.ETH_P_8021Q}

// chainBridged admits what leaves by one of the bridges. It is a chain of its own so that other packets meet no rule for each of them.
const chainBridged = "bridged"

func (t Table) bridged() chain {
	bridged := chain{Chain: nftables.Chain{Name: chainBridged}}
	for _, name := range t.Bridges {
		bridged.rules = append(bridged.rules, rulesOf(isInterface(expr.MetaKeyOIFNAME, name), accept()))
	}
	return bridged
}

func jump(to string) []expr.Any { return []expr.Any{&expr.Verdict{Kind: expr.VerdictJump, Chain: to}} }

// fromNowhere matches packets that came in by no interface.
func fromNowhere() []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyIIF, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: make([]byte, 4)},
	}
}

// received matches packets with the header of a frame, and puts its type into register 1.
func received() []expr.Any {
	return []expr.Any{&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseLLHeader, Offset: 12, Len: 2}}
}

// isEtherType is for use after received.
func isEtherType(kind uint16) []expr.Any {
	return []expr.Any{&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.BigEndian.PutUint16(kind)}}
}
