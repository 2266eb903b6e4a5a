package policy

import (
	"fmt"

	"penstock/policy/blocklist"
)

// Config is what New compiles into a Policy.
type Config struct {
	Rules []Rule // first match wins; the last one has no match

	// Lists returns the current category lists. It is called once per decision and must not block. If Lists is nil or
	// returns nil, no name and no address is in any category.
	Lists func() *blocklist.Set

	Categories []string // categories that rules may name
	Egresses   []string // transports and transport groups that rules may name, besides "direct" and "dns"
	Peers      []string // peers that rules may name
}

// Names of the egresses that every configuration has.
const (
	EgressDirect = "direct"  // the host's own network
	EgressDNS    = "dns"     // the embedded DNS server
	EgressPeers  = "peers"   // the peers of the gateway
	EgressSignIn = "sign_in" // the page on which peers sign in
)

// Position is where a rule or test row was written. The zero Position is unknown.
type Position struct {
	File   string `json:"file,omitempty"`
	Line   int    `json:"line,omitempty"`   // from 1
	Column int    `json:"column,omitempty"` // from 1
}

// String returns file:line:column, or as much of it as is known.
func (p Position) String() string {
	switch {
	case p.File == "" && p.Line == 0:
		return ""
	case p.Line == 0:
		return p.File
	case p.File == "":
		return fmt.Sprintf("line %d", p.Line)
	case p.Column == 0:
		return fmt.Sprintf("%s:%d", p.File, p.Line)
	}
	return fmt.Sprintf("%s:%d:%d", p.File, p.Line, p.Column)
}

// Rule is one row of the policy: which flows it matches and what it does with them.
type Rule struct {
	Name  string // unique; the stable id in logs, metrics and verdicts
	Match Match
	Do    Do
	Pos   Position
}

// Do is what a rule does. The zero Do refuses.
type Do struct {
	Action Action
	Egress string // with Forward: "direct", "dns", or a transport or transport group

	// UnnamedBlock refuses a flow that shows no name if the rule matches it, or would match it under some name. Without
	// UnnamedBlock such a flow is judged by its other facts. SSH, NTP and echo requests never show a name: give the rule a
	// condition on the port if it is not meant for them.
	UnnamedBlock bool

	// SignIn is the URL of the page on which somebody must sign in before other rules judge the flow. Only with Refuse.
	SignIn string

	FallbackDirect bool // while Egress is not up, go direct
	TrustedDirect  bool // on a trusted network, go direct
	UnroutedDirect bool // where the transport is not for the destination, go direct: see Conditions.Routes
}

// Match says which flows a rule is for. One value of each field that is set must match. The zero Match matches every flow.
type Match struct {
	Domain   []string // example.com: the name and its subdomains; *.example.com: only subdomains; =example.com: only the name
	Category []string // the judged name or the destination address is in one of these
	CIDR     []string // destination: prefix, address or "private", which is iprange.Private
	Src      []string // source, in the same forms
	Port     []string // destination port: "443" or "8000-8999"; echo requests have none
	Protocol []string // tcp, udp, icmp, or quic, which is UDP to port 443
	Peer     []string
	Group    []string
	User     []string // who has signed in with the peer
	SignedIn *bool    // whether somebody has; true and false match peers alone
	UID      []uint32
	Process  []string // path of the local program
	// Unit and Container are those of the local program. * stands for any characters; "system/" in front excludes what users
	// start with a service manager of their own, and "user/" everything else.
	Unit, Container []string
	Schedule        []string // "mon-fri 21:00-06:00", "sat,sun", "22:00-06:00"; a span past midnight belongs to the day on which it starts
	SeenIn          []string // where the judged name was learnt: dns, sni, http, quic
	Mismatch        *bool    // the flow names something that DNS did not give for its destination
	// Gateway matches destinations on this machine, which are its own addresses. No other condition opens them. With CIDR it
	// also matches reserved addresses in there, such as loopback, link-local addresses and metadata services: who opens a
	// port of this machine does not mean the same port of a metadata service.
	Gateway bool
	// Peers matches destinations at peers. No other condition opens them, and such a rule forwards only to EgressPeers.
	Peers bool
	Not   *Match // matches what this Match does not
}
