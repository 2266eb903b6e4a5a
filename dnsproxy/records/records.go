// Package records holds the names that the DNS server knows by itself: records from the configuration, peers, and the reverse
// names of their addresses. Compile makes a Book of them, which does not change.
//
// A name with records beats a wildcard, and the wildcard that is nearest beats the others. Of a domain that is closed, every
// name without records is known not to exist; names of other domains are somebody else's.
//
// It asks nobody, judges nothing and writes no answers.
package records

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/miekg/dns"

	"penstock/policy"
)

// MaxAddrs is how many addresses of a family a name may have.
const MaxAddrs = maxValues

// Bounds of the records of one name, so that an answer always fits a message.
const (
	maxValues = 32   // of one type
	maxText   = 1024 // octets of one text
	maxChain  = 8    // aliases, one behind the other
)

// DefaultTTL is how long the records of a name live that says nothing else, and what is known of the names of closed domains.
const DefaultTTL = time.Minute

// Record is all that is known about one name. Nothing else may stand beside a CNAME.
type Record struct {
	Name  string        // wiki.corp.example, or *.dev.corp.example for the names below dev.corp.example that have no records
	From  string        // where it comes from, for diagnosis: "record at gateway.yaml:7"
	TTL   time.Duration // 0 means a minute
	Addrs []netip.Addr
	CNAME string
	TXT   []string
	MX    []string // preference and host: "10 mail.corp.example"
	SRV   []string // priority, weight, port and host: "0 5 5060 sip.corp.example"
}

// Fault is something wrong with a record.
type Fault struct {
	Record  int    // index of the record
	Key     string // the value in it, such as ".mx[0]"; "" is the record as a whole
	Problem string
	Mend    string
}

// Book is compiled records. The zero and the nil Book are empty.
type Book struct {
	names map[string]*Entry
	below map[string]*Entry // of names below: wildcards, and the ends of closed domains

	domains map[string]bool // those with a name or a wildcard directly below them; "" is the root
}

// Entry is what a Book knows about a name.
type Entry struct {
	Name   string // canonical; "" if it stands for many names
	From   string
	TTL    time.Duration
	V4, V6 []netip.Addr
	Sets   []Set // of other types, except CNAME

	Alias  []byte // name behind it, in wire form; nil if the entry is no alias
	Target string // the same name as text
	Next   *Entry // the entry of Target; nil if somebody else knows it

	Closed  bool       // it, or the name that a reverse name leads to, is in a closed domain
	Missing bool       // the name is known not to exist
	Reverse netip.Addr // the address whose name this is; else invalid
	Owner   string     // the name that a reverse name leads to
}

// Set is the records of one type, without their heads.
type Set struct {
	Type  uint16
	Data  [][]byte
	Hosts []string // the host that each names; nil if they are texts
}

// End returns the last entry of a chain of aliases: e itself if it is none.
func (e *Entry) End() *Entry {
	for e.Next != nil {
		e = e.Next
	}
	return e
}

// Set returns the records of a type.
func (e *Entry) Set(rtype uint16) Set {
	for i := range e.Sets {
		if e.Sets[i].Type == rtype {
			return e.Sets[i]
		}
	}
	return Set{}
}

// Hosts returns the hosts that records of the name lead to, if there is nothing else about it: it has no address, no text and is no
// alias. Otherwise it returns nil.
func (e *Entry) Hosts() (hosts []string) {
	if len(e.V4)+len(e.V6) > 0 || e.Alias != nil {
		return nil
	}
	for i := range e.Sets {
		if e.Sets[i].Hosts == nil {
			return nil
		}
		hosts = append(hosts, e.Sets[i].Hosts...)
	}
	return hosts
}

// Find returns what is known about a canonical name, or nil if that is for others to say.
func (b *Book) Find(host string) *Entry {
	if b == nil || len(b.names)+len(b.below) == 0 {
		return nil
	}
	if e := b.names[host]; e != nil || len(b.below) == 0 {
		return e
	}
	for rest := host; ; {
		i := strings.IndexByte(rest, '.')
		if i < 0 {
			return nil
		}
		rest = rest[i+1:]
		if e := b.below[rest]; e != nil {
			return e
		}
	}
}

// Beside reports whether a canonical name is below the same domain as a name that the Book knows.
func (b *Book) Beside(host string) bool {
	if b == nil || len(b.domains) == 0 {
		return false
	}
	for host != "" {
		if host = above(host); b.domains[host] {
			return true
		}
	}
	return false
}

// above returns a name without its first label.
func above(name string) string {
	_, domain, _ := strings.Cut(name, ".")
	return domain
}

// Compile makes a Book of records, in which only names of closed domains and of records are known. Reverse names are those of
// the first record with an address. A record with a fault is left out; an alias that leads back to itself leads nowhere.
func Compile(list []Record, closed ...string) (*Book, []Fault) {
	c := &compiler{Book: &Book{names: make(map[string]*Entry, 2*len(list)), below: make(map[string]*Entry), domains: make(map[string]bool)}}
	var entries []*Entry // of list, nil for one with a fault
	for i, r := range list {
		c.record = i
		entries = append(entries, c.add(r))
	}
	for _, domain := range closed {
		c.close(domain)
	}
	for i, e := range entries {
		if e != nil && e.Name != "" {
			c.reverse(list[i].Addrs, e)
		}
	}
	for _, table := range []map[string]*Entry{c.names, c.below} {
		for name, e := range table {
			e.Closed = within(name, closed) || within(e.Owner, closed)
			c.domains[above(name)] = true
		}
	}
	for _, e := range entries {
		if e != nil && e.Alias != nil {
			e.Next = c.Find(e.Target)
		}
	}
	for i, e := range entries {
		if e == nil || e.Alias == nil {
			continue
		}
		c.record = i
		c.chain(e)
	}
	return c.Book, c.faults
}

type compiler struct {
	*Book
	record int // index of the one at hand
	faults []Fault
}

func (c *compiler) fault(key, mend, format string, args ...any) {
	c.faults = append(c.faults, Fault{Record: c.record, Key: key, Problem: fmt.Sprintf(format, args...), Mend: mend})
}

// add adds a record and returns its entry, or notes its faults and returns nil.
func (c *compiler) add(r Record) *Entry {
	before := len(c.faults)
	host, wildcard := strings.CutPrefix(r.Name, "*.")
	name, err := hostName(host)
	table := c.names
	if wildcard {
		table = c.below
	}
	switch {
	case err != nil:
		c.fault("", "write one such as wiki.corp.example or *.dev.corp.example", "%q is not a host name", r.Name)
	case special(name):
		c.fault("", "choose another name", "%s has a meaning of its own on every host", r.Name)
	case len(r.Addrs)+len(r.TXT)+len(r.MX)+len(r.SRV) == 0 && r.CNAME == "":
		c.fault("", "write an address, or one of cname, txt, mx and srv", "%s has no records", r.Name)
	case table[name] != nil:
		c.fault("", "keep one of them, with all its values", "%s has its records from the %s already", r.Name, table[name].From)
	}
	e := &Entry{From: r.From, TTL: r.TTL}
	if !wildcard {
		e.Name = name
	}
	if e.TTL == 0 {
		e.TTL = DefaultTTL
	}
	c.addresses(e, r)
	c.others(e, r)
	if r.CNAME != "" {
		c.alias(e, r)
	}
	if len(c.faults) > before {
		return nil
	}
	table[name] = e
	return e
}

// hostName returns the canonical form of a host name. Unlike in a request, a port is no part of it.
func hostName(s string) (string, error) {
	if strings.Contains(s, ":") {
		return "", fmt.Errorf("%q has a port", s)
	}
	return policy.CanonicalName(s)
}

// special reports whether hosts do not ask about a name, or ask about it to learn something about their resolver.
func special(name string) bool {
	last := name[strings.LastIndexByte(name, '.')+1:]
	apple := strings.HasPrefix(name, "mask") && strings.HasSuffix(name, ".icloud.com")
	return last == "localhost" || name == "use-application-dns.net" || name == "resolver.arpa" || apple
}

func (c *compiler) addresses(e *Entry, r Record) {
	for i, addr := range r.Addrs {
		switch {
		case !addr.IsValid(), addr.Zone() != "", addr.Is4In6():
			c.fault("", "write it as plain IPv4 or IPv6", "%s has the address %v", r.Name, addr)
		case slices.Contains(r.Addrs[:i], addr):
			c.fault("", "remove one", "%s has the address %v twice", r.Name, addr)
		case addr.Is4():
			e.V4 = append(e.V4, addr)
		default:
			e.V6 = append(e.V6, addr)
		}
	}
	if len(e.V4) > maxValues || len(e.V6) > maxValues {
		c.fault("", fmt.Sprintf("keep %d of each family", maxValues), "%s has %d addresses", r.Name, len(r.Addrs))
	}
}

// others adds the records that are neither addresses nor an alias.
func (c *compiler) others(e *Entry, r Record) {
	for _, of := range []struct {
		rtype   uint16
		key     string
		values  []string
		numbers int
		mend    string
	}{
		{dns.TypeTXT, ".txt", r.TXT, 0, fmt.Sprintf("write at most %d bytes", maxText)},
		{dns.TypeMX, ".mx", r.MX, 1, `write preference and host, for example "10 mail.corp.example"`},
		{dns.TypeSRV, ".srv", r.SRV, 3, `write priority, weight, port and host, for example "0 5 5060 sip.corp.example"`},
	} {
		if len(of.values) > maxValues {
			c.fault(of.key, fmt.Sprintf("keep %d", maxValues), "%s has %d records of one type", r.Name, len(of.values))
			continue
		}
		s := Set{Type: of.rtype}
		for i, value := range of.values {
			var data []byte
			ok := false
			if of.rtype == dns.TypeTXT {
				data, ok = text(value)
			} else {
				var host string
				data, host, ok = numbersAndHost(value, of.numbers)
				s.Hosts = append(s.Hosts, host)
			}
			if !ok {
				c.fault(fmt.Sprintf("%s[%d]", of.key, i), of.mend, "the %s record of %s is %.80q", strings.ToUpper(of.key[1:]), r.Name, value)
			}
			s.Data = append(s.Data, data)
		}
		if len(s.Data) > 0 {
			e.Sets = append(e.Sets, s)
		}
	}
}

// alias adds a CNAME.
func (c *compiler) alias(e *Entry, r Record) {
	if len(r.Addrs)+len(e.Sets) > 0 {
		c.fault(".cname", "keep the alias or the rest", "%s is an alias, and has other records too", r.Name)
	}
	target, err := hostName(r.CNAME)
	if err != nil {
		c.fault(".cname", "write one such as forge.corp.example", "%q is not a host name", r.CNAME)
		return
	}
	e.Target, e.Alias = target, packName(target)
}

// close makes every name of a domain one that we know or that does not exist.
func (c *compiler) close(domain string) {
	from := "domain " + domain + ", which is all our own"
	if c.below[domain] == nil {
		c.below[domain] = &Entry{From: from, TTL: DefaultTTL, Missing: true}
	}
	if c.names[domain] == nil {
		c.names[domain] = &Entry{Name: domain, From: from, TTL: DefaultTTL}
	}
}

// within reports whether a name is one of some domains, or below one.
func within(name string, domains []string) bool {
	return slices.ContainsFunc(domains, func(d string) bool { return name == d || strings.HasSuffix(name, "."+d) })
}

// reverse adds the reverse names of addresses that have none yet.
func (c *compiler) reverse(addrs []netip.Addr, e *Entry) {
	for _, addr := range addrs {
		name, err := dns.ReverseAddr(addr.String())
		if err != nil {
			continue // impossible: the address is one
		}
		name = strings.TrimSuffix(name, ".")
		if c.names[name] != nil {
			continue
		}
		ptr := []Set{{Type: dns.TypePTR, Data: [][]byte{packName(e.Name)}, Hosts: []string{e.Name}}}
		c.names[name] = &Entry{Name: name, From: e.From, TTL: e.TTL, Sets: ptr, Reverse: addr, Owner: e.Name}
	}
}

// chain follows an alias to its end. One without an end leads to nothing, so that nobody follows it for ever.
func (c *compiler) chain(e *Entry) {
	n := 0
	for at := e; at.Next != nil; at = at.Next {
		if n++; n > maxChain {
			c.fault(".cname", fmt.Sprintf("name the host itself; there may be %d aliases on the way", maxChain), "the alias %s never gets to a host", e.Target)
			e.Next = &Entry{TTL: DefaultTTL, Missing: true}
			return
		}
	}
}

// text packs a text as strings of at most 255 octets.
func text(s string) ([]byte, bool) {
	if len(s) > maxText {
		return nil, false
	}
	data := []byte{}
	for part := range slices.Chunk([]byte(s), 255) {
		data = append(append(data, byte(len(part))), part...)
	}
	if s == "" {
		data = []byte{0}
	}
	return data, true
}

// numbersAndHost packs n numbers of 16 bits and a host name, and returns the name, too.
func numbersAndHost(s string, n int) (data []byte, host string, ok bool) {
	words := strings.Fields(s)
	if len(words) != n+1 {
		return nil, "", false
	}
	for _, word := range words[:n] {
		number, err := strconv.ParseUint(word, 10, 16)
		if err != nil {
			return nil, "", false
		}
		data = binary.BigEndian.AppendUint16(data, uint16(number))
	}
	host, err := hostName(words[n])
	if err != nil {
		return nil, "", false
	}
	return append(data, packName(host)...), host, true
}

// packName returns a canonical name in wire form.
func packName(name string) []byte {
	data := make([]byte, 0, len(name)+2)
	for label := range strings.SplitSeq(name, ".") {
		data = append(append(data, byte(len(label))), label...)
	}
	return append(data, 0)
}
