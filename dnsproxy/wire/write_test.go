package wire

import (
	"bytes"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// TestZoneSOAIsLikeThatOfTheLibrary: an answer with the SOA of a zone has the octets that it has if the library packs it.
func TestZoneSOAIsLikeThatOfTheLibrary(t *testing.T) {
	for _, row := range []struct{ name, zone, server, mailbox string }{
		{"a.corp.example.", "corp.example.", "ns.corp.example.", "root.corp.example."},
		{"a.corp.example.", "corp.example.", "ns.elsewhere.test.", "root.ns.elsewhere.test."},
		{"a.corp.example.", "example.", "a.corp.example.", "a.corp.example."},
		{"a.corp.example.", "corp.example.", "ns.other.example.", "root.other.example."},
		{"a.corp.example.", "corp.example.", "NS.Corp.example.", "root.Corp.example."},
		{"a.corp.example.", "corp.example.", ".", "."},
		{"a.corp.example.", ".", "a.root-servers.net.", "nstld.verisign-grs.com."},
		{"single.", ".", "ns.single.", "ns.single."},
	} {
		msg := new(dns.Msg).SetQuestion(row.name, dns.TypeA)
		query, err := msg.Pack()
		if err != nil {
			t.Fatal(err)
		}
		msg.Response, msg.RecursionAvailable, msg.Rcode, msg.Compress = true, true, dns.RcodeNameError, true
		soa := &dns.SOA{Hdr: dns.RR_Header{Name: row.zone, Rrtype: dns.TypeSOA, Class: dns.ClassINET, Ttl: 30}, Ns: row.server, Mbox: row.mailbox, Serial: 7, Minttl: 60}
		msg.Ns = []dns.RR{soa}
		want, err := msg.Pack()
		if err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, dns.Len(soa)+1)
		end, err := dns.PackRR(soa, buf, 0, nil, false)
		if err != nil {
			t.Fatal(err)
		}
		head := SkipName(buf, 0)
		var q Question
		if what, _ := q.Read(query); what != GoodQuery {
			t.Fatal(what)
		}
		got, ok := AppendZoneSOA(Begin(nil, &q, dns.RcodeNameError), &q, string(buf[:head]), buf[head+10:end], 30*time.Second)
		if !ok || !bytes.Equal(got, want) {
			t.Errorf("%v: got\n%q, %t, want\n%q", row, got, ok, want)
		}
	}
}
