//go:build !unix

package router

import "net"

// eachFromSocket has no better way than a buffer of its own here.
func eachFromSocket(net.Conn, func([]byte) error) (bool, error) { return false, nil }
