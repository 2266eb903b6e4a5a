package wire

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// read packs a query and reads it.
func read(t testing.TB, name string, qtype uint16, edns bool) *Question {
	t.Helper()
	msg := new(dns.Msg).SetQuestion(name, qtype)
	if edns {
		msg.SetEdns0(4096, true)
	}
	packed, err := msg.Pack()
	if err != nil {
		t.Fatal(err)
	}
	q := new(Question)
	if what, rcode := q.Read(packed); what != GoodQuery {
		t.Fatalf("read %s: got %d with %s", name, what, dns.RcodeToString[rcode])
	}
	return q
}

// TestRead: a name is read as the client wrote it, in lower case, and as text.
func TestRead(t *testing.T) {
	tests := []struct{ name, host, key, wire string }{
		{"WwW.Example.", "www.example", "\x03www\x07example\x00", "\x03WwW\x07Example\x00"},
		{".", ".", "\x00", "\x00"},
		{`a\.b.example.`, `a\046b.example`, "\x03a.b\x07example\x00", "\x03a.b\x07example\x00"},
		{`a\000\ \255.example.`, `a\000\032\255.example`, "\x04a\x00 \xff\x07example\x00", "\x04a\x00 \xff\x07example\x00"},
		{`back\\slash.`, `back\092slash`, "\x0aback\\slash\x00", "\x0aback\\slash\x00"},
	}
	for _, tt := range tests {
		q := read(t, tt.name, dns.TypeA, false)
		if q.Host() != tt.host || q.Key() != tt.key || string(q.Name()) != tt.wire {
			t.Errorf("%s: got %q, %q, %q; want %q, %q, %q", tt.name, q.Host(), q.Key(), q.Name(), tt.host, tt.key, tt.wire)
		}
	}
	if long := read(t, strings.Repeat(strings.Repeat(`\255`, 63)+".", 3)+strings.Repeat(`\255`, 61)+".", dns.TypeA, false); len(long.Key()) != maxName {
		t.Errorf("the longest name: got %d octets, want %d", len(long.Key()), maxName)
	}
}

// TestLimits: how large an answer may be.
func TestLimits(t *testing.T) {
	if got := read(t, "www.example.", dns.TypeA, false).Limit(); got != plainUDP {
		t.Errorf("without EDNS: got %d, want %d", got, plainUDP)
	}
	q := read(t, "www.example.", dns.TypeA, true)
	if got := q.Limit(); got != MaxUDP || !q.EDNS || !q.DO {
		t.Errorf("with EDNS and 4096: got %d, EDNS %t, DO %t; want %d", got, q.EDNS, q.DO, MaxUDP)
	}
}

// TestAnswersParse: what is written by hand is what a library reads.
func TestAnswersParse(t *testing.T) {
	long := EDE{Code: dns.ExtendedErrorCodeBlocked, Prefix: "blocked by rule ", Detail: strings.Repeat("x", 300)}
	longest := strings.Repeat(strings.Repeat("a", 63)+".", 3) + strings.Repeat("a", 61) + "."
	for _, edns := range []bool{false, true} {
		for _, name := range []string{"www.example.", ".", longest} {
			q := read(t, name, dns.TypeA, edns)
			for says, out := range map[string][]byte{
				"empty":    AppendEmpty(nil, q, dns.RcodeRefused, long),
				"negative": AppendNegative(nil, q, dns.RcodeNameError, 30*time.Second, long),
				"address":  AppendOPT(AppendAddr(Begin(nil, q, 0), netip.MustParseAddr("192.0.2.1"), time.Minute), q, 0, EDE{}),
				"v6":       AppendOPT(AppendAddr(Begin(nil, q, 0), netip.MustParseAddr("2001:db8::1"), time.Minute), q, 0, EDE{}),
				"bad vers": AppendEmpty(nil, q, dns.RcodeBadVers, EDE{}),
			} {
				a := new(dns.Msg)
				if err := a.Unpack(out); err != nil {
					t.Errorf("%s for %.20s: %v", says, name, err)
					continue
				}
				if a.Id != q.ID || !a.Response || len(a.Question) != 1 || a.Question[0].Name != name {
					t.Errorf("%s for %.20s: got %s", says, name, a)
				}
				if (a.IsEdns0() != nil) != edns {
					t.Errorf("%s for %.20s: OPT %t, want %t", says, name, a.IsEdns0() != nil, edns)
				}
				if len(out) > plainUDP {
					t.Errorf("%s for %.20s: %d octets, want at most %d", says, name, len(out), plainUDP)
				}
				if n := len(AppendOPT(Begin(nil, q, 0), q, 0, long)) - len(Begin(nil, q, 0)); n != OPTLen(q, long) {
					t.Errorf("OPT for %.20s: got %d octets, announced %d", name, n, OPTLen(q, long))
				}
			}
		}
	}
}

// TestMatches: only an answer to the very question is one.
func TestMatches(t *testing.T) {
	query := UpstreamQuery(read(t, "WWW.Example.", dns.TypeA, false))
	binary.BigEndian.PutUint16(query, 0x1234)
	answer := func(change func(*dns.Msg)) []byte {
		m := new(dns.Msg)
		if err := m.Unpack(query); err != nil {
			t.Fatal(err)
		}
		a := new(dns.Msg).SetReply(m)
		change(a)
		packed, err := a.Pack()
		if err != nil {
			t.Fatal(err)
		}
		return packed
	}
	tests := []struct {
		says string
		msg  []byte
		want bool
	}{
		{"the answer", answer(func(*dns.Msg) {}), true},
		{"in another spelling", answer(func(a *dns.Msg) { a.Question[0].Name = "wWw.eXAMPLE." }), true},
		{"another id", answer(func(a *dns.Msg) { a.Id++ }), false},
		{"another name", answer(func(a *dns.Msg) { a.Question[0].Name = "wwx.example." }), false},
		{"another type", answer(func(a *dns.Msg) { a.Question[0].Qtype = dns.TypeAAAA }), false},
		{"another class", answer(func(a *dns.Msg) { a.Question[0].Qclass = dns.ClassCHAOS }), false},
		{"another opcode", answer(func(a *dns.Msg) { a.Opcode = dns.OpcodeNotify }), false},
		{"no question", answer(func(a *dns.Msg) { a.Question = nil }), false},
		{"the query itself", query, false},
		{"half of it", answer(func(*dns.Msg) {})[:20], false},
		{"nothing", nil, false},
	}
	for _, tt := range tests {
		if got := Matches(query, tt.msg); got != tt.want {
			t.Errorf("%s: got %t, want %t", tt.says, got, tt.want)
		}
	}
}

// TestPadding: the length of a padded query says nothing, and the query is the same.
func TestPadding(t *testing.T) {
	for n := 1; n < 60; n++ {
		query := UpstreamQuery(read(t, strings.Repeat("a", n)+".example.", dns.TypeA, true))
		out := Padded(query)
		m := new(dns.Msg)
		if err := m.Unpack(out); err != nil || len(out)%PaddedTo != 0 || m.Question[0].Name != strings.Repeat("a", n)+".example." {
			t.Errorf("name of %d: got %d octets, %v, %s", n, len(out), err, m)
		}
	}
}

// TestFrames: a frame that ends early is an error, whatever its length says, and a buffer is used again.
func TestFrames(t *testing.T) {
	frame := binary.BigEndian.AppendUint16(nil, 12)
	for _, body := range []string{"", "short"} {
		if _, err := ReadFrame(strings.NewReader(string(frame)+body), nil); err == nil {
			t.Errorf("a frame of 12 octets with %d: got no error", len(body))
		}
	}
	buf := make([]byte, 0, 100)
	got, err := ReadFrame(strings.NewReader(string(frame)+"twelve octet"), buf)
	if err != nil || string(got) != "twelve octet" || &got[0] != &buf[:1][0] {
		t.Errorf("got %q, %v, want the frame in the buffer", got, err)
	}
}

// TestReadingAllocates: neither a query nor an answer takes memory.
func TestReadingAllocates(t *testing.T) {
	packed, err := new(dns.Msg).SetQuestion("www.example.", dns.TypeA).SetEdns0(1232, false).Pack()
	if err != nil {
		t.Fatal(err)
	}
	q, out := new(Question), make([]byte, 0, MaxUDP)
	if got := testing.AllocsPerRun(100, func() {
		q.Read(packed)
		out = AppendNegative(out[:0], q, dns.RcodeNameError, time.Minute, EDE{Code: dns.ExtendedErrorCodeBlocked, Prefix: "blocked by rule ", Detail: "r"})
	}); got != 0 {
		t.Errorf("got %v allocations, want 0", got)
	}
}

// FuzzRead: whatever comes, what is read of it is what a library reads.
func FuzzRead(f *testing.F) {
	for _, name := range []string{"www.example.", ".", `a\000.example.`} {
		packed, err := new(dns.Msg).SetQuestion(name, dns.TypeHTTPS).SetEdns0(1232, true).Pack()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(packed)
		f.Add(packed[:len(packed)-3])
	}
	f.Fuzz(func(t *testing.T, msg []byte) {
		q := new(Question)
		what, _ := q.Read(msg)
		if what != GoodQuery {
			return
		}
		back := UpstreamQuery(q)
		m := new(dns.Msg)
		if err := m.Unpack(back); err != nil {
			t.Fatalf("the query to upstreams does not parse: %v\n%x", err, back)
		}
		if m.Question[0].Qtype != q.Type || m.Question[0].Qclass != q.Class || !bytes.EqualFold(q.Name(), []byte(q.Key())) && isASCII(q.Name()) {
			t.Fatalf("got %s of %x", m, msg)
		}
	})
}

func isASCII(b []byte) bool {
	return !bytes.ContainsFunc(b, func(r rune) bool { return r >= 0x80 })
}

// TestPadAnswer: a padded answer is the same answer in a size that says little.
func TestPadAnswer(t *testing.T) {
	for _, edns := range []bool{false, true} {
		q := read(t, "www.example.", dns.TypeA, edns)
		for n := range 120 {
			out := Begin(nil, q, 0)
			for range n {
				out = AppendAddr(out, netip.MustParseAddr("192.0.2.1"), time.Minute)
			}
			whole := AppendOPT(out, q, 0, EDE{Code: 15, Prefix: "x"})
			got := PadAnswer(bytes.Clone(whole))
			a := new(dns.Msg)
			if err := a.Unpack(got); err != nil || len(a.Answer) != n {
				t.Fatalf("%d records: %v, %d", n, err, len(a.Answer))
			}
			if edns != (len(got)%AnswersPaddedTo == 0) || !edns && !bytes.Equal(got, whole) {
				t.Errorf("%d records, EDNS %t: got %d octets of %d", n, edns, len(got), len(whole))
			}
			if edns && len(a.IsEdns0().Option) != 2 {
				t.Errorf("%d records: got the options %v, want two", n, a.IsEdns0().Option)
			}
		}
	}
	for _, odd := range [][]byte{nil, {1, 2, 3}, bytes.Repeat([]byte{0xff}, 40), append(AppendEmpty(nil, read(t, "www.example.", dns.TypeA, true), 0, EDE{}), 0)} {
		if got := PadAnswer(bytes.Clone(odd)); !bytes.Equal(got, odd) {
			t.Errorf("got %x of %x", got, odd)
		}
	}
}

// TestPaddingIsSeen: a padding option is found among others, and in an OPT record that is cut off it is not.
func TestPaddingIsSeen(t *testing.T) {
	for want, options := range map[bool][]dns.EDNS0{
		true:  {&dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: "0011223344556677"}, &dns.EDNS0_PADDING{Padding: make([]byte, 9)}},
		false: {&dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: "0011223344556677"}},
	} {
		m := new(dns.Msg).SetQuestion("www.example.", dns.TypeA).SetEdns0(1232, false)
		m.IsEdns0().Option = options
		packed, err := m.Pack()
		if err != nil {
			t.Fatal(err)
		}
		q := new(Question)
		if what, _ := q.Read(packed); what != GoodQuery || q.Padding != want {
			t.Errorf("got %d, %t, want %t", what, q.Padding, want)
		}
	}
	if hasOption([]byte{0, 12}, 12) || hasOption([]byte{0, 10, 0xff, 0xff, 0, 12, 0, 0}, 12) {
		t.Error("found an option in data that is cut off")
	}
}

// TestLifetime: how long others may keep an answer.
func TestLifetime(t *testing.T) {
	q := read(t, "www.example.", dns.TypeA, true)
	one := netip.MustParseAddr("192.0.2.1")
	for says, tt := range map[string]struct {
		msg  []byte
		want time.Duration
	}{
		"the shortest":        {AppendOPT(AppendAddr(AppendAddr(Begin(nil, q, 0), one, time.Hour), one, time.Minute), q, 0, EDE{}), time.Minute},
		"of a negative":       {AppendNegative(nil, q, dns.RcodeNameError, 42*time.Second, EDE{}), 42 * time.Second},
		"of an empty one":     {AppendEmpty(nil, q, dns.RcodeServerFailure, EDE{}), 0},
		"of no message":       {[]byte("no message at all"), 0},
		"of less than a head": {[]byte{1}, 0},
	} {
		if got := Lifetime(tt.msg); got != tt.want {
			t.Errorf("%s: got %v, want %v", says, got, tt.want)
		}
	}
}

// FuzzAnswers: whatever an upstream sent, looking at it does no harm.
func FuzzAnswers(f *testing.F) {
	q := new(Question)
	packed, err := new(dns.Msg).SetQuestion("www.example.", dns.TypeA).SetEdns0(1232, true).Pack()
	if err != nil {
		f.Fatal(err)
	}
	q.Read(packed)
	f.Add(AppendNegative(nil, q, 3, time.Minute, EDE{Code: 15}))
	f.Add(packed)
	f.Fuzz(func(t *testing.T, msg []byte) {
		if Lifetime(msg) < 0 || len(PadAnswer(bytes.Clone(msg))) < len(msg) {
			t.Errorf("%x: got a lifetime of %v, and less than there was", msg, Lifetime(msg))
		}
	})
}
