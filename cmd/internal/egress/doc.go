// Package egress provides the ways out: direct, the transports, and the groups that fail over between them.
//
// A Plan is what a configuration says about transports, read and checked before anything is opened. Open builds the transports
// of a plan. Each has its own supervisor and stack, so that flows survive a lost session. If a transport stays down for longer
// than Config.Hold, its flows are reset.
//
// It does not decide which flow takes which way, and changes nothing on the host.
package egress
