package openvpn

import (
	"net"
	"testing"
)

func TestTCPLinkRefusesWhatIsNoPacket(t *testing.T) {
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	for name, raw := range map[string]string{"an HTTP server": "HTTP/1.1 400 Bad Request\r\n", "an empty packet": "\x00\x00"} {
		t.Run(name, func(t *testing.T) {
			conn, err := net.Dial("tcp4", listener.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			peer, err := listener.Accept()
			if err != nil {
				t.Fatal(err)
			}
			l := newTCPLink(conn.(*net.TCPConn), listener.Addr().(*net.TCPAddr).AddrPort())
			if _, err := peer.Write([]byte(raw)); err != nil {
				t.Fatal(err)
			}
			if _, err := l.read(); err == nil {
				t.Error("read: got no error")
			}
			_ = peer.Close()
			if err := l.close(); err != nil {
				t.Error(err)
			}
		})
	}
}
