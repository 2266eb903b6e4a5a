//go:build !linux

package stack

import "syscall"

// readFromSocket has no better way than a copy elsewhere.
func (c *tcpConn) readFromSocket(syscall.Conn) (int64, bool, error) { return 0, false, nil }
