package main

import (
	"errors"
	"net"
	"syscall"
)

// makeRoom lets n bytes of datagrams wait for their receiver.
func makeRoom(c *net.UDPConn, n int) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	if err := raw.Control(func(fd uintptr) {
		// As root of the lab's namespace: net.core.rmem_max cannot be set there.
		failed = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUFFORCE, n)
	}); err != nil {
		return err
	}
	if errors.Is(failed, syscall.EPERM) {
		return c.SetReadBuffer(n) // as much as the kernel gives
	}
	return failed
}
