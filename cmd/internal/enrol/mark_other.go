//go:build !linux

package enrol

import "syscall"

// marked returns nil: penstock routes no host through itself here.
func marked(uint32) func(network, address string, c syscall.RawConn) error { return nil }
