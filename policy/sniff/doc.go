// Package sniff reads the host name from the first bytes that a client sends on a flow: the TLS server name, the HTTP host,
// the HTTP/2 authority, or the server name in QUIC Initial packets.
//
// It is pure: bytes in, a Result out, no I/O and no clock. The same bytes give the same Result, however they were split.
// Bytes that servers could read in two ways are reported as Ambiguous: no name is better than the name of another site. It
// does not decide, decrypt traffic, convert internationalised names, or parse what servers send.
package sniff
