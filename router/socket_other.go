//go:build !unix

package router

import "net"

// eachFromSocket handles nothing on this system: the caller reads into a buffer of its own.
func eachFromSocket(net.Conn, func([][]byte) error) (bool, error) { return false, nil }
