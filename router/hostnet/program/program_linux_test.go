package program

import (
	"errors"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"testing"
)

func TestFind(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	there := ln.Addr().(*net.TCPAddr).AddrPort()
	connected, err := net.Dial("tcp", there.String())
	if err != nil {
		t.Fatal(err)
	}
	defer connected.Close()
	datagrams, err := net.Dial("udp", "127.0.0.1:9")
	if err != nil {
		t.Fatal(err)
	}
	defer datagrams.Close()
	open, err := net.ListenPacket("udp", ":0") // of both families, to anybody
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	port := uint16(open.LocalAddr().(*net.UDPAddr).Port)
	addr := netip.MustParseAddrPort
	rows := []struct {
		name, network string
		local, remote netip.AddrPort
	}{
		{"a stream", "tcp", addr(connected.LocalAddr().String()), there},
		{"a connected datagram socket", "udp", addr(datagrams.LocalAddr().String()), addr("127.0.0.1:9")},
		{"an open datagram socket over IPv4", "udp", netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port), addr("192.0.2.1:53")},
		{"an open datagram socket over IPv6", "udp", netip.AddrPortFrom(netip.MustParseAddr("::1"), port), addr("[2001:db8::1]:53")},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			p, err := Find(row.network, row.local, row.remote, true)
			if err != nil || int(p.UID) != os.Getuid() || p.Path != self {
				t.Errorf("got %+v, %v; want uid %d, %s", p, err, os.Getuid(), self)
			}
		})
	}
	if _, err := Find("tcp", addr("127.0.0.1:1"), there, false); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without a socket: got %v, want %v", err, fs.ErrNotExist)
	}
}
