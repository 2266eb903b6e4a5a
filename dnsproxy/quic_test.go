package dnsproxy

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"net"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/miekg/dns"
	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
)

// serveDoQ serves a resolver over QUIC and returns its port. Deaf, if not nil, says whether the nth connection is left without
// answers.
func serveDoQ(t testing.TB, up *resolver, config *tls.Config, deaf func(n int32) bool) string {
	t.Helper()
	config = config.Clone()
	config.NextProtos = []string{"doq"}
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ln, err := quic.Listen(quietBuffers{pc.(*net.UDPConn)}, config, nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := contextOf(t)
	var wg sync.WaitGroup
	t.Cleanup(func() {
		cancel()
		ln.Close()
		pc.Close()
		wg.Wait()
	})
	var conns atomic.Int32
	wg.Go(func() {
		for {
			conn, err := ln.Accept(ctx)
			if err != nil {
				return
			}
			n := conns.Add(1)
			wg.Go(func() {
				defer conn.CloseWithError(0, "")
				for {
					stream, err := conn.AcceptStream(ctx)
					if err != nil {
						return
					}
					if deaf == nil || !deaf(n) {
						answerDoQ(stream, up)
					}
				}
			})
		}
	})
	return strconv.Itoa(pc.LocalAddr().(*net.UDPAddr).Port)
}

// answerDoQ answers a well-formed query (RFC 9250 4.2) and resets the stream of any other.
func answerDoQ(stream *quic.Stream, up *resolver) {
	defer stream.Close()
	wire, err := readFrame(stream, nil)
	q := new(dns.Msg)
	if err != nil || q.Unpack(wire) != nil || q.Id != 0 || len(wire)%paddedTo != 0 {
		stream.CancelWrite(2)
		return
	}
	if n, _ := stream.Read(make([]byte, 1)); n != 0 { // the client has said all
		stream.CancelWrite(2)
		return
	}
	a := up.reply(q)
	a.SetEdns0(maxUDP, false)
	wire, _ = a.Pack()
	stream.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(wire))), wire...))
}

func serveH3(t testing.TB, handler http.Handler, config *tls.Config) string {
	t.Helper()
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http3.Server{Handler: handler, TLSConfig: http3.ConfigureTLSConfig(config)}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		server.Serve(quietBuffers{pc.(*net.UDPConn)})
	}()
	t.Cleanup(func() {
		server.Close()
		pc.Close()
		<-ended
	})
	return strconv.Itoa(pc.LocalAddr().(*net.UDPAddr).Port)
}

// quietBuffers is a socket whose buffers quic-go does not try to enlarge.
type quietBuffers struct{ net.PacketConn }

func (quietBuffers) SetReadBuffer(int) error  { return nil }
func (quietBuffers) SetWriteBuffer(int) error { return nil }

// TestQUICThroughDialer: every datagram of a QUIC upstream goes through the dialer that was given with it.
func TestQUICThroughDialer(t *testing.T) {
	up := newResolver(t, "www.example. 300 IN A 203.0.113.1")
	secure := newSecure(t, up)
	for _, address := range []string{"quic://dns.example:" + secure.doq, "h3://dns.example:" + secure.h3} {
		var dialled []string
		noting := dialerFunc(func(ctx context.Context, network, to string) (net.Conn, error) {
			dialled = append(dialled, network+" "+to)
			conn, err := new(net.Dialer).DialContext(ctx, network, to)
			return onlyConn{conn}, err
		})
		s := newServer(t, Settings{Upstreams: []Upstream{{Address: address, Bootstrap: loopback, Via: "way"}}},
			through(noting), trusting(secure.client), func(s *setup) { s.CacheEntries = -1 })
		for range 3 {
			if got, want := brief(ask(t, s, "www.example", "A")), "NOERROR 203.0.113.1"; got != want {
				t.Errorf("%s: got %s, want %s", address, got, want)
			}
		}
		if len(dialled) != 1 {
			t.Errorf("%s: dialled %v, want one connection for all", address, dialled)
		}
	}
}

type dialerFunc func(ctx context.Context, network, address string) (net.Conn, error)

func (f dialerFunc) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	return f(ctx, network, address)
}

// onlyConn is a connection that is nothing more.
type onlyConn struct{ net.Conn }

// TestDeadQUIC: a QUIC connection on which the upstream has gone silent is given up after a second, within the same query.
func TestDeadQUIC(t *testing.T) {
	up := newResolver(t, "www.example. 300 IN A 203.0.113.1")
	config, client := certificate(t, "dns.example")
	port := serveDoQ(t, up, config, func(n int32) bool { return n == 1 })
	s := newServer(t, Settings{Upstreams: []Upstream{{Address: "quic://dns.example:" + port, Bootstrap: loopback}}}, trusting(client))
	if got, want := brief(ask(t, s, "www.example", "A")), "NOERROR 203.0.113.1"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// TestNoQUIC: where nobody listens, the next upstream is asked.
func TestNoQUIC(t *testing.T) {
	up := newResolver(t, "www.example. 300 IN A 203.0.113.1")
	s := newServer(t, Settings{Upstreams: []Upstream{{Address: "quic://" + closedPort(t)}, {Address: "h3://" + closedPort(t)}, up.upstream("plain")}})
	if got, want := brief(ask(t, s, "www.example", "A")), "NOERROR 203.0.113.1"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// TestPadding: an encrypted query is as long as most others, and still the same query.
func TestPadding(t *testing.T) {
	for _, name := range []string{"a.example", "a-much-longer-name.of-some.example", "x.", "example"} {
		q := new(dns.Msg).SetQuestion(dns.Fqdn(name), dns.TypeA)
		q.SetEdns0(maxUDP, false)
		wire, err := q.Pack()
		if err != nil {
			t.Fatal(err)
		}
		got := new(dns.Msg)
		long := padded(wire)
		if err := got.Unpack(long); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if len(long)%paddedTo != 0 || got.Question[0] != q.Question[0] || len(got.IsEdns0().Option) != 1 {
			t.Errorf("%s: got %d octets, %s", name, len(long), got)
		}
	}
}
