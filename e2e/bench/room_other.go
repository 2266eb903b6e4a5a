//go:build !linux

package main

import (
	"errors"
	"net"
)

func makeRoom(*net.UDPConn, int) error { return errors.ErrUnsupported }
