// Package sniff reads the host name that a client names in the first bytes of a flow: TLS server name, HTTP host,
// HTTP/2 authority, and the TLS hello inside QUIC Initial packets.
//
// It is pure: bytes in, a Result out, no I/O and no clock, and the same bytes give the same Result however they were
// cut. Whatever could be read in two ways is reported as Ambiguous, so that a name is never wrong: better none than
// another site's. It does not decide, decrypt traffic, convert internationalised names, or parse what servers send.
package sniff
