package policy

import (
	"net/netip"
	"time"
)

// Action says what is done with a flow.
type Action uint8

// The zero Action fails closed.
const (
	Refuse  Action = iota // answered at once: TCP RST, ICMP unreachable, a DNS block answer
	Drop                  // met with silence
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

// Source says where a name was learnt. Provenance is kept apart all the way to explain and the flow log.
type Source uint8

// Sources of names. FromDNS names were asked for by the client before the flow; the others were read in the flow itself.
const (
	FromNowhere  Source = iota
	FromQuestion        // the name of a DNS question that is being judged itself
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

// Place says what a destination is to the host that penstock runs on.
type Place uint8

// Places. Only a rule with Match.Gateway leads to the last three.
const (
	Elsewhere Place = iota // somebody else's address, as far as is known
	Inside                 // in one of penstock's own networks, where nobody answers: dialling it would come back here
	Service                // an address on which penstock itself answers
	Host                   // an address of this machine
	Reserved               // loopback, link-local, multicast, or a cloud's metadata service: see iprange.IsReserved
)

// guarded says that only a rule with Match.Gateway leads there.
func (p Place) guarded() bool { return p >= Service }

// Portal is a captive portal that may be reached outside the transports for a while. It is told apart by a name or by an
// address.
type Portal struct {
	Host  string         // canonical; empty if the portal is known by its address
	Addr  netip.Addr     // invalid if the portal is known by its name
	Port  uint16         // of the page, beside 80 and 443
	Local []netip.Prefix // the access network's own networks: the only internal addresses that a portal may have
}

// Conditions are what is true of this host and its network while a flow is judged. They are facts like any other: rules
// say what follows from them. A value that was handed out is never changed.
type Conditions struct {
	Trusted bool    // on_demand trusts the network that the host is in
	Portal  *Portal // nil: no captive portal may be reached
}

// Flow holds the facts known about a flow when it is judged. A zero field is unknown, never a wildcard.
type Flow struct {
	Network Network
	Place   Place          // what Dst is to this host
	Client  uint64         // key of whoever sent it; what belongs to a client is counted by it. No rule looks at it
	Src     netip.AddrPort // the client, as seen inside the tunnel or TUN
	Dst     netip.AddrPort // where the client sent it; invalid while only a DNS question is judged
	Names   []Name         // FromDNS names most recent first, then names from the flow in the order seen
	Peer    string         // configured name of the peer that sent it; empty on a laptop
	Groups  []string       // groups of that peer
	UID     uint32         // owner of the local socket, with HasUID (Linux laptop only)
	HasUID  bool
	Process string    // path of the local program, if known
	Time    time.Time // for schedules; zero means that schedules do not match
	// Sniffed says that the flow has been read for a name and that no further name will come.
	Sniffed bool
	Now     *Conditions // nil is the zero Conditions
	Down    string      // egress that turned out not to be up when the flow was dialled through it
}

// Later says what a name learnt later could change about a verdict.
type Later uint8

// The zero Later makes a verdict final.
const (
	LaterNothing Later = iota
	LaterBlock         // the flow could be blocked, and stays on its way otherwise
	LaterEgress        // the flow could go another way, or pass where it is blocked now
)

// Cause says what made a verdict beside the rule that decided.
type Cause uint8

// Causes. ByRule is the rule alone.
const (
	ByRule     Cause = iota
	ByUnnamed        // the flow has no name, and the rule blocks unnamed flows
	BySpoof          // the flow names a host that DNS did not give for its address; all names that DNS gave are blocked
	ByTrusted        // the network is trusted, and the rule goes direct there
	ByPortal         // the flow goes to a captive portal that may be reached
	ByFallback       // the transport is not up, and the rule goes direct then
	ByLoop           // the destination would lead back to penstock
	ByGuard          // the destination is this machine, or reserved, and the rule does not have match.gateway
)

// Verdict is what a Policy decides about a Flow. The zero Verdict refuses.
type Verdict struct {
	Action Action
	Cause  Cause
	ByName bool // the deciding rule has a condition on the name or its category
	// Later says what a name learnt later could change: whether the flow is worth reading before it is dialled.
	Later    Later
	Egress   string // "direct", "dns", or the name of a transport or group; set with Forward only
	Rule     string // name of the deciding rule
	Category string // category that made the rule match, if one did
	// Claim is a name that the flow shows and that DNS did not give for its destination, if the verdict were another one
	// were the name true. The verdict does not count it. Who asks our resolver for it, and adds what it gives to the facts,
	// may judge again.
	Claim   string
	Edition uint64 // number of the edition that judged; 0 without one
}
