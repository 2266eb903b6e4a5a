package policy

import (
	"net/netip"
	"time"
)

// Action says what is done with a flow.
type Action uint8

// Actions. The zero Action fails closed.
const (
	Refuse  Action = iota // answered at once: TCP RST, ICMP unreachable, a DNS block answer
	Drop                  // discarded without an answer
	Forward               // dialled through Verdict.Egress
)

// Network is the kind of a flow.
type Network uint8

// The kinds of flow that the pipeline carries. The zero Network is unknown and matches no protocol condition.
const (
	NetworkUnknown Network = iota
	TCP
	UDP
	ICMP // echo request and its replies
)

// Source says where a name was learnt. Explanations and the flow log show it.
type Source uint8

// Sources of names. The client looked up FromDNS names before the flow; the flow itself showed those from SNI, HTTP and
// QUIC.
const (
	FromNowhere  Source = iota
	FromQuestion        // the name in the DNS question being judged
	FromDNS             // the client resolved this name to the flow's destination
	FromSNI             // TLS ClientHello
	FromHTTP            // Host header, absolute-form target, :authority or CONNECT
	FromQUIC            // ClientHello in a QUIC Initial
)

// Name is a canonical host name (lower case, A-labels, no trailing dot, no port) and where it was learnt.
type Name struct {
	Host string
	From Source
}

// Place says where a destination is, seen from the host that penstock runs on.
type Place uint8

// Places. Nothing leads to Inside, only a rule with Match.Peers to AtPeer, and only one with Match.Gateway to the last three.
const (
	Elsewhere Place = iota // the address of another host, as far as is known
	Inside                 // in one of penstock's own networks, where nobody answers: dialling it would come back here
	AtPeer                 // an address of a peer's, or in a network behind one
	Service                // an address on which penstock itself answers
	Host                   // an address of this machine
	Reserved               // loopback, link-local, multicast, or a cloud's metadata service: see iprange.IsReserved
)

// guarded reports whether only a rule with Match.Gateway leads there.
func (p Place) guarded() bool { return p >= Service }

// opens reports whether a matcher has Match.Gateway or Match.Peers and it is meant for a place.
func (m *matcher) opens(p Place) bool {
	if p == AtPeer {
		return m.peers
	}
	return m.gateway && p.guarded() && (p != Reserved || m.network)
}

// Portal is a captive portal that flows may reach outside the transports while it is open. Either Host or Addr identifies
// it.
type Portal struct {
	Host  string         // canonical; empty if the portal is known by its address
	Addr  netip.Addr     // invalid if the portal is known by its name
	Port  uint16         // of the page; 80 and 443 are open too
	Local []netip.Prefix // the access network's own networks: the only internal addresses that a portal may have
}

// Conditions are facts about this host and its network at the time a flow is judged. Rules say what follows from them. A
// Conditions that has been passed on is never changed.
type Conditions struct {
	Trusted bool    // on_demand trusts the current network
	Portal  *Portal // nil: no captive portal is open
	// Routes says what each transport is for, by its name, if its server has said so. One without an entry is for everything.
	Routes map[string]Routes
	// OverQuota has the names of the peers that have used up their quotas. They reach only penstock's DNS server, and what rules
	// open on the gateway itself.
	OverQuota map[string]bool
}

// Routes are the networks that a server wants reached through its transport. The longest prefix that contains an address
// decides.
type Routes struct {
	Inside  []netip.Prefix
	Outside []netip.Prefix // exceptions from Inside
}

// carry reports whether an address is reached through the transport.
func (r *Routes) carry(addr netip.Addr) bool {
	return longest(r.Inside, addr) > longest(r.Outside, addr)
}

// longest returns the length of the longest prefix that contains an address, or -1 if none does.
func longest(list []netip.Prefix, addr netip.Addr) int {
	addr, best := addr.Unmap().WithZone(""), -1
	for _, p := range list {
		if p.Contains(addr) {
			best = max(best, p.Bits())
		}
	}
	return best
}

// LeavesOut reports whether a transport's server does not want an address reached through it. An unknown address is not left
// out.
func (c *Conditions) LeavesOut(egress string, dst netip.Addr) bool {
	r, ok := c.Routes[egress]
	return ok && dst.IsValid() && !r.carry(dst)
}

// names reports whether a transport's server names a network that contains an address. A default
// route does not count, even as two halves such as 0.0.0.0/1.
func (c *Conditions) names(egress string, dst netip.Addr) bool {
	r, ok := c.Routes[egress]
	return ok && dst.IsValid() && r.carry(dst) && longest(r.Inside, dst) > 1
}

// Flow holds the facts known about a flow when it is judged. A zero field is unknown, never a wildcard.
type Flow struct {
	Network Network
	Place   Place          // where Dst is, seen from this host
	Client  uint64         // key of the sender, by which limits are counted; rules do not use it
	Src     netip.AddrPort // the client, as seen inside the tunnel or TUN
	Dst     netip.AddrPort // where the client sent it; invalid while only a DNS question is judged
	Names   []Name         // FromDNS names most recent first, then names from the flow in the order seen
	Peer    string         // name of the peer that sent it; empty on a laptop
	Groups  []string       // groups of that peer, and of who has signed in with it
	User    string         // who has signed in with that peer; empty: nobody
	UID     uint32         // owner of the local socket, with HasUID (Linux laptop only)
	HasUID  bool
	Process string // path of the local program, if known
	// Unit is the unit of systemd that the local program belongs to, without what changes at each start, and Container the ID or
	// name of its container, if known. UserUnit says that these names are the user's choice.
	Unit, Container string
	UserUnit        bool
	Sender          *Sender     // who sends it, as it is shown; rules do not use it
	Time            time.Time   // for schedules; if zero, they do not match
	Sniffed         bool        // the flow will show no further name
	Now             *Conditions // nil is the zero Conditions
	Down            string      // egress that was not up when the flow was dialled through it
}

// Later says what a name learnt later could change about a verdict.
type Later uint8

// Values of Later. With the zero value the verdict is final.
const (
	LaterNothing Later = iota
	LaterBlock         // the flow could be blocked; otherwise its egress stays
	LaterEgress        // the flow could take another egress, or be forwarded instead of blocked
)

// Cause says what shaped a verdict besides the deciding rule.
type Cause uint8

// Causes. ByRule is the rule alone.
const (
	ByRule     Cause = iota
	ByUnnamed        // the flow has no name, and the rule blocks unnamed flows
	BySpoof          // the flow shows a name that DNS did not give for its address, and all names that DNS gave are blocked
	ByTrusted        // the network is trusted, and the rule goes direct there
	ByPortal         // the flow goes to the open captive portal
	ByFallback       // the transport is not up, and the rule then goes direct
	ByRoutes         // the transport is not for this destination, and the rule then goes direct
	ByLoop           // the destination would lead back to penstock
	ByPeers          // the destination is a peer, and the rule does not have match.peers
	ByGuard          // the destination is this machine, or reserved, and the rule does not have match.gateway
	ByQuota          // the peer has used up its quota, and the rule would forward the flow
	BySignIn         // somebody must sign in first: see Do.SignIn
	ByDecision       // somebody has decided to block the name or its category: see WithDecisions
)

// Verdict is what a Policy decides about a Flow. The zero Verdict refuses.
type Verdict struct {
	Action Action
	Cause  Cause
	ByName bool // the deciding rule has a condition on the name or its category
	// Later says what a name learnt later could change, and so whether to read the flow for one before dialling.
	Later    Later
	Egress   string // "direct", "dns", or the name of a transport or group; set with Forward only
	Rule     string // name of the deciding rule
	Category string // category that made the rule match, if one did
	// Claim is a name that the flow shows, that DNS did not give for its destination, and that would change the verdict.
	// The verdict ignores it. The caller may look the name up, apply the answer with Flow.Confirmed, and decide again.
	Claim   string
	SignIn  string // URL of the page on which to sign in, with BySignIn
	Edition uint64 // number of the edition that decided; 0 if none
}
