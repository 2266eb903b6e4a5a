package dnsproxy

import (
	"fmt"
	"testing"
	"time"

	"github.com/miekg/dns"
)

func entryFor(t testing.TB, host string, now time.Time, records ...string) *entry {
	t.Helper()
	msg := new(dns.Msg).SetQuestion(dns.Fqdn(host), dns.TypeA)
	for _, s := range records {
		rr, err := dns.NewRR(s)
		if err != nil {
			t.Fatal(err)
		}
		msg.Answer = append(msg.Answer, rr)
	}
	e, err := clean(msg, host, cleaning{}, now)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// TestCacheBounds: the cache stays in both of its bounds, and what is used stays longest.
func TestCacheBounds(t *testing.T) {
	now := newClock().now()
	tests := []struct {
		says           string
		bytes, entries int
		want           int // entries that are left of 100
	}{
		{"bound in entries", 1 << 20, 10, 10},
		{"bound in octets", 5000, 1000, 10},
		{"no cache by octets", -1, 10, 0},
		{"no cache by entries", 1 << 20, -1, 0},
	}
	for _, tt := range tests {
		t.Run(tt.says, func(t *testing.T) {
			c := newCache(tt.bytes, tt.entries)
			for i := range 100 {
				e := entryFor(t, fmt.Sprintf("h%02d.example", i), now, fmt.Sprintf("h%02d.example. 300 IN A 203.0.113.1", i))
				c.put(cacheKey{name: string(e.key())}, e)
				c.get(cacheKey{name: "\x03h00\x07example\x00"})
			}
			entries, bytes := c.sizes()
			if entries != tt.want || bytes > max(tt.bytes, 0) {
				t.Errorf("got %d entries in %d octets, want %d in at most %d", entries, bytes, tt.want, tt.bytes)
			}
			if used := c.get(cacheKey{name: "\x03h00\x07example\x00"}) != nil; used != (tt.want > 0) {
				t.Errorf("the entry that is used: there %t", used)
			}
			c.flush()
			if entries, bytes := c.sizes(); entries != 0 || bytes != 0 {
				t.Errorf("after a flush: got %d entries in %d octets", entries, bytes)
			}
		})
	}
}

// TestCacheExpiry: an entry goes an hour after its time, when it is of no use for a failing upstream any more.
func TestCacheExpiry(t *testing.T) {
	now := newClock().now()
	c := newCache(0, 0)
	e := entryFor(t, "www.example", now, "www.example. 300 IN A 203.0.113.1")
	c.put(cacheKey{name: "a"}, e)
	c.put(cacheKey{name: "b"}, e)
	for _, tt := range []struct {
		after time.Duration
		want  int
	}{{299 * time.Second, 2}, {301 * time.Second, 2}, {300*time.Second + staleFor, 0}} {
		c.expire(now.Add(tt.after))
		if got, _ := c.sizes(); got != tt.want {
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
			e, err := clean(msg, "www.example", cleaning{}, time.Now())
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
			if got := fmt.Sprint(e.targets); len(e.ttls) != tt.kept || got != tt.targets {
				t.Errorf("got %d records, targets %s; want %d, %s", len(e.ttls), got, tt.kept, tt.targets)
			}
		})
	}
}
