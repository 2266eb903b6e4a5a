package cache

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/miekg/dns"

	"penstock/dnsproxy/dnstest"
	"penstock/dnsproxy/wire"
)

// FuzzClean: whatever an upstream says, what is kept of it parses, keeps the question, and can be cut to any size.
func FuzzClean(f *testing.F) {
	for _, records := range [][]string{
		{"www.example. 300 IN A 203.0.113.1"},
		{"www.example. 300 IN CNAME b.example.", "b.example. 300 IN AAAA 2001:db8::1"},
		{"www.example. 300 IN HTTPS 1 . alpn=h2 ipv4hint=10.0.0.1,203.0.113.1 ech=AEX+DQBB mandatory=ipv4hint"},
		{"www.example. 300 IN TXT hello"},
	} {
		msg := new(dns.Msg).SetQuestion("www.example.", dns.TypeHTTPS)
		for _, s := range records {
			rr, err := dns.NewRR(s)
			if err != nil {
				f.Fatal(err)
			}
			msg.Answer = append(msg.Answer, rr)
		}
		octets, err := msg.Pack()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(octets, uint16(100))
	}
	q := new(wire.Question)
	octets, err := dnstest.Query("www.example", "HTTPS").Pack()
	if err != nil {
		f.Fatal(err)
	}
	q.Read(octets)
	f.Fuzz(func(t *testing.T, octets []byte, size uint16) {
		msg := new(dns.Msg)
		if !wire.Matches(wire.UpstreamQuery(q), append([]byte{0, 0}, octets[min(2, len(octets)):]...)) || msg.Unpack(octets) != nil {
			return
		}
		now := noon()
		e, err := Clean(msg, "www.example", "main", Cleaning{StripECH: true}, now)
		if err != nil {
			return
		}
		keep := func(addr netip.Addr) bool { return addr.Is4() }
		for _, e := range []*Entry{e, must(t, e, keep)} {
			limit := max(int(size), 512)
			out := e.Append(nil, q, now, limit)
			a := new(dns.Msg)
			if err := a.Unpack(out); err != nil {
				t.Fatalf("answer does not parse: %v\n%x\n%x", err, octets, out)
			}
			if len(out) > limit || a.Id != q.ID || len(a.Question) != 1 || int(binary.BigEndian.Uint16(out[6:])) != len(a.Answer) {
				t.Fatalf("got %d octets for %d: %s", len(out), limit, a)
			}
			for _, rr := range a.Answer {
				if !(Cleaning{}).allows(rr) {
					t.Fatalf("private address: %s", rr)
				}
				if svcb := service(rr); svcb != nil {
					for _, kv := range svcb.Value {
						if kv.Key() == dns.SVCB_ECHCONFIG {
							t.Fatalf("ech: %s", rr)
						}
					}
				}
			}
		}
	})
}

func must(t *testing.T, e *Entry, keep func(netip.Addr) bool) *Entry {
	t.Helper()
	f, err := e.WithoutHints(keep)
	if err != nil {
		t.Fatal(err)
	}
	return f
}
