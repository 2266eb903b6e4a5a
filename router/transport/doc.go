// Package transport supervises encrypted transports: it decides when to connect, judges whether a transport is alive, and
// reconnects when it is not.
//
// A [Driver] knows how to carry packets. A [Tunnel] owns one driver and all state about it. A [Gate] dials through a
// tunnel and fails closed; a [Group] picks one of several.
//
// It knows no protocol, no operating system interface and no policy.
package transport
