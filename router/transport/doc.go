// Package transport supervises encrypted transports: when to connect, whether one is alive, and what to do when it is not.
//
// A Driver knows how to carry packets; a Tunnel owns one driver and its state. The package does not know any
// protocol, any operating system interface or any policy.
package transport
