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

// Flow holds the facts known about a flow when it is judged. A zero field is unknown, never a wildcard.
type Flow struct {
	Network Network
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
}

// Verdict is what a Policy decides about a Flow. The zero Verdict refuses.
type Verdict struct {
	Action   Action
	Egress   string // "direct", "dns", or the name of a transport or group; set with Forward only
	Rule     string // name of the deciding rule
	Category string // category that made the rule match, if one did
	// NeedsName says that a name learnt later could change the verdict: the flow is worth reading before it is dialled.
	NeedsName bool
}
