package dnsproxy

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/miekg/dns"
)

// packet serves one datagram that needs no upstream and returns the answer, or nil.
func packet(t testing.TB, s *Server, query []byte) []byte {
	t.Helper()
	var answer []byte
	s.ServePacket(t.Context(), ana, query, func(msg []byte) error {
		answer = append([]byte(nil), msg...)
		return nil
	})
	return answer
}

// TestOddQueries feeds messages that no good client sends.
func TestOddQueries(t *testing.T) {
	s := newServer(t, Settings{}, judged(blocks(map[string]string{"example": "all"})))
	pack := func(change func(*dns.Msg)) string {
		q := new(dns.Msg).SetQuestion("www.example.", dns.TypeA)
		change(q)
		wire, err := q.Pack()
		if err != nil {
			t.Fatal(err)
		}
		return string(wire)
	}
	plain := pack(func(*dns.Msg) {})
	const head = "\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00"
	tests := []struct{ says, query, want string }{
		{"an ordinary query is answered", plain, "NXDOMAIN"},
		{"nothing is met with silence", "", ""},
		{"half a header is met with silence", plain[:11], ""},
		{"an answer is met with silence", pack(func(q *dns.Msg) { q.Response = true }), ""},
		{"an update is not implemented", pack(func(q *dns.Msg) { q.Opcode = dns.OpcodeUpdate }), "NOTIMP"},
		{"a notify is not implemented", pack(func(q *dns.Msg) { q.Opcode = dns.OpcodeNotify }), "NOTIMP"},
		{"no question is an error", pack(func(q *dns.Msg) { q.Question = nil }), "FORMERR"},
		{"two questions are an error", pack(func(q *dns.Msg) { q.Question = append(q.Question, q.Question[0]) }), "FORMERR"},
		{"a cut question is an error", plain[:len(plain)-1], "FORMERR"},
		{"a cut name is an error", plain[:14], "FORMERR"},
		{"a compressed question is an error", head + "\xc0\x0c\x00\x01\x00\x01", "FORMERR"},
		{"a reserved label type is an error", head + "\x80aaa\x00\x00\x01\x00\x01", "FORMERR"},
		{"a name of 256 octets is an error", head + strings.Repeat("\x3f"+strings.Repeat("a", 63), 4) + "\x00\x00\x01\x00\x01", "FORMERR"},
		{"a record that is announced and missing is an error", plain[:11] + "\x01" + plain[12:], "FORMERR"},
		{"OPT with another version is BADVERS", pack(func(q *dns.Msg) { q.SetEdns0(1232, false); q.IsEdns0().SetVersion(1) }), "BADSIG"}, // the older name of 16
		{"two OPTs are an error", pack(func(q *dns.Msg) { q.SetEdns0(1232, false); q.Extra = append(q.Extra, q.Extra[0]) }), "FORMERR"},
		{"OPT as a type to ask for is an error", pack(func(q *dns.Msg) { q.Question[0].Qtype = dns.TypeOPT }), "FORMERR"},
		{"class CHAOS is refused", pack(func(q *dns.Msg) { q.Question[0].Qclass = dns.ClassCHAOS }), "REFUSED"},
	}
	for _, tt := range tests {
		t.Run(tt.says, func(t *testing.T) {
			answer := packet(t, s, []byte(tt.query))
			got := ""
			if answer != nil {
				a := new(dns.Msg)
				if err := a.Unpack(answer); err != nil {
					t.Fatalf("answer does not parse: %v\n%s", err, hex.Dump(answer))
				}
				got = dns.RcodeToString[a.Rcode]
				if a.Id != binary.BigEndian.Uint16([]byte(tt.query)) || !a.Response {
					t.Errorf("id %04x, response %t", a.Id, a.Response)
				}
			}
			if got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

// TestEDNS: what is between two neighbours stays between them.
func TestEDNS(t *testing.T) {
	up := newResolver(t, "www.example. 300 IN A 203.0.113.1")
	s := newServer(t, Settings{Upstreams: []Upstream{named("main", up)}})

	q := query("WwW.eXample", "A")
	q.IsEdns0().SetDo()
	q.CheckingDisabled = true
	q.IsEdns0().Option = []dns.EDNS0{
		&dns.EDNS0_SUBNET{Code: dns.EDNS0SUBNET, Family: 1, SourceNetmask: 24, Address: []byte{192, 0, 2, 0}},
		&dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: "0011223344556677"},
	}
	a := exchangePacket(t, s, ana, q)
	if got := a.Question[0].Name; got != "WwW.eXample." {
		t.Errorf("spelling of the question: got %s", got)
	}
	if !a.CheckingDisabled || !a.RecursionDesired || !a.RecursionAvailable {
		t.Errorf("bits: got %s", a.MsgHdr.String())
	}
	if opt := a.IsEdns0(); opt == nil || !opt.Do() || len(opt.Option) != 0 {
		t.Errorf("OPT of the answer: got %v", opt)
	}
	sent := up.Queries()[0]
	opt := sent.IsEdns0()
	if opt == nil || !opt.Do() || len(opt.Option) != 0 || opt.UDPSize() != 1232 || !sent.CheckingDisabled {
		t.Errorf("upstream query: got %s", sent)
	}
	if got := sent.Question[0].Name; got != "www.example." {
		t.Errorf("upstream question: got %s", got)
	}

	plain := new(dns.Msg).SetQuestion("www.example.", dns.TypeA)
	if a := exchangePacket(t, s, ana, plain); a.IsEdns0() != nil || a.CheckingDisabled {
		t.Errorf("answer to a query without EDNS: got %s", a)
	}
	if got := len(up.Queries()); got != 2 {
		t.Errorf("upstream queries: got %d, want 2: DO and CD are part of the key", got)
	}
}

// TestSizes: an answer over UDP has whole records, fits, and says when some are missing; over TCP it has them all.
func TestSizes(t *testing.T) {
	up := newResolver(t)
	for i := range 100 {
		up.Add(t, fmt.Sprintf("big.example. 300 IN A 203.0.113.%d", i))
	}
	s := newServer(t, Settings{Upstreams: []Upstream{named("main", up)}})
	tests := []struct {
		says string
		size uint16 // of EDNS; 0 is none
		most int
	}{
		{"without EDNS at most 512 octets", 0, 512},
		{"a small EDNS size is kept to", 700, 700},
		{"an EDNS size below 512 is 512", 100, 512},
		{"a large EDNS size is cut to 1232", 4096, 1232},
	}
	for _, tt := range tests {
		t.Run(tt.says, func(t *testing.T) {
			q := new(dns.Msg).SetQuestion("big.example.", dns.TypeA)
			if tt.size > 0 {
				q.SetEdns0(tt.size, false)
			}
			a := exchangePacket(t, s, ana, q)
			a.Compress = true
			if !a.Truncated || a.Len() > tt.most || a.Len() < tt.most-16 {
				t.Errorf("got %d octets, truncated %t, want at most %d, and full", a.Len(), a.Truncated, tt.most)
			}
		})
	}
	a, err := s.Query(t.Context(), anaFlow(), "big.example", "A")
	if err != nil || len(a.Records) != 100 {
		t.Errorf("over a stream: got %d records, %v, want 100", len(a.Records), err)
	}
}

// TestHostileNames: names with odd octets are other names than those they look like.
func TestHostileNames(t *testing.T) {
	up := newResolver(t)
	s := newServer(t, Settings{Upstreams: []Upstream{named("main", up)}}, judged(blocks(map[string]string{"casino.example": "gambling"})))
	tests := []struct{ says, name, want string }{
		{"a dot in a label is no separator", "www\\.casino.example.", "NXDOMAIN soa"},
		{"NUL in a label does not end it", "casino\\000.example.", "NXDOMAIN soa"},
		{"a blank stays", "a\\ b.casino.example.", "NXDOMAIN soa edeFiltered"},
	}
	for _, tt := range tests {
		t.Run(tt.says, func(t *testing.T) {
			if got := brief(ask(t, s, tt.name, "A")); got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		})
	}
}

// TestClientsOffTheTunnel: on a host socket only the configured networks are answered.
func TestClientsOffTheTunnel(t *testing.T) {
	s := newServer(t, Settings{Clients: []netip.Prefix{netip.MustParsePrefix("10.77.0.0/24")}})
	st := s.state.Load()
	for addr, want := range map[string]bool{"10.77.0.9": true, "::ffff:10.77.0.9": true, "192.0.2.1": false, "::1": false} {
		if got := st.serves(netip.MustParseAddr(addr)); got != want {
			t.Errorf("%s: got %t, want %t", addr, got, want)
		}
	}
}
