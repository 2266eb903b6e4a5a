package dnsproxy

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"

	"penstock/policy"
)

// serveTCP serves on a loopback listener until the test ends.
func serveTCP(t *testing.T, s *Server) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := contextOf(t)
	var wg sync.WaitGroup
	wg.Go(func() { s.ServeListener(ctx, ln) })
	t.Cleanup(func() {
		cancel()
		wg.Wait()
	})
	return ln.Addr().String()
}

func flow(network policy.Network) policy.Flow {
	return policy.Flow{Network: network, Src: ana, Dst: netip.MustParseAddrPort("8.8.8.8:53"), Peer: "ana"}
}

func dialFlow(t *testing.T, s *Server, network policy.Network) net.Conn {
	t.Helper()
	conn, err := s.DialFlow(t.Context(), flow(network))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// TestWaysIn asks through everything that the server serves, with a client that knows nothing of it.
func TestWaysIn(t *testing.T) {
	up := newResolver(t, "www.example. 300 IN A 203.0.113.1")
	for i := range 100 {
		up.Add(t, "big.example. 300 IN TXT "+strings.Repeat("x", 100+i))
	}
	s := newServer(t, Settings{Upstreams: []Upstream{named("main", up)}})
	ways := map[string]func() *dns.Conn{
		"UDP socket": func() *dns.Conn { return dial(t, "udp", serveSocket(t, s).String()) },
		"TCP socket": func() *dns.Conn { return dial(t, "tcp", serveTCP(t, s)) },
		"UDP flow":   func() *dns.Conn { return &dns.Conn{Conn: packetView{dialFlow(t, s, policy.UDP)}} },
		"TCP flow":   func() *dns.Conn { return &dns.Conn{Conn: dialFlow(t, s, policy.TCP)} },
	}
	for name, way := range ways {
		t.Run(name, func(t *testing.T) {
			conn := way()
			defer conn.Close()
			_, stream := conn.Conn.(interface{ CloseWrite() error })
			conn.UDPSize = dns.MaxMsgSize
			conn.SetDeadline(time.Now().Add(10 * time.Second))
			for range 2 {
				conn.WriteMsg(query("www.example", "A"))
				conn.WriteMsg(query("big.example", "TXT"))
				for range 2 {
					a, err := conn.ReadMsg()
					if err != nil {
						t.Fatal(err)
					}
					if a.Question[0].Name == "www.example." {
						if got, want := brief(a), "NOERROR 203.0.113.1"; got != want {
							t.Errorf("got %s, want %s", got, want)
						}
						continue
					}
					if a.Truncated == stream || (len(a.Answer) == 100) != stream {
						t.Errorf("big answer: got %d records, truncated %t, over a stream: %t", len(a.Answer), a.Truncated, stream)
					}
				}
			}
		})
	}
}

// packetView makes miekg/dns see a datagram connection, which it does by asking for net.PacketConn.
type packetView struct{ net.Conn }

func (packetView) ReadFrom([]byte) (int, net.Addr, error) { return 0, nil, errors.ErrUnsupported }
func (packetView) WriteTo([]byte, net.Addr) (int, error)  { return 0, errors.ErrUnsupported }

func dial(t *testing.T, network, addr string) *dns.Conn {
	t.Helper()
	conn, err := dns.Dial(network, addr)
	if err != nil {
		t.Fatal(err)
	}
	return conn
}

// TestFlowFacts: the policy judges a question of a flow with what is known of the flow.
func TestFlowFacts(t *testing.T) {
	var seen policy.Flow
	s := newServer(t, Settings{}, judged(func(f policy.Flow) policy.Verdict {
		seen = f
		seen.Names = append([]policy.Name(nil), f.Names...)
		return policy.Verdict{}
	}))
	conn := dialFlow(t, s, policy.UDP)
	wire, _ := query("WWW.Casino.Example", "A").Pack()
	conn.Write(wire)
	if seen.Peer != "ana" || seen.Src != ana || seen.Dst.IsValid() || seen.Network != policy.NetworkUnknown || seen.Time.IsZero() ||
		len(seen.Names) != 1 || seen.Names[0] != (policy.Name{Host: "www.casino.example", From: policy.FromQuestion}) {
		t.Errorf("got %+v", seen)
	}
	if conn.RemoteAddr().String() != "8.8.8.8:53" || conn.LocalAddr().String() != ana.String() {
		t.Errorf("addresses: got %s from %s", conn.RemoteAddr(), conn.LocalAddr())
	}
}

// TestFlowDeadlines: deadlines and Close end a Read that waits, and a deadline can be taken back.
func TestFlowDeadlines(t *testing.T) {
	s := newServer(t, Settings{})
	for _, network := range []policy.Network{policy.UDP, policy.TCP} {
		conn := dialFlow(t, s, network)
		buf := make([]byte, 512)
		conn.SetDeadline(time.Now().Add(time.Millisecond))
		for range 2 {
			if _, err := conn.Read(buf); !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("network %d: read after the deadline: got %v", network, err)
			}
		}
		conn.SetDeadline(time.Time{})
		failed := make(chan error)
		go func() {
			_, err := conn.Read(buf)
			failed <- err
		}()
		conn.Close()
		if err := <-failed; err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("network %d: read and close: got %v", network, err)
		}
		if _, err := conn.Write(buf); err == nil {
			t.Errorf("network %d: write after close: got no error", network)
		}
	}
}

// TestHalfClose: a client that has said all still gets its answers.
func TestHalfClose(t *testing.T) {
	up := newResolver(t, "www.example. 300 IN A 203.0.113.1")
	release := make(chan struct{})
	up.AnswerWith(func(dns.ResponseWriter, *dns.Msg) bool { <-release; return false })
	s := newServer(t, Settings{Upstreams: []Upstream{named("main", up)}})
	conn := &dns.Conn{Conn: dialFlow(t, s, policy.TCP)}
	conn.WriteMsg(query("www.example", "A"))
	conn.Conn.(interface{ CloseWrite() error }).CloseWrite()
	close(release)
	a, err := conn.ReadMsg()
	if err != nil {
		t.Fatal(err)
	}
	if got, want := brief(a), "NOERROR 203.0.113.1"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if _, err := conn.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("after the answer: got %v, want EOF", err)
	}
}

// TestConnectionLimits: one client cannot take all connections.
func TestConnectionLimits(t *testing.T) {
	s := newServer(t, Settings{MaxConns: 8})
	open := map[net.Conn]bool{}
	for i := range 3 {
		near, far := net.Pipe()
		open[near] = true
		done := make(chan error, 1)
		go func() { done <- s.ServeConn(t.Context(), ana, far) }()
		if i < 2 {
			near.Write([]byte{0}) // it is being read, so it has been let in
			continue
		}
		if err := <-done; !errors.Is(err, ErrTooManyConns) {
			t.Errorf("third connection of a client that may have two: got %v", err)
		}
	}
	near, far := net.Pipe()
	open[near] = true
	go s.ServeConn(t.Context(), netip.MustParseAddrPort("10.77.0.3:1"), far)
	if _, err := near.Write([]byte{0}); err != nil {
		t.Errorf("connection of another client: got %v", err)
	}
	for conn := range open {
		conn.Close()
	}
}

// TestInFlightLimit: one client cannot take all the places of queries that wait; the others are answered at once.
func TestInFlightLimit(t *testing.T) {
	up := newResolver(t, "a.example. 300 IN A 203.0.113.1")
	release := make(chan struct{})
	up.AnswerWith(func(dns.ResponseWriter, *dns.Msg) bool { <-release; return false })
	s := newServer(t, Settings{Upstreams: []Upstream{named("main", up)}, MaxInFlight: 3})
	answers := make(chan string, 8)
	send := func(client string, name string) {
		wire, _ := query(name, "A").Pack()
		s.ServePacket(t.Context(), netip.MustParseAddrPort(client), wire, func(msg []byte) error {
			a := new(dns.Msg)
			a.Unpack(msg)
			answers <- brief(a)
			return nil
		})
	}
	send("10.77.0.2:1", "a.example")
	send("10.77.0.2:1", "b.example")
	send("10.77.0.2:1", "c.example")
	if got, want := <-answers, "SERVFAIL edeOther"; got != want {
		t.Errorf("third query of a client that may have two: got %s, want %s", got, want)
	}
	send("10.77.0.3:1", "a.example")
	send("10.77.0.4:1", "a.example")
	if got, want := <-answers, "SERVFAIL edeOther"; got != want {
		t.Errorf("fourth query of all: got %s, want %s", got, want)
	}
	close(release)
	for range 3 {
		if got := <-answers; strings.HasPrefix(got, "SERVFAIL") {
			t.Errorf("query that was let in: got %s", got)
		}
	}
}

// TestRate: a client that asks upstreams too fast is refused until time has passed; what is cached is not counted.
func TestRate(t *testing.T) {
	up := newResolver(t, "www.example. 300 IN A 203.0.113.1")
	clock := newClock()
	s := newServer(t, Settings{Upstreams: []Upstream{named("main", up)}, ClientRate: 2}, at(clock))
	clock.add(time.Hour)
	var got []string
	for _, name := range []string{"www.example", "a.example", "b.example", "c.example", "d.example", "www.example"} {
		got = append(got, dns.RcodeToString[ask(t, s, name, "A").Rcode])
	}
	if got, want := strings.Join(got, " "), "NOERROR NXDOMAIN NXDOMAIN NXDOMAIN REFUSED NOERROR"; got != want {
		t.Errorf("burst: got %s\nwant %s", got, want)
	}
	clock.add(time.Second)
	if got, want := brief(ask(t, s, "d.example", "A")), "NXDOMAIN soa"; got != want {
		t.Errorf("a second later: got %s, want %s", got, want)
	}
}

// TestDrop: a rule that drops means silence, over TCP too, and the connection goes on.
func TestDrop(t *testing.T) {
	s := newServer(t, Settings{}, judged(func(f policy.Flow) policy.Verdict {
		if f.Names[0].Host == "silent.example" {
			return policy.Verdict{Action: policy.Drop}
		}
		return policy.Verdict{}
	}))
	conn := &dns.Conn{Conn: dialFlow(t, s, policy.TCP)}
	conn.WriteMsg(query("silent.example", "A"))
	q := query("casino.example", "A")
	conn.WriteMsg(q)
	a, err := conn.ReadMsg()
	if err != nil || a.Id != q.Id {
		t.Errorf("got %v, %v, want the answer to the second query", a, err)
	}
}

// TestRunEnds: when Run ends, those who wait are let go, and nobody is let in.
func TestRunEnds(t *testing.T) {
	up := newResolver(t)
	asked := make(chan struct{}, 8)
	up.AnswerWith(func(dns.ResponseWriter, *dns.Msg) bool { asked <- struct{}{}; return true })
	s := makeServer(t, Settings{Upstreams: []Upstream{{Address: "tcp://" + up.Addr.String()}}})
	ctx, cancel := contextOf(t)
	ended := make(chan error)
	go func() { ended <- s.Run(ctx) }()
	conn := &dns.Conn{Conn: dialFlow(t, s, policy.TCP)}
	conn.WriteMsg(query("www.example", "A"))
	<-asked
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("Run: got %v", err)
	}
	if _, err := s.DialFlow(t.Context(), flow(policy.UDP)); !errors.Is(err, errClosed) {
		t.Errorf("DialFlow after Run: got %v", err)
	}
	wire, _ := query("other.example", "A").Pack()
	s.ServePacket(t.Context(), ana, wire, func([]byte) error { t.Error("answered after Run"); return nil })
}
