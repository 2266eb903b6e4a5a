package sniff

import (
	"context"
	"crypto/tls"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
)

// decoyConn sends a short Initial with another name before the first datagram, on the same connection ID, and reads what is sent.
type decoyConn struct {
	net.PacketConn
	t     *testing.T
	decoy []byte // hello

	mu   sync.Mutex
	in   Initials
	sent bool
	saw  []Result
}

func (c *decoyConn) WriteTo(b []byte, to net.Addr) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.sent {
		c.sent = true
		p, _, ok := parsePacket(b)
		if !ok {
			c.t.Errorf("the first datagram is no Initial")
		}
		d := sealed{dcid: p.dcid, payload: cryptoFrame(c.decoy, 0, len(c.decoy))}.packet(c.t)
		c.saw = append(c.saw, c.in.Datagram(d))
		c.PacketConn.WriteTo(d, to)
	}
	if res := c.in.Datagram(b); res != c.saw[len(c.saw)-1] {
		c.saw = append(c.saw, res)
	}
	return c.PacketConn.WriteTo(b, to)
}

// The server of quic-go takes no notice of an Initial in a datagram that is too short (RFC 9000 14.1), and serves what comes behind it.
func TestARealServerServesWhatComesBehindADecoy(t *testing.T) {
	cert := certificate(t)
	asked := make(chan string, 1)
	ln, err := quic.ListenAddr("127.0.0.1:0", &tls.Config{NextProtos: []string{"h3"}, GetCertificate: func(h *tls.ClientHelloInfo) (*tls.Certificate, error) {
		asked <- h.ServerName
		return &cert, nil
	}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	udp, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	c := &decoyConn{PacketConn: udp, t: t, decoy: helloWith(t, serverName("site.example"))}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	conn, err := quic.Dial(ctx, c, ln.Addr(), &tls.Config{ServerName: "x.bet", InsecureSkipVerify: true, NextProtos: []string{"h3"}}, nil)
	if err != nil {
		t.Fatalf("dial: %v", err)
	}
	defer conn.CloseWithError(0, "")
	if got := <-asked; got != "x.bet" {
		t.Fatalf("the server was asked for %q", got)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, res := range c.saw {
		if res.Host.String() == "x.bet" || res.Ambiguous {
			return
		}
	}
	t.Errorf("the server served x.bet, and the sniffer saw only %+v", c.saw)
}
