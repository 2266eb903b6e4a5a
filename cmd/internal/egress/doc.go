// Package egress is the ways out: direct, the transports, and the groups that fail over between them.
//
// A Plan is what a configuration says of transports, read and checked without opening anything. Open makes the ways of a
// plan: a supervisor for each transport, with a stack of its own inside, so that flows outlive sessions. Flows of a
// transport that stays away are reset after a hold.
//
// It does not decide which flow takes which way, and changes nothing on the host.
package egress
