// Package resolver tells the programs of the host to ask our DNS server, and remembers what they asked before.
//
// There are two ways: [File] rewrites resolv.conf, [Link] gives servers to our interface in systemd-resolved. Both undo
// themselves. Servers and SearchDomains find out what the network that the host is in offers, also behind a stub.
//
// It keeps no journal, answers no question, and does not choose between the two ways. Linux only.
package resolver
