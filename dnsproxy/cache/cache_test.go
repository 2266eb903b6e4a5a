package cache

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/miekg/dns"

	"penstock/dnsproxy/dnstest"
	"penstock/dnsproxy/wire"
)

func noon() time.Time { return time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC) }

func entryFor(t testing.TB, host string, now time.Time, records ...string) *Entry {
	t.Helper()
	msg := new(dns.Msg).SetQuestion(dns.Fqdn(host), dns.TypeA)
	for _, s := range records {
		rr, err := dns.NewRR(s)
		if err != nil {
			t.Fatal(err)
		}
		msg.Answer = append(msg.Answer, rr)
	}
	e, err := Clean(msg, host, "main", Cleaning{}, now)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// TestCacheBounds: the cache stays in both of its bounds, and what is used stays longest.
func TestCacheBounds(t *testing.T) {
	now := noon()
	tests := []struct {
		says           string
		bytes, entries int
		want           int // entries that are left of 100
	}{
		{"bound in entries", 1 << 20, 10, 10},
		{"bound in octets", 5300, 1000, 10},
		{"no cache by octets", -1, 10, 0},
		{"no cache by entries", 1 << 20, -1, 0},
	}
	for _, tt := range tests {
		t.Run(tt.says, func(t *testing.T) {
			c := New(tt.bytes, tt.entries)
			for i := range 100 {
				e := entryFor(t, fmt.Sprintf("h%02d.example", i), now, fmt.Sprintf("h%02d.example. 300 IN A 203.0.113.1", i))
				c.Put(Key{Name: string(e.name())}, e)
				c.Get(Key{Name: "\x03h00\x07example\x00"})
			}
			entries, bytes := c.Sizes()
			if entries != tt.want || bytes > max(tt.bytes, 0) {
				t.Errorf("got %d entries in %d octets, want %d in at most %d", entries, bytes, tt.want, tt.bytes)
			}
			if used := c.Get(Key{Name: "\x03h00\x07example\x00"}) != nil; used != (tt.want > 0) {
				t.Errorf("the entry that is used: there %t", used)
			}
			c.Flush()
			if entries, bytes := c.Sizes(); entries != 0 || bytes != 0 {
				t.Errorf("after a flush: got %d entries in %d octets", entries, bytes)
			}
		})
	}
}

// TestCacheExpiry: an entry goes an hour after its time, when it is of no use for a failing upstream any more.
func TestCacheExpiry(t *testing.T) {
	now := noon()
	c := New(0, 0)
	e := entryFor(t, "www.example", now, "www.example. 300 IN A 203.0.113.1")
	c.Put(Key{Name: "a"}, e)
	c.Put(Key{Name: "b"}, e)
	for _, tt := range []struct {
		after time.Duration
		want  int
	}{{299 * time.Second, 2}, {301 * time.Second, 2}, {300*time.Second + staleFor, 0}} {
		c.Expire(now.Add(tt.after))
		if got, _ := c.Sizes(); got != tt.want {
			t.Errorf("after %s: got %d entries, want %d", tt.after, got, tt.want)
		}
	}
}

// TestLifetimes: how long answers may be used.
func TestLifetimes(t *testing.T) {
	soa := func(ttl, minimum int) string {
		return fmt.Sprintf("example. %d IN SOA ns.example. root.example. 1 3600 600 86400 %d", ttl, minimum)
	}
	tests := []struct {
		says   string
		rcode  int
		answer []string
		ns     []string
		want   time.Duration
	}{
		{"the shortest TTL counts", 0, []string{"www.example. 300 IN CNAME b.example.", "b.example. 60 IN A 203.0.113.1"}, nil, time.Minute},
		{"a TTL of 0 is not cached", 0, []string{"www.example. 0 IN A 203.0.113.1"}, nil, 0},
		{"a day is the most", 0, []string{"www.example. 604800 IN A 203.0.113.1"}, nil, 24 * time.Hour},
		{"a TTL with the top bit is 0", 0, []string{"www.example. 4294967295 IN A 203.0.113.1"}, nil, 0},
		{"NXDOMAIN lives as its SOA says", dns.RcodeNameError, nil, []string{soa(300, 60)}, time.Minute},
		{"and no longer than the SOA itself", dns.RcodeNameError, nil, []string{soa(30, 3600)}, 30 * time.Second},
		{"and no longer than an hour", dns.RcodeNameError, nil, []string{soa(86400, 86400)}, time.Hour},
		{"no data likewise", 0, nil, []string{soa(300, 60)}, time.Minute},
		{"an alias without data likewise", 0, []string{"www.example. 300 IN CNAME b.example."}, []string{soa(300, 60)}, time.Minute},
		{"without an SOA it is not cached", dns.RcodeNameError, nil, nil, 0},
	}
	for _, tt := range tests {
		t.Run(tt.says, func(t *testing.T) {
			msg := new(dns.Msg).SetQuestion("www.example.", dns.TypeA)
			msg.Rcode = tt.rcode
			for _, s := range tt.answer {
				rr, _ := dns.NewRR(s)
				msg.Answer = append(msg.Answer, rr)
			}
			for _, s := range tt.ns {
				rr, _ := dns.NewRR(s)
				msg.Ns = append(msg.Ns, rr)
			}
			e, err := Clean(msg, "www.example", "main", Cleaning{}, time.Now())
			if err != nil {
				t.Fatal(err)
			}
			if e.ttl != tt.want {
				t.Errorf("got %s, want %s", e.ttl, tt.want)
			}
		})
	}
}

// TestChains: which records belong to an answer and which names are behind it.
func TestChains(t *testing.T) {
	tests := []struct {
		says    string
		records []string
		kept    int
		targets string
	}{
		{"none", []string{"www.example. 300 IN A 203.0.113.1"}, 1, "[]"},
		{"in any order", []string{"c.example. 300 IN A 203.0.113.1", "b.example. 300 IN CNAME c.example.", "www.example. 300 IN CNAME b.example."}, 3, "[b.example c.example]"},
		{"upper case", []string{"WWW.example. 300 IN CNAME B.Example.", "b.EXAMPLE. 300 IN A 203.0.113.1"}, 2, "[b.example]"},
		{"in a circle", []string{"www.example. 300 IN CNAME b.example.", "b.example. 300 IN CNAME www.example."}, 2, "[b.example]"},
		{"through a DNAME", []string{"example. 300 IN DNAME evil.test.", "www.example. 300 IN CNAME www.evil.test.", "www.evil.test. 300 IN A 203.0.113.1"}, 3, "[www.evil.test]"},
		{"through a DNAME alone", []string{"example. 300 IN DNAME evil.test.", "www.evil.test. 300 IN A 203.0.113.1"}, 2, "[www.evil.test]"},
		{"a stranger", []string{"www.example. 300 IN A 203.0.113.1", "bank.example. 300 IN A 198.51.100.1"}, 1, "[]"},
	}
	for _, tt := range tests {
		t.Run(tt.says, func(t *testing.T) {
			e := entryFor(t, "www.example", time.Now(), tt.records...)
			if got := fmt.Sprint(e.Targets); len(e.ttls) != tt.kept || got != tt.targets {
				t.Errorf("got %d records, targets %s; want %d, %s", len(e.ttls), got, tt.kept, tt.targets)
			}
		})
	}
}

// TestRebindingGuard: no public name has an address inside somebody's network, in whatever form it is written.
func TestRebindingGuard(t *testing.T) {
	for _, addr := range []string{
		"10.0.0.1", "127.0.0.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.251", "255.255.255.255", "168.63.129.16",
		"::1", "::", "fd00::1", "fe80::1", "fec0::1", "ff02::fb", "::ffff:10.0.0.1", "64:ff9b::10.0.0.1", "2002:a14:a::1", "::a14:a", "::ffff:0:10.0.0.1",
	} {
		record := "www.example. 300 IN A " + addr
		if strings.Contains(addr, ":") {
			record = "www.example. 300 IN AAAA " + addr
		}
		e := entryFor(t, "www.example", noon(), record)
		if len(e.Addrs) != 0 || len(e.ttls) != 0 {
			t.Errorf("%s of a public name: got %v, want it taken out", addr, e.Addrs)
		}
	}
	for _, addr := range []string{"203.0.113.1", "1.1.1.1"} {
		if e := entryFor(t, "www.example", noon(), "www.example. 300 IN A "+addr); len(e.Addrs) != 1 {
			t.Errorf("%s of a public name: got %v, want it kept", addr, e.Addrs)
		}
	}
}

// TestWhatIsNotCachedKeepsItsTTLs: an answer that may not be stored is given on as it is, and is not called stale.
func TestWhatIsNotCachedKeepsItsTTLs(t *testing.T) {
	packed, err := dnstest.Query("www.example", "A").Pack()
	if err != nil {
		t.Fatal(err)
	}
	q := new(wire.Question)
	q.Read(packed)
	a := new(dns.Msg)
	if err := a.Unpack(entryFor(t, "www.example", noon(), "www.example. 0 IN A 203.0.113.1").Append(nil, q, noon(), 512)); err != nil {
		t.Fatal(err)
	}
	if got := a.Answer[0].Header().Ttl; got != 0 || dnstest.Brief(a) != "NOERROR 203.0.113.1" {
		t.Errorf("got a TTL of %d in %s, want 0", got, dnstest.Brief(a))
	}
}

// TestUse: of all users of an entry that is about to expire one asks for its successor.
func TestUse(t *testing.T) {
	e := entryFor(t, "www.example", noon(), "www.example. 100 IN A 203.0.113.1")
	var told []bool
	for _, after := range []time.Duration{0, 0, 0, 89, 90, 91} {
		told = append(told, e.Use(noon().Add(after*time.Second)))
	}
	e.Renewed()
	told = append(told, e.Use(noon().Add(92*time.Second)))
	if got, want := fmt.Sprint(told), "[false false false false true false true]"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// TestStale: an expired entry is the answer only after upstreams have failed, for as long as was said, within an hour.
func TestStale(t *testing.T) {
	e := entryFor(t, "www.example", noon(), "www.example. 100 IN A 203.0.113.1")
	expired := noon().Add(200 * time.Second)
	if e.Stale(expired) || !e.StandsIn(expired) {
		t.Error("before upstreams have failed: the entry is used without asking, or would not stand in")
	}
	e.KeepStale(expired.Add(5 * time.Second))
	if !e.Stale(expired.Add(4*time.Second)) || e.Stale(expired.Add(5*time.Second)) {
		t.Error("after upstreams have failed: the entry is not the answer for 5 s")
	}
	if late := noon().Add(100*time.Second + staleFor); e.StandsIn(late) {
		t.Error("an hour after its time the entry stands in")
	}
	if (*Entry)(nil).StandsIn(expired) {
		t.Error("nothing stands in")
	}
	f := NewFailure(make([]byte, 30), "www.example", dns.RcodeServerFailure, wire.EDE{Code: 22}, time.Second, noon())
	if f.StandsIn(expired) || !f.Failure() {
		t.Error("a failure stands in")
	}
}

// TestAJumpOfTheClockChangesNoAge: an hour of old answers must not follow when the clock is set back.
func TestAJumpOfTheClockChangesNoAge(t *testing.T) {
	begun := time.Now()
	e := entryFor(t, "www.example", begun, "www.example. 100 IN A 203.0.113.1")
	e.KeepStale(begun.Add(205 * time.Second))
	for _, jump := range []time.Duration{-10 * 365 * 24 * time.Hour, 10 * 365 * 24 * time.Hour} {
		at := func(age time.Duration) time.Time { return jumped(begun.Add(age), jump) }
		if !e.Fresh(at(99*time.Second)) || e.Fresh(at(101*time.Second)) {
			t.Errorf("a jump of %v: the entry does not live for 100 s", jump)
		}
		if !e.Stale(at(204*time.Second)) || e.Stale(at(206*time.Second)) {
			t.Errorf("a jump of %v: the expired entry is not the answer until 205 s", jump)
		}
	}
}

// jumped returns what the clock reads at t after it was set: another wall time, and the same monotonic time, which the time
// package does not let anybody set.
func jumped(t time.Time, by time.Duration) time.Time {
	const seconds = 30 // the bit at which they begin in the first word of a time.Time with a monotonic reading
	*(*int64)(unsafe.Pointer(&t)) += int64(by/time.Second) << seconds
	return t
}

func BenchmarkGet(b *testing.B) {
	c := New(0, 0)
	keys := make([]Key, 20000)
	for i := range keys {
		host := fmt.Sprintf("h%05d.example", i)
		e := entryFor(b, host, noon(), host+". 300 IN A 203.0.113.1")
		keys[i] = Key{Name: string(e.name()), Type: dns.TypeA}
		c.Put(keys[i], e)
	}
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		if c.Get(keys[i]) == nil {
			b.Fatal("not there")
		}
		if i++; i == len(keys) {
			i = 0
		}
	}
}

// TestCleaningOfAZone: which addresses a zone's answers may hold.
func TestCleaningOfAZone(t *testing.T) {
	lan := []netip.Prefix{netip.MustParsePrefix("192.168.1.0/24"), netip.MustParsePrefix("fd00:1::/64")}
	own := []netip.Addr{netip.MustParseAddr("10.9.9.9")}
	for _, tt := range []struct {
		says string
		how  Cleaning
		want string
	}{
		{"a public name", Cleaning{Own: own}, "203.0.113.1 10.9.9.9"},
		{"a name of a split zone", Cleaning{Private: true, Own: own}, "192.168.1.1 fd00:1::1 10.20.0.1 127.0.0.1 203.0.113.1 10.9.9.9"},
		{"a name of the LAN", Cleaning{Private: true, Within: lan, Own: own}, "192.168.1.1 fd00:1::1 203.0.113.1 10.9.9.9"},
		{"a name of the LAN that opens something", Cleaning{Private: true, Within: lan, Only: true, Own: own}, "192.168.1.1 fd00:1::1 10.9.9.9"},
		{"the same without a network", Cleaning{Private: true, Only: true, Own: own}, "10.9.9.9"},
	} {
		var got []string
		for _, s := range []string{"192.168.1.1", "fd00:1::1", "10.20.0.1", "127.0.0.1", "203.0.113.1", "10.9.9.9"} {
			if tt.how.allowsAddr(netip.MustParseAddr(s).AsSlice()) {
				got = append(got, s)
			}
		}
		if strings.Join(got, " ") != tt.want {
			t.Errorf("%s: got %v, want %s", tt.says, got, tt.want)
		}
	}
}
