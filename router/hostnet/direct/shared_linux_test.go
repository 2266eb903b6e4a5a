package direct_test

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"penstock/router/hostnet/direct"
	"penstock/stack/localport"
)

// Sockets with one local port, each to another server: what comes back reaches the socket that asked, and nobody else gets the port.
func TestSocketsShareAPort(t *testing.T) {
	d, err := direct.NewDialer(direct.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	port := uint16(0)
	for _, answer := range []string{"one", "two", "three"} {
		server, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { server.Close() })
		go func() {
			buf := make([]byte, 10)
			for {
				_, from, err := server.ReadFromUDPAddrPort(buf)
				if err != nil {
					return
				}
				server.WriteToUDPAddrPort([]byte(answer), from)
			}
		}()
		c, err := d.DialContext(localport.With(t.Context(), port), "udp4", server.LocalAddr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		local := c.LocalAddr().(*net.UDPAddr).AddrPort().Port()
		if port != 0 && local != port {
			t.Errorf("%s is asked from port %d, want %d", answer, local, port)
		}
		port = local
		defer func() { // when all are open
			c.SetDeadline(time.Now().Add(5 * time.Second))
			c.Write([]byte("?"))
			buf := make([]byte, 10)
			if n, err := c.Read(buf); err != nil || string(buf[:n]) != answer {
				t.Errorf("got %q, %v, want %q", buf[:n], err, answer)
			}
		}()
	}
	taken, err := net.ListenUDP("udp4", &net.UDPAddr{Port: int(port)})
	if err == nil {
		taken.Close()
		t.Errorf("another program gets port %d", port)
	}
	other, err := net.ListenUDP("udp4", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	busy := other.LocalAddr().(*net.UDPAddr).AddrPort().Port()
	c, err := d.DialContext(localport.With(t.Context(), busy), "udp4", netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), 9).String())
	if err != nil {
		t.Fatalf("a port that is taken: %v, want another one", err)
	}
	c.Close()
}
