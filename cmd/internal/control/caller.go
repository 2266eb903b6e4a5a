package control

import (
	"context"
	"fmt"
	"net"
	"os"
)

// caller is who asks.
type caller struct {
	name      string // for the log
	mayChange bool
}

type callerKey struct{}

// As says in ctx who asks, and whether they may change anything. Name is for the log.
func As(ctx context.Context, name string, mayChange bool) context.Context {
	return context.WithValue(ctx, callerKey{}, caller{name, mayChange})
}

// MayChange reports whether whoever asks may change anything.
func MayChange(ctx context.Context) bool { return callerFrom(ctx).mayChange }

// asProcess says in ctx which process is at the other end of a connection, as the kernel says. Who may read is decided by the
// socket's mode and group.
func asProcess(ctx context.Context, c net.Conn) context.Context {
	uid, err := peerUID(c)
	if err != nil {
		return ctx // nobody, who may change nothing
	}
	return As(ctx, fmt.Sprint("uid ", uid), mayChange(uid))
}

// mayChange is true for root and the daemon's own user.
func mayChange(uid uint32) bool { return uid == 0 || int(uid) == os.Geteuid() }

func callerFrom(ctx context.Context) caller {
	c, _ := ctx.Value(callerKey{}).(caller)
	return c
}

// Caller returns who makes a call, for logs: "uid 1000", or what As says. It is empty if nobody can tell.
func Caller(ctx context.Context) string { return callerFrom(ctx).name }
