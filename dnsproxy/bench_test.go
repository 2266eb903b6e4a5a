package dnsproxy

import (
	"net"
	"net/netip"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"

	"penstock/dnsproxy/dnstest"
	"penstock/policy"
)

// The three benchmarks ask over a loopback UDP socket, with the same client, so that what differs is the server. The client has
// window queries on the way, as dnsperf does; ns/op is the time both ends need for one of them.
const window = 32

// BenchmarkBareHandler is the measure: a miekg/dns server whose handler does nothing but answer.
func BenchmarkBareHandler(b *testing.B) {
	pc := listenPacket(b)
	rr, err := dns.NewRR("www.example. 300 IN A 203.0.113.1")
	if err != nil {
		b.Fatal(err)
	}
	dnstest.Serve(b, &dns.Server{PacketConn: pc, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		a := new(dns.Msg).SetReply(q)
		a.Answer = []dns.RR{rr}
		w.WriteMsg(a)
	})})
	benchmarkUDP(b, pc.LocalAddr(), "www.example")
}

func BenchmarkCachedHit(b *testing.B) {
	up := newResolver(b, "www.example. 86400 IN A 203.0.113.1")
	benchmarkUDP(b, serveSocket(b, newServer(b, Settings{Upstreams: []Upstream{named("main", up)}})), "www.example")
}

func BenchmarkBlockedHit(b *testing.B) {
	refuse := policy.Verdict{Rule: "no-gambling", Category: "gambling"}
	s := newServer(b, Settings{}, judged(func(policy.Flow) policy.Verdict { return refuse }))
	benchmarkUDP(b, serveSocket(b, s), "casino.example")
}

// BenchmarkServePacket is the same without sockets: what the server itself costs.
func BenchmarkServePacket(b *testing.B) {
	for _, tt := range []struct{ says, name string }{{"cached", "www.example"}, {"blocked", "casino.example"}} {
		b.Run(tt.says, func(b *testing.B) {
			up := newResolver(b, "www.example. 86400 IN A 203.0.113.1")
			s := newServer(b, Settings{Upstreams: []Upstream{named("main", up)}}, func(s *setup) { s.Policy = oneBlocked{} })
			ask(b, s, tt.name, "A")
			wire, _ := query(tt.name, "A").Pack()
			reply := func([]byte) error { return nil }
			b.ReportAllocs()
			for b.Loop() {
				s.ServePacket(b.Context(), ana, wire, reply)
			}
		})
	}
}

// oneBlocked is a policy that costs next to nothing.
type oneBlocked struct{}

func (oneBlocked) Decide(policy.Flow) policy.Verdict { return policy.Verdict{Action: policy.Forward} }

func (oneBlocked) DecideName(f policy.Flow) policy.Verdict {
	if f.Names[0].Host == "casino.example" {
		return policy.Verdict{Rule: "no-gambling", Category: "gambling"}
	}
	return policy.Verdict{Action: policy.Forward, Egress: "direct", Rule: "rest"}
}

// BenchmarkFlow is a query through a flow of its own, as a resolver library makes one: what the pipeline pays for port 53.
func BenchmarkFlow(b *testing.B) {
	s := newServer(b, Settings{})
	wire, err := query("localhost", "A").Pack()
	if err != nil {
		b.Fatal(err)
	}
	buf := make([]byte, 2048)
	b.ReportAllocs()
	for b.Loop() {
		conn, err := s.DialFlow(b.Context(), flow(policy.UDP))
		if err != nil {
			b.Fatal(err)
		}
		conn.SetReadDeadline(time.Now().Add(10 * time.Second))
		conn.Write(wire)
		if _, err := conn.Read(buf); err != nil {
			b.Fatal(err)
		}
		conn.Close()
	}
}

func listenPacket(tb testing.TB) *net.UDPConn {
	tb.Helper()
	pc, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.MustParseAddrPort("127.0.0.1:0")))
	if err != nil {
		tb.Fatal(err)
	}
	return pc
}

// serveSocket serves on a loopback socket until the test ends.
func serveSocket(tb testing.TB, s *Server) net.Addr {
	tb.Helper()
	pc := listenPacket(tb)
	var wg sync.WaitGroup
	ctx, cancel := contextOf(tb)
	wg.Go(func() { s.ServePacketConn(ctx, pc) })
	tb.Cleanup(func() {
		cancel()
		wg.Wait()
		pc.Close()
	})
	return pc.LocalAddr()
}

func benchmarkUDP(b *testing.B, server net.Addr, name string) {
	conn, err := net.DialUDP("udp", nil, server.(*net.UDPAddr))
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Close()
	wire, err := query(name, "A").Pack()
	if err != nil {
		b.Fatal(err)
	}
	buf := make([]byte, 2048)
	roundTrip := func(n int) {
		for range n {
			if _, err := conn.Write(wire); err != nil {
				b.Fatal(err)
			}
		}
		for range n {
			if _, err := conn.Read(buf); err != nil {
				b.Fatal(err)
			}
		}
	}
	roundTrip(1) // into the cache
	runtime.GC()
	b.ReportAllocs()
	b.ResetTimer()
	before := cpuTime()
	for done := 0; done < b.N; done += window {
		roundTrip(min(window, b.N-done))
	}
	b.ReportMetric(float64((cpuTime()-before).Nanoseconds())/float64(b.N), "cpu-ns/op")
}
