package policy

import (
	"fmt"
	"time"

	"penstock/policy/blocklist"
)

// Config is what New compiles into a Policy.
type Config struct {
	Rules []Rule // first match wins; the last one has no match

	// Lists returns the category lists in force now. It is asked once per judgement, must not block, and may return nil:
	// then no name and no address is in any category. If nil, likewise.
	Lists func() *blocklist.Set

	Categories []string // categories that rules may name
	Egresses   []string // transports and transport groups that rules may name, beside "direct" and "dns"
	Peers      []string // peers that rules may name
	Groups     []string // peer groups that rules may name
}

// Names of the egresses that every configuration has.
const (
	EgressDirect = "direct" // the host's own network
	EgressDNS    = "dns"    // the embedded DNS server
)

// Position is where a rule or test row was written. The zero Position is unknown.
type Position struct {
	File   string `json:"file,omitempty"`
	Line   int    `json:"line,omitempty"`   // from 1
	Column int    `json:"column,omitempty"` // from 1
}

// String gives file:line:column as far as known.
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

// Rule is one row of the policy: what it matches and what it does with that.
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

	// UnnamedBlock refuses a flow without any name when the rule matches it, or would match it given some name.
	// Otherwise such a flow is judged on what is known. SSH, NTP and echo requests never show a name: a rule that is not
	// meant for them has a condition on the port.
	UnnamedBlock bool

	FallbackDirect bool // carried through: while Egress is not up, go direct
	TrustedDirect  bool // carried through: on a trusted network, go direct
}

// Match says which flows a rule is for. Values in a field are alternatives, fields add up; the zero Match is every flow.
type Match struct {
	Domain   []string // example.com: it and all below; *.example.com: only below; =example.com: only itself
	Category []string // the judged name or the destination address is in one of these
	CIDR     []string // destination: prefix, address or "private", which is RFC 1918 and RFC 4193
	Src      []string // source, likewise
	Port     []string // destination port: "443" or "8000-8999"; echo requests have none
	Protocol []string // tcp, udp, icmp, or quic, which is UDP to port 443
	Peer     []string
	Group    []string
	UID      []uint32
	Process  []string // path of the local program
	Schedule []string // "mon-fri 21:00-06:00", "sat,sun", "22:00-06:00"; past midnight counts for the day it began
	SeenIn   []string // where the judged name was learnt: dns, sni, http, quic
	Mismatch *bool    // the flow names something that DNS did not give for its destination
	// Gateway matches destinations on this machine: its own addresses, loopback and link-local addresses, and metadata
	// services. No other match opens them.
	Gateway bool
	Not     *Match // everything but this
}

// Exception is a block lifted for a while. See Policy.WithExceptions.
type Exception struct {
	Name     string    // this name and all below; canonical. One of Name and Category is set
	Category string    // or this category
	Peer     string    // for this peer; empty is for everyone
	Until    time.Time // compared with Flow.Time
}
