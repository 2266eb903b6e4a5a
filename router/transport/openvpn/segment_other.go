//go:build !linux

package openvpn

import "net"

// canSegment reports that packets have to be sent one by one.
func canSegment(*net.UDPConn) bool { return false }

func segmentControl(b []byte, _ int) []byte { return b }
