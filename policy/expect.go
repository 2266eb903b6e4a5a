package policy

import (
	"net/netip"
	"time"
)

// Peer is a client as test rows know it.
type Peer struct {
	Name   string
	Groups []string
	Addr   netip.Addr // inside the tunnel; may be invalid
}

// Test is one row of the policy's own tests: a flow and what must become of it.
type Test struct {
	From   string     // peer; empty is the laptop itself
	To     string     // URL, host or host:port; the scheme gives protocol and port
	Addr   netip.Addr // destination address, if To is a name and rules ask for it
	At     time.Time  // zero: schedules do not match
	Expect Expect
	Pos    Position
}

// Expect is the verdict a Test asks for. The zero Expect is a block of either kind.
type Expect struct {
	Action Action // Refuse is met by Drop as well
	Egress string // with Forward: empty is any
	Rule   string // empty is any
}

// Result is the outcome of a Test.
type Result struct {
	Test    Test
	Verdict Verdict
	Err     error // nil if the row holds; else a sentence with the place of the row
}

// RunTests judges every row and returns one Result each, in order.
func RunTests(p *Policy, tests []Test, peers []Peer) []Result { return make([]Result, len(tests)) }
