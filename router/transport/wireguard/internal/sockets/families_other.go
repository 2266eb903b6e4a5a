//go:build !linux

package sockets

import (
	"errors"
	"net"

	"golang.zx2c4.com/wireguard/conn"
)

// families is sockets of their own for IPv6. One StdNetBind must not send to both families: its pool of addresses cuts a slice to 4
// bytes for IPv4 and fills no more than those for IPv6, so that packets go to an address that nobody asked for (wireguard-go as of
// 2026-05-22, conn/bind_std.go, Send). Packets over IPv6 leave from any port, whatever ListenPort says. Undo it when that is mended.
type families struct {
	conn.Bind // for IPv4
	six       conn.Bind
}

// ForServer returns sockets that are not open, for a device that is called. It should be called over one family only: see families.
func ForServer(func(network, address string) (net.PacketConn, error)) conn.Bind {
	return conn.NewDefaultBind()
}

// ForClient returns sockets that are not open, for a device that calls others.
func ForClient() conn.Bind {
	sockets := conn.NewDefaultBind()
	if _, ok := sockets.(*conn.StdNetBind); !ok {
		return sockets
	}
	return &families{Bind: sockets, six: conn.NewStdNetBind()}
}

// Open opens all sockets, or none.
func (f *families) Open(port uint16) ([]conn.ReceiveFunc, uint16, error) {
	receivers, actual, err := f.Bind.Open(port)
	if err != nil {
		return nil, 0, err
	}
	more, _, err := f.six.Open(0)
	if err != nil {
		return nil, 0, errors.Join(err, f.Bind.Close())
	}
	return append(receivers, more...), actual, nil
}

// Close closes all sockets.
func (f *families) Close() error { return errors.Join(f.Bind.Close(), f.six.Close()) }

// SetMark marks all sockets.
func (f *families) SetMark(mark uint32) error {
	return errors.Join(f.Bind.SetMark(mark), f.six.SetMark(mark))
}

// Send sends to an address of either family.
func (f *families) Send(packets [][]byte, to conn.Endpoint) error {
	if to.DstIP().Is6() {
		return f.six.Send(packets, to)
	}
	return f.Bind.Send(packets, to)
}
