package e2e

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"penstock/e2e/netlab"
)

// socksUDP is a SOCKS5 client that sends datagrams.
type socksUDP struct{ control, relay net.Conn }

// associate asks the proxy to relay datagrams of the laptop, for ana.
func (w *world) associate(t *testing.T) *socksUDP {
	t.Helper()
	s := &socksUDP{control: dial(t, w.Laptop, "tcp", proxyAt)}
	login := socksRequest("0.0.0.0", 0)
	const connect = "\x05\x01\x00\x01\x00"
	i := strings.LastIndex(login, connect)
	if _, err := io.WriteString(s.control, login[:i]+"\x05\x03"+login[i+2:]); err != nil {
		t.Fatal(err)
	}
	var said [2 + 2 + 10]byte // the method, the login, where the relay is
	if _, err := io.ReadFull(s.control, said[:]); err != nil || said[5] != 0 {
		t.Fatalf("the proxy said %v, %v", said, err)
	}
	addr, _ := netip.AddrFromSlice(said[8:12])
	s.relay = dial(t, w.Laptop, "udp", netip.AddrPortFrom(addr, uint16(said[12])<<8|uint16(said[13])).String())
	return s
}

// send sends a datagram to a port of an address or name.
func (s *socksUDP) send(t *testing.T, host string, port int, payload []byte) {
	t.Helper()
	head := socksRequest(host, port)
	head = head[strings.LastIndex(head, "\x05\x01\x00")+3:]
	if _, err := s.relay.Write(append([]byte("\x00\x00\x00"+head), payload...)); err != nil {
		t.Fatal(err)
	}
}

// receive returns the next answer without its head, or an error after some time.
func (s *socksUDP) receive(wait time.Duration) ([]byte, error) {
	s.relay.SetReadDeadline(time.Now().Add(wait))
	buf := make([]byte, 65535)
	n, err := s.relay.Read(buf)
	switch {
	case err != nil:
		return nil, err
	case n >= 10 && buf[3] == 1:
		return buf[10:n], nil
	case n >= 22 && buf[3] == 4:
		return buf[22:n], nil
	}
	return nil, fmt.Errorf("got %d bytes that are no answer", n)
}

// laptop: SOCKS5 UDP ASSOCIATE --- access ---> [penstock] gateway --- internet, intranet
func TestDatagramsByProxy(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.listenForProxy(t, strings.Replace(proxyRules, "group: [staff]", "group: [staff], port: [7, 53]", 1))
	s := w.associate(t)
	for _, host := range []string{netlab.IntranetIPv4, netlab.IntranetIPv6, "intranet.corp.example"} {
		want := bytes.Repeat([]byte(host[:1]), 4000)
		s.send(t, host, 7, want)
		if got, err := s.receive(patience); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: got %d bytes, %v, want 4000 back", host, len(got), err)
		}
	}
	query, err := new(dns.Msg).SetQuestion(netlab.PublicSite+".", dns.TypeA).Pack()
	if err != nil {
		t.Fatal(err)
	}
	s.send(t, netlab.IntranetIPv4, 53, query)
	if got, err := s.receive(patience); err != nil || len(got) < 12 {
		t.Errorf("a question: got %d bytes, %v", len(got), err)
	}
	t.Run("the flows are ana's", func(t *testing.T) {
		eventually(t, "they are listed", func() error {
			var echoes int
			for _, f := range w.gateway.flows(t) {
				if f.Proto == "udp" && f.Peer == "ana" && strings.HasSuffix(f.Dst, ":7") && f.RxBytes >= 4000 {
					echoes++
				}
			}
			if echoes < 2 {
				return fmt.Errorf("got %+v", w.gateway.flows(t))
			}
			return nil
		})
	})
	refused := func(why, host string, port int) {
		t.Helper()
		s.send(t, host, port, []byte("hello"))
		s.send(t, netlab.IntranetIPv4, 7, []byte("after")) // what comes back tells that the other has been looked at
		if got, err := s.receive(patience); err != nil || string(got) != "after" {
			t.Errorf("%s: got %q, %v, want only the echo that follows", why, got, err)
		}
	}
	refused("a closed port of the intranet", netlab.IntranetIPv4, 9)
	refused("a name that is blocked", netlab.GamblingSite, 443)
	refused("the gateway itself", netlab.GatewayIPv4, 1080)
	refused("a name that nobody has", "nobody.example", 7)
	t.Run("another program cannot use the relay", func(t *testing.T) {
		other := &socksUDP{relay: dial(t, w.Laptop, "udp", s.relay.RemoteAddr().String())}
		other.send(t, netlab.IntranetIPv4, 7, []byte("mine"))
		if got, err := other.receive(300 * time.Millisecond); err == nil {
			t.Errorf("got %q, want nothing", got)
		}
	})
	t.Run("a peer that is disabled sends nothing more", func(t *testing.T) {
		w.edit(t, "peers.d/ana.yaml", "groups:", "disabled: true, groups:")
		w.gateway.must(t, "reload")
		if n, err := s.control.Read(make([]byte, 1)); err == nil {
			t.Errorf("the proxy said %d bytes, want the end", n)
		}
		eventually(t, "her flows are over", func() error {
			for _, f := range w.gateway.flows(t) {
				if f.Peer == "ana" {
					return fmt.Errorf("%+v lives", f)
				}
			}
			return nil
		})
	})
}
