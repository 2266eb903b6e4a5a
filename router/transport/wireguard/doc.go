// Package wireguard carries packets through WireGuard in userspace, as a client and as a server.
//
// [Client] is a transport.Driver. [Server] answers many peers, whose list may change while it runs. Both move packets
// between an inner tun.Device, which they own until they are closed, and UDP sockets that carry a mark. [Config] is a
// wg-quick file: ParseConfig reads one, WriteTo writes one that any WireGuard program reads.
//
// It sets no address, no route and no resolver on the host, and runs no command that a file names. It does not decide
// when to connect, whether a silent peer is dead, or which flow may pass.
package wireguard
