// Package direct dials from the host so that the connection stays out of our own TUN.
//
// Its sockets carry a mark that policy routing sends past the TUN. Where sockets may not be marked, or where nobody
// routes by the mark, they are bound to the interface that would be the uplink without our TUN. A destination that leads
// into the TUN all the same is refused.
//
// It changes nothing on the host, resolves no names, and does not judge where a flow may go. Linux only: elsewhere
// NewDialer returns errors.ErrUnsupported.
package direct
