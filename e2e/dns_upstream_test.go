package e2e

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"

	"penstock/e2e/netlab"
)

// upstreamIPv4 is where upstream listens: plain DNS at 5353, DoT and DoQ at 8853, DoH over HTTP/2 and 3 at 8443. Its
// certificate is for dns.example.
const upstreamIPv4 = "203.0.113.60"

// upstream is a resolver that can be asked in every way, on the internet host. The first label of a name says how it
// answers; others have the address of public.example.
type upstream struct {
	lab *netlab.Lab

	mu     sync.Mutex // guards below
	asked  []asked
	silent bool // nothing is answered
}

// asked is one query that came.
type asked struct {
	way    string // udp, tcp, dot, doh, h3 or doq
	client netip.AddrPort
	msg    *dns.Msg
}

func startUpstream(t *testing.T, lab *netlab.Lab) *upstream {
	t.Helper()
	u := &upstream{lab: lab}
	if err := lab.Internet.AddAddr("lo", netip.MustParsePrefix(upstreamIPv4+"/32")); err != nil {
		t.Fatal(err)
	}
	certificate, err := lab.CA.Certificate("dns.example")
	if err != nil {
		t.Fatal(err)
	}
	secure := func(protocols ...string) *tls.Config {
		return &tls.Config{Certificates: []tls.Certificate{*certificate}, NextProtos: protocols}
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	var over sync.WaitGroup
	var closers []io.Closer
	t.Cleanup(func() {
		cancel()
		for _, c := range closers {
			_ = c.Close()
		}
		over.Wait()
	})
	listen := func(port string) net.Listener {
		ln, err := lab.Internet.Listen(ctx, "tcp", upstreamIPv4+":"+port)
		if err != nil {
			t.Fatal(err)
		}
		closers = append(closers, ln)
		return ln
	}
	packets := func(port string) net.PacketConn {
		pc, err := lab.Internet.ListenPacket(ctx, "udp", upstreamIPv4+":"+port)
		if err != nil {
			t.Fatal(err)
		}
		closers = append(closers, pc)
		return pc
	}
	handler := func(way string) dns.Handler {
		return dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) { u.serve(w, way, q) })
	}
	web := func(way string) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { u.serveHTTP(w, r, way) })
	}
	for _, s := range []*dns.Server{
		{PacketConn: packets("5353"), Handler: handler("udp")},
		{Listener: listen("5353"), Handler: handler("tcp")},
		{Listener: tls.NewListener(listen("8853"), secure("dot")), Handler: handler("dot")},
	} {
		over.Go(func() { _ = s.ActivateAndServe() })
	}
	doh := &http.Server{Handler: web("doh")}
	dohListener := listen("8443")
	doh.TLSConfig = secure("h2")
	over.Go(func() { _ = doh.ServeTLS(dohListener, "", "") })
	h3 := &http3.Server{Handler: web("h3"), TLSConfig: http3.ConfigureTLSConfig(secure())}
	h3Socket := packets("8443")
	over.Go(func() { _ = h3.Serve(h3Socket) })
	doq, err := quic.Listen(packets("8853"), secure("doq"), nil)
	if err != nil {
		t.Fatal(err)
	}
	closers = append(closers, doh, h3, doq)
	over.Go(func() { u.serveDoQ(ctx, &over, doq) })
	return u
}

func (u *upstream) serve(w dns.ResponseWriter, way string, q *dns.Msg) {
	a := u.answer(way, w.RemoteAddr(), q)
	if a == nil {
		return
	}
	if way == "udp" {
		if strings.HasPrefix(q.Question[0].Name, "forged.") {
			forge(w, q)
		}
		a.Truncate(int(max(q.IsEdns0().UDPSize(), dns.MinMsgSize)))
	}
	_ = w.WriteMsg(a)
}

// forge sends what somebody would who guesses: other ids, another question.
func forge(w dns.ResponseWriter, q *dns.Msg) {
	for i := range uint16(3) {
		a := new(dns.Msg).SetReply(q)
		a.Id += 1 + i
		rr, _ := dns.NewRR(q.Question[0].Name + " 60 IN A 203.0.113.66")
		a.Answer = []dns.RR{rr}
		_ = w.WriteMsg(a)
		a.Id = q.Id
		a.Question[0].Name = "other.example."
		_ = w.WriteMsg(a)
	}
}

func (u *upstream) serveHTTP(w http.ResponseWriter, r *http.Request, way string) {
	body, _ := io.ReadAll(r.Body)
	q := new(dns.Msg)
	if r.Header.Get("Content-Type") != "application/dns-message" || q.Unpack(body) != nil {
		http.Error(w, "not a DNS query", http.StatusBadRequest)
		return
	}
	client, _ := net.ResolveTCPAddr("tcp", r.RemoteAddr) // an address: nothing is resolved
	a := u.answer(way, client, q)
	if a == nil {
		<-r.Context().Done()
		return
	}
	wire, _ := a.Pack()
	w.Header().Set("Content-Type", "application/dns-message")
	_, _ = w.Write(wire)
}

func (u *upstream) serveDoQ(ctx context.Context, over *sync.WaitGroup, ln *quic.Listener) {
	for {
		conn, err := ln.Accept(ctx)
		if err != nil {
			return
		}
		over.Go(func() {
			defer conn.CloseWithError(0, "")
			for {
				stream, err := conn.AcceptStream(ctx)
				if err != nil {
					return
				}
				u.serveStream(conn, stream)
			}
		})
	}
}

func (u *upstream) serveStream(conn *quic.Conn, stream *quic.Stream) {
	defer stream.Close()
	b, err := io.ReadAll(stream)
	q := new(dns.Msg)
	if err != nil || len(b) < 2 || q.Unpack(b[2:]) != nil {
		return
	}
	if a := u.answer("doq", conn.RemoteAddr(), q); a != nil {
		wire, _ := a.Pack()
		_, _ = stream.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(wire))), wire...))
	}
}

// answer is the answer to q, or nil for silence.
func (u *upstream) answer(way string, client net.Addr, q *dns.Msg) *dns.Msg {
	from, _ := netip.ParseAddrPort(client.String())
	u.mu.Lock()
	u.asked = append(u.asked, asked{way, netip.AddrPortFrom(from.Addr().Unmap(), from.Port()), q.Copy()})
	silent := u.silent
	u.mu.Unlock()
	name := strings.ToLower(q.Question[0].Name)
	first, _, _ := strings.Cut(name, ".")
	a := new(dns.Msg).SetReply(q)
	a.RecursionAvailable = true
	switch {
	case silent || first == "silent":
		return nil
	case first == "slow":
		time.Sleep(300 * time.Millisecond)
	case first == "lame":
		a.RecursionAvailable = false
		a.Ns = records(name + " 60 IN NS ns.elsewhere.example.")
		return a
	case first == "loop":
		return u.sendBack(q)
	}
	for _, rr := range records(u.zone(first, name)...) {
		if kind := rr.Header().Rrtype; kind == q.Question[0].Qtype || kind == dns.TypeCNAME || rr.Header().Name != name {
			a.Answer = append(a.Answer, rr)
		}
	}
	if len(a.Answer) == 0 {
		a.Ns = records("example. 60 IN SOA ns.example. root.example. 1 3600 600 86400 60")
	}
	return a
}

// zone is the records for a name.
func (u *upstream) zone(first, name string) []string {
	switch first {
	case "big":
		var list []string
		for range 20 {
			list = append(list, name+` 60 IN TXT "`+strings.Repeat("x", 100+len(list))+`"`)
		}
		return list
	case "private":
		return []string{name + " 60 IN A 192.168.7.7", name + " 60 IN AAAA ::ffff:10.0.0.1"}
	case "mixed":
		return []string{name + " 60 IN A 203.0.113.10", name + " 60 IN A 127.0.0.1"}
	case "ech":
		return []string{name + ` 60 IN HTTPS 1 . alpn="h2" ech="AEX+DQBBzAAgACA="`}
	case "hints":
		return []string{name + ` 60 IN HTTPS 1 . alpn="h2" ipv4hint="192.168.7.7,203.0.113.10"`}
	case "service":
		return []string{name + ` 60 IN HTTPS 1 casino.example. alpn="h2"`}
	case "cloaked", "allowed":
		return []string{name + " 60 IN CNAME casino.example.", "casino.example. 60 IN A 203.0.113.20"}
	case "short":
		return []string{name + " 1 IN A 203.0.113.10"}
	case "aged":
		return []string{name + " 600 IN A 203.0.113.10"}
	}
	return []string{name + " 60 IN A 203.0.113.10"}
}

// sendBack asks the laptop, which asked: a loop.
func (u *upstream) sendBack(q *dns.Msg) *dns.Msg {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	conn, err := u.lab.Internet.DialContext(ctx, "udp", netlab.LaptopIPv4+":5300")
	if err != nil {
		return nil
	}
	defer conn.Close()
	back := q.Copy()
	back.Id = dns.Id()
	a, _, err := new(dns.Client).ExchangeWithConnContext(ctx, back, &dns.Conn{Conn: conn})
	if err != nil {
		return nil
	}
	a.Id = q.Id
	return a
}

// records parses zone file notation that is known to be good.
func records(list ...string) []dns.RR {
	var rrs []dns.RR
	for _, s := range list {
		rr, err := dns.NewRR(s)
		if err != nil {
			panic(err)
		}
		rrs = append(rrs, rr)
	}
	return rrs
}

// queries are those that came for a name so far.
func (u *upstream) queries(name string) []asked {
	u.mu.Lock()
	defer u.mu.Unlock()
	var list []asked
	for _, a := range u.asked {
		if strings.EqualFold(a.msg.Question[0].Name, name+".") {
			list = append(list, a)
		}
	}
	return list
}

func (u *upstream) silence(on bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.silent = on
}
