// Package egress is the ways out: direct, the transports, and the groups that fail over between them.
//
// A Plan is what a configuration says about transports, read and checked before anything is opened. Open makes the ways
// of a plan: each transport gets a supervisor and a stack of its own, so flows outlive sessions. If a transport stays
// away for longer than Config.Hold, its flows are reset.
//
// It does not decide which flow takes which way, and changes nothing on the host.
package egress
