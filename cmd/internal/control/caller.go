package control

import (
	"context"
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
