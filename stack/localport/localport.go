// Package localport says in a context which local port a dial of a datagram flow leaves from.
//
// A host behind us expects one port for all that it sends from one of its own (RFC 4787, REQ-1): calls and games tell their
// peers the port that a server has seen. The router knows whose flows belong together, and the dialers know which ports are
// free. The context carries the wish between them through dialers that do not care.
//
// It opens nothing, and it promises nothing: a dialer that cannot leave from the port takes another.
package localport

import "context"

type key struct{}

// With returns a context whose dials leave from a port that others may share. Port 0 is any that nobody has yet.
func With(ctx context.Context, port uint16) context.Context {
	return context.WithValue(ctx, key{}, port)
}

// Of returns the port of With. ok is false if the dial may leave from a port of its own.
func Of(ctx context.Context) (port uint16, ok bool) {
	port, ok = ctx.Value(key{}).(uint16)
	return port, ok
}
