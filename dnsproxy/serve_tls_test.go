package dnsproxy

import (
	"crypto/tls"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"penstock/dnsproxy/dnstest"
	"penstock/policy"
)

// tlsWorld is a server over TLS whose clients are known by the first label of the server name.
type tlsWorld struct {
	*Server
	addr    string
	up      *dnstest.Resolver
	metrics *Metrics
	gone    atomic.Bool // ana is nobody any more
	client  *tls.Config
}

func newTLSWorld(t *testing.T) *tlsWorld {
	t.Helper()
	w := &tlsWorld{up: newResolver(t, "www.example. 300 IN A 203.0.113.1"), metrics: NewMetrics(prometheus.NewRegistry())}
	w.Server = newServer(t, Settings{Upstreams: []Upstream{named("main", w.up)}, Clients: prefixes("10.0.0.0/8")},
		func(s *setup) { s.Metrics = w.metrics }, judged(blocks(map[string]string{"casino.example": "gambling"})))
	server, pool := dnstest.Certificate(t, "*.dns.example")
	w.client = &tls.Config{RootCAs: pool, ServerName: "ana.dns.example", NextProtos: []string{"dot"}}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w.addr = ln.Addr().String()
	ctx, cancel := contextOf(t)
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := NewPrivate(w.Server).ServeTLS(ctx, ln, server, w.who); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() {
		cancel()
		wg.Wait()
	})
	return w
}

func (w *tlsWorld) who(said string, src netip.AddrPort) (policy.Flow, bool) {
	name, _, _ := strings.Cut(said, ".")
	switch name {
	case "ana":
		return policy.Flow{Client: 7, Peer: name}, !w.gone.Load()
	case "anybody":
		return policy.Flow{Client: AddressKey(src.Addr())}, true
	}
	return policy.Flow{}, false
}

// open opens a connection with a server name.
func (w *tlsWorld) open(t *testing.T, name string) (*dns.Conn, error) {
	t.Helper()
	config := w.client.Clone()
	config.ServerName = name
	conn, err := tls.Dial("tcp", w.addr, config)
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	return &dns.Conn{Conn: conn}, nil
}

// TestRFC7858: queries over TLS are pipelined, answers come in any order, and they are the client's.
func TestRFC7858(t *testing.T) {
	w := newTLSWorld(t)
	hold := make(chan struct{})
	w.up.AnswerWith(func(_ dns.ResponseWriter, q *dns.Msg) bool {
		if q.Question[0].Name == "slow.example." {
			<-hold
		}
		return false
	})
	conn, err := w.open(t, "ana.dns.example")
	if err != nil {
		t.Fatal(err)
	}
	if got := conn.Conn.(*tls.Conn).ConnectionState().NegotiatedProtocol; got != "dot" {
		t.Errorf("ALPN: got %q", got)
	}
	slow, quick := query("slow.example", "A"), query("casino.example", "A")
	for _, q := range []*dns.Msg{slow, quick} {
		if err := conn.WriteMsg(q); err != nil {
			t.Fatal(err)
		}
	}
	if a, err := conn.ReadMsg(); err != nil || a.Id != quick.Id || brief(a) != "NXDOMAIN soa edeFiltered" {
		t.Errorf("got %v, %v, want the answer to the second query first", a, err)
	}
	close(hold)
	if a, err := conn.ReadMsg(); err != nil || a.Id != slow.Id {
		t.Errorf("got %v, %v, want the answer to the first query", a, err)
	}
	if n := testutil.ToFloat64(w.metrics.private[protocolTLS]); n != 2 {
		t.Errorf("metrics: got %v queries, want 2", n)
	}
}

// TestNobodyOverTLS: who is not known is turned away in the handshake, and who is known no longer before the next query.
func TestNobodyOverTLS(t *testing.T) {
	w := newTLSWorld(t)
	for says, name := range map[string]string{"an unknown name": "eve.dns.example", "a stranger from elsewhere": "anybody.dns.example"} {
		if _, err := w.open(t, name); err == nil {
			t.Errorf("%s: got a connection", says)
		}
	}
	conn, err := w.open(t, "ana.dns.example")
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		conn.WriteMsg(query("www.example", "A"))
		if a, err := conn.ReadMsg(); err != nil || brief(a) != "NOERROR 203.0.113.1" {
			t.Fatalf("got %v, %v", a, err)
		}
	}
	w.gone.Store(true)
	conn.WriteMsg(query("www.example", "A"))
	if a, err := conn.ReadMsg(); err == nil {
		t.Errorf("known no longer: got %s", a)
	}
	w.gone.Store(false)
	if conn, err = w.open(t, "ana.dns.example"); err != nil {
		t.Fatal(err)
	}
	conn.WriteMsg(query("www.example", "A"))
	if _, err := conn.ReadMsg(); err != nil {
		t.Fatal(err)
	}
	w.CloseClient(7)
	if n, err := conn.Conn.Read(make([]byte, 1)); err == nil {
		t.Errorf("closed: read %d bytes", n)
	}
}

// TestBadClientsOverTLS: garbage and silence end alone, and nobody waits for them.
func TestBadClientsOverTLS(t *testing.T) {
	w := newTLSWorld(t)
	bad := map[string]func(net.Conn){
		"silence":            func(net.Conn) {},
		"garbage":            func(c net.Conn) { c.Write([]byte("GET / HTTP/1.1\r\nHost: dns.example\r\n\r\n")) },
		"half a record":      func(c net.Conn) { c.Write([]byte{22, 3, 1, 2, 0, 1}) },
		"a record of 16 MiB": func(c net.Conn) { c.Write([]byte{22, 3, 1, 255, 255}) },
		"half a query":       func(c net.Conn) { overTLS(t, w, c, []byte{0, 40, 1, 2, 3}) },
		"HTTP/2 on this port": func(c net.Conn) {
			tls.Client(c, &tls.Config{InsecureSkipVerify: true, ServerName: "ana.dns.example", NextProtos: []string{"h2"}}).Handshake()
		},
	}
	var conns sync.WaitGroup
	for says, do := range bad {
		conn, err := net.Dial("tcp", w.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(20 * time.Second))
		conns.Go(func() {
			do(conn)
			if _, err := io.Copy(io.Discard, conn); err != nil && strings.Contains(err.Error(), "timeout") {
				t.Errorf("%s: the connection is still open", says)
			}
		})
	}
	conn, err := w.open(t, "ana.dns.example")
	if err != nil {
		t.Fatal(err)
	}
	conn.WriteMsg(query("www.example", "A"))
	if a, err := conn.ReadMsg(); err != nil || brief(a) != "NOERROR 203.0.113.1" {
		t.Errorf("meanwhile: got %v, %v", a, err)
	}
	conns.Wait()
	if n := testutil.ToFloat64(w.metrics.refused[RefusedHandshake]); n < 4 {
		t.Errorf("metrics: got %v handshakes that failed, want 5", n)
	}
}

// overTLS sends octets over a connection after a handshake.
func overTLS(t *testing.T, w *tlsWorld, conn net.Conn, octets []byte) {
	c := tls.Client(conn, w.client)
	if err := c.Handshake(); err != nil {
		t.Error(err)
		return
	}
	c.Write(octets)
}

// TestManyOverTLS asks on many connections at once while clients come and go.
func TestManyOverTLS(t *testing.T) {
	w := newTLSWorld(t)
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			for range 8 {
				conn, err := w.open(t, "ana.dns.example")
				if err != nil {
					continue // closed below
				}
				conn.WriteMsg(query("www.example", "A"))
				conn.ReadMsg()
				conn.Close()
			}
		})
	}
	for range 20 {
		w.CloseClient(7)
		time.Sleep(time.Millisecond)
	}
	wg.Wait()
	conn, err := w.open(t, "ana.dns.example")
	if err != nil {
		t.Fatal(err)
	}
	conn.WriteMsg(query("www.example", "A"))
	if a, err := conn.ReadMsg(); err != nil || brief(a) != "NOERROR 203.0.113.1" {
		t.Errorf("after all: got %v, %v", a, err)
	}
}

func prefixes(list ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, s := range list {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

func addr(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }
