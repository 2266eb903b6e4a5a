// Package wireguard carries packets through WireGuard in userspace, as a client that calls and as a server that is called.
//
// Client is a transport.Driver; Server answers many peers whose list changes while it runs. Both move packets between an
// inner tun.Device, which they own from their making to their Close, and UDP sockets that carry the mark they are told.
// Config is a wg-quick file: ParseConfig reads one, WriteTo writes one that any WireGuard program reads.
//
// The package sets no address, no route and no resolver on the host, runs no command that a file names, and does not
// decide when to connect, whether a silent peer is dead or which flow may pass.
package wireguard
