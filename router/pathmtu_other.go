//go:build !linux

package router

import "net"

// socketMTU returns 0: nothing is known.
func socketMTU(*net.UDPConn) int { return 0 }
