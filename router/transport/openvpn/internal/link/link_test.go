package link

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"
)

func TestUDPCarriesWholePackets(t *testing.T) {
	peer, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = peer.Close() }()
	addr := peer.LocalAddr().(*net.UDPAddr).AddrPort()
	marked := false
	dialer := &net.Dialer{Control: func(string, string, syscall.RawConn) error { marked = true; return nil }}
	l, err := Dial(t.Context(), dialer, "udp", addr)
	if err != nil {
		t.Fatal(err)
	}
	if !marked || l.Remote() != addr || l.Stalled() {
		t.Errorf("got marked %v, remote %v, stalled %v", marked, l.Remote(), l.Stalled())
	}
	if err := l.Write([][]byte{framed(100, 'a'), framed(100, 'b'), framed(60, 'c')}); err != nil {
		t.Fatal(err)
	}
	if err := l.Post(framed(9, 'd')); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 2048)
	var from netip.AddrPort
	got := ""
	for range 4 {
		_ = peer.SetReadDeadline(time.Now().Add(10 * time.Second))
		var n int
		if n, from, err = peer.ReadFromUDPAddrPort(b); err != nil {
			t.Fatal(err)
		}
		got += fmt.Sprintf("%d%c ", n, b[0])
	}
	if want := "100a 100b 60c 9d "; got != want {
		t.Errorf("the peer got %s, want %s", got, want)
	}
	for _, p := range []string{"one", "two"} {
		if _, err := peer.WriteToUDPAddrPort([]byte(p), from); err != nil {
			t.Fatal(err)
		}
	}
	for got = ""; len(got) < 6; {
		packets, err := l.Read()
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range packets {
			got += string(p)
		}
	}
	if got != "onetwo" {
		t.Errorf("got %q, want both packets", got)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if _, err := l.Read(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Read after Close: got %v, want %v", err, net.ErrClosed)
	}
}

func TestDialFails(t *testing.T) {
	refuse := errors.New("no mark")
	addr := netip.MustParseAddrPort("127.0.0.1:9")
	if _, err := Dial(t.Context(), &net.Dialer{Control: func(string, string, syscall.RawConn) error { return refuse }}, "udp", addr); !errors.Is(err, refuse) {
		t.Errorf("a socket that cannot be marked: got %v, want %v", err, refuse)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Dial(ctx, &net.Dialer{}, "tcp", addr); err == nil {
		t.Error("a context that has ended: got no error")
	}
}
