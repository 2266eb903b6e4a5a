package sockets

import (
	"fmt"
	"net"
	"testing"
	"time"
)

// TestBothFamiliesInTurn sends to IPv4 and IPv6 by turns. Each packet has to arrive where it was sent to.
func TestBothFamiliesInTurn(t *testing.T) {
	sockets := ForClient()
	if _, _, err := sockets.Open(0); err != nil {
		t.Fatal(err)
	}
	defer sockets.Close()
	four, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer four.Close()
	six, err := net.ListenPacket("udp6", "[::1]:0")
	if err != nil {
		t.Skipf("no IPv6 here: %v", err)
	}
	defer six.Close()
	elsewhere, err := sockets.ParseEndpoint("[100::1:2:3:4]:9") // a prefix for what is to be discarded (RFC 6666)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 100 {
		_ = sockets.Send([][]byte{[]byte("discard")}, elsewhere) // there may be no route
		for _, l := range []net.PacketConn{four, six} {
			to, err := sockets.ParseEndpoint(l.LocalAddr().String())
			if err != nil {
				t.Fatal(err)
			}
			want := fmt.Sprint(i)
			if err := sockets.Send([][]byte{[]byte(want)}, to); err != nil {
				t.Fatalf("packet %d to %v: %v", i, l.LocalAddr(), err)
			}
			buf := make([]byte, 10)
			l.SetReadDeadline(time.Now().Add(10 * time.Second))
			n, _, err := l.ReadFrom(buf)
			if got := string(buf[:n]); err != nil || got != want {
				t.Fatalf("packet %d to %v: got %q, %v", i, l.LocalAddr(), got, err)
			}
		}
	}
}
