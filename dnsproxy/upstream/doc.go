// Package upstream asks other resolvers: over UDP, TCP, TLS, HTTPS, HTTP/3 or QUIC, one after the other or at once, and remembers
// which of them answer, and how fast.
//
//	Group.Ask -> Upstream -> protocol -> endpoint -> Dialer
//
// A response code is an answer: an upstream that says SERVFAIL is up. Only silence and refusal to talk are failures.
//
// It caches nothing, judges nothing, changes nothing in an answer, and reaches upstreams only through the dialers that it is given.
package upstream
