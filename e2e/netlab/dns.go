package netlab

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// DNS is a resolver of the lab. It answers from its own records, then from those of the resolver behind it, and otherwise with
// NXDOMAIN. It records all questions.
type DNS struct {
	behind *DNS // nil ends the search

	mu      sync.Mutex // guards below
	records map[string][]dns.RR
	queries []Query
}

// Query is one question that a resolver of the lab received.
type Query struct {
	Time    time.Time
	Client  netip.AddrPort // as the resolver saw it
	Network string         // "udp" or "tcp"
	Name    string         // lower case, no trailing dot
	Type    string         // "A", "AAAA", ...
}

func newDNS(behind *DNS) *DNS {
	return &DNS{behind: behind, records: map[string][]dns.RR{}}
}

// Add adds records in zone file notation, such as "cdn.example. 60 IN CNAME public.example.".
func (d *DNS) Add(records ...string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, s := range records {
		rr, err := dns.NewRR(s)
		if err != nil {
			return fmt.Errorf("record %q: %w", s, err)
		}
		name := dns.CanonicalName(rr.Header().Name)
		d.records[name] = append(d.records[name], rr)
	}
	return nil
}

// addHost adds the addresses of a name.
func (d *DNS) addHost(name string, addrs ...string) error {
	for _, a := range addrs {
		kind := "A"
		if strings.Contains(a, ":") {
			kind = "AAAA"
		}
		if err := d.Add(fmt.Sprintf("%s. 60 IN %s %s", name, kind, a)); err != nil {
			return err
		}
	}
	return nil
}

// Queries returns all questions to this resolver since the lab started, in order.
func (d *DNS) Queries() []Query {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.queries)
}

// Asked returns how often this resolver was asked for a name, for any type.
func (d *DNS) Asked(name string) int {
	n := 0
	for _, q := range d.Queries() {
		if q.Name == name {
			n++
		}
	}
	return n
}

// ServeDNS implements dns.Handler.
func (d *DNS) ServeDNS(w dns.ResponseWriter, req *dns.Msg) {
	m := new(dns.Msg).SetReply(req)
	m.RecursionAvailable = true
	defer func() { _ = w.WriteMsg(m) }() // the client may be gone
	if len(req.Question) != 1 || req.Opcode != dns.OpcodeQuery {
		m.Rcode = dns.RcodeFormatError
		return
	}
	q := req.Question[0]
	d.remember(w.RemoteAddr(), q)

	known := false
	m.Answer, known = d.answer(q.Name, q.Qtype)
	if !known {
		m.Rcode = dns.RcodeNameError
	}
	if len(m.Answer) == 0 {
		m.Ns = []dns.RR{soa(q.Name)}
	}
	size := dns.MinMsgSize
	if opt := req.IsEdns0(); opt != nil {
		m.SetEdns0(1232, false)
		size = max(size, int(opt.UDPSize()))
	}
	if w.RemoteAddr().Network() == "udp" {
		m.Truncate(size)
	}
}

// answer returns the records of a type for a name, following CNAMEs, and whether the name exists.
func (d *DNS) answer(name string, kind uint16) (rrs []dns.RR, known bool) {
	for range 8 { // a chain longer than that is a loop
		all := d.lookup(name)
		if len(all) == 0 {
			return rrs, known
		}
		known = true
		var alias *dns.CNAME
		for _, rr := range all {
			if rr.Header().Rrtype == kind || kind == dns.TypeANY {
				rrs = append(rrs, rr)
			} else if c, ok := rr.(*dns.CNAME); ok {
				alias = c
			}
		}
		if alias == nil {
			return rrs, known
		}
		rrs = append(rrs, alias)
		name = alias.Target
	}
	return rrs, known
}

func (d *DNS) lookup(name string) []dns.RR {
	for ; d != nil; d = d.behind {
		d.mu.Lock()
		rrs := slices.Clone(d.records[dns.CanonicalName(name)])
		d.mu.Unlock()
		if len(rrs) > 0 {
			return rrs
		}
	}
	return nil
}

func (d *DNS) remember(client net.Addr, q dns.Question) {
	addr, err := netip.ParseAddrPort(client.String())
	if err != nil {
		addr = netip.AddrPort{}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.queries = append(d.queries, Query{
		Time:    time.Now(),
		Client:  netip.AddrPortFrom(addr.Addr().Unmap(), addr.Port()),
		Network: client.Network(),
		Name:    strings.TrimSuffix(dns.CanonicalName(q.Name), "."),
		Type:    dns.TypeToString[q.Qtype],
	})
}

// soa returns the SOA record for a negative answer, in the top-level domain of the name.
func soa(name string) dns.RR {
	labels := dns.SplitDomainName(name)
	zone := "."
	if len(labels) > 0 {
		zone = labels[len(labels)-1] + "."
	}
	return &dns.SOA{
		Hdr: dns.RR_Header{Name: zone, Rrtype: dns.TypeSOA, Class: dns.ClassINET, Ttl: 30},
		Ns:  "ns." + strings.TrimPrefix(zone, "."), Mbox: "hostmaster." + strings.TrimPrefix(zone, "."),
		Serial: 1, Refresh: 3600, Retry: 600, Expire: 86400, Minttl: 30,
	}
}
