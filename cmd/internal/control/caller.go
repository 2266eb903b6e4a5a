package control

import (
	"context"
	"fmt"
	"net"
	"os"
)

// caller is the process at the other end of a connection, as the kernel says.
type caller struct {
	known bool
	uid   uint32
}

type callerKey struct{}

// callerOf asks the kernel who connected. Where it cannot tell, the caller is unknown.
func callerOf(c net.Conn) caller {
	uid, err := peerUID(c)
	return caller{err == nil, uid}
}

func callerFrom(ctx context.Context) caller {
	c, _ := ctx.Value(callerKey{}).(caller)
	return c
}

// mayChange is true for root and the daemon's own user. Who may read is decided by the socket's mode and group.
func (c caller) mayChange() bool {
	return c.known && (c.uid == 0 || int(c.uid) == os.Geteuid())
}

// nameKey holds who calls where that is not the process at the other end of the socket.
type nameKey struct{}

// WithCaller returns a context for calls of somebody whom the caller of this function knows, such as the console.
func WithCaller(ctx context.Context, name string) context.Context {
	return context.WithValue(ctx, nameKey{}, name)
}

// Caller returns who makes a call: "uid 1000", or the name in WithCaller. It is empty if nobody can tell.
func Caller(ctx context.Context) string {
	if name, ok := ctx.Value(nameKey{}).(string); ok {
		return name
	}
	if c := callerFrom(ctx); c.known {
		return fmt.Sprintf("uid %d", c.uid)
	}
	return ""
}
