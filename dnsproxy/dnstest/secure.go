package dnstest

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"

	"penstock/dnsproxy/wire"
)

// Loopback is the bootstrap address of the servers here.
func Loopback() []netip.Addr { return []netip.Addr{netip.MustParseAddr("127.0.0.1")} }

// Secure serves a resolver over DoT, DoH, DoQ and DoH over HTTP/3 as dns.example.
type Secure struct {
	DoT, DoH, DoQ, H3 string         // ports
	Client            *x509.CertPool // trusts it
	Proto, Proto3     atomic.Value   // of the last DoH request over TCP and over QUIC
	Conns             atomic.Int32
}

// NewSecure starts them.
func NewSecure(t testing.TB, up *Resolver) *Secure {
	t.Helper()
	sec := &Secure{}
	config, client := Certificate(t, "dns.example")
	sec.Client = client
	config.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) { sec.Conns.Add(1); return nil, nil }

	dot := config.Clone()
	dot.NextProtos = []string{"dot"}
	ln, err := tls.Listen("tcp", "127.0.0.1:0", dot)
	if err != nil {
		t.Fatal(err)
	}
	_, sec.DoT, _ = net.SplitHostPort(ln.Addr().String())
	Serve(t, &dns.Server{Listener: ln, Handler: up})

	doh := httptest.NewUnstartedServer(sec.web(up, &sec.Proto))
	doh.TLS, doh.EnableHTTP2 = config, true
	doh.Config.ErrorLog = log.New(io.Discard, "", 0)
	doh.StartTLS()
	t.Cleanup(doh.Close)
	_, sec.DoH, _ = net.SplitHostPort(doh.Listener.Addr().String())

	sec.DoQ = ServeDoQ(t, up, config, nil)
	sec.H3 = serveH3(t, sec.web(up, &sec.Proto3), config)
	return sec
}

// web answers DoH and notes the version of HTTP that it was asked in.
func (sec *Secure) web(up *Resolver, proto *atomic.Value) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		proto.Store(r.Proto)
		body, _ := io.ReadAll(r.Body)
		q := new(dns.Msg)
		if r.URL.Path != "/dns-query" || r.Header.Get("Content-Type") != "application/dns-message" || q.Unpack(body) != nil {
			http.Error(w, "bad request", http.StatusBadRequest)
			return
		}
		msg, _ := up.Reply(q).Pack()
		w.Header().Set("Content-Type", "application/dns-message")
		w.Write(msg)
	}
}

// Certificate makes a certificate for host and a client that trusts it.
func Certificate(t testing.TB, host string) (server *tls.Config, client *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: host}, DNSNames: []string{host}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(leaf)
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}, pool
}

// ServeDoQ serves a resolver over QUIC and returns its port. Deaf, if not nil, says whether the nth connection is left without
// answers.
func ServeDoQ(t testing.TB, up *Resolver, config *tls.Config, deaf func(n int32) bool) string {
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
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
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
func answerDoQ(stream *quic.Stream, up *Resolver) {
	defer stream.Close()
	msg, err := wire.ReadFrame(stream, nil)
	q := new(dns.Msg)
	if err != nil || q.Unpack(msg) != nil || q.Id != 0 || len(msg)%wire.PaddedTo != 0 {
		stream.CancelWrite(2)
		return
	}
	if n, _ := stream.Read(make([]byte, 1)); n != 0 { // the client has said all
		stream.CancelWrite(2)
		return
	}
	a := up.Reply(q)
	a.SetEdns0(wire.MaxUDP, false)
	msg, _ = a.Pack()
	stream.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(msg))), msg...))
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
