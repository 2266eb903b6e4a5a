package records

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
)

func addrs(list ...string) []netip.Addr {
	var out []netip.Addr
	for _, s := range list {
		out = append(out, netip.MustParseAddr(s))
	}
	return out
}

func TestFind(t *testing.T) {
	b, faults := Compile([]Record{
		{Name: "Wiki.corp.example.", From: "wiki", Addrs: addrs("10.0.0.1", "fd00::1")},
		{Name: "*.dev.corp.example", From: "dev", Addrs: addrs("10.0.0.2")},
		{Name: "db.dev.corp.example", From: "db", Addrs: addrs("10.0.0.3")},
		{Name: "*.test.dev.corp.example", From: "test", TXT: []string{"x"}},
		{Name: "second.corp.example", From: "second", Addrs: addrs("10.0.0.1")},
		{Name: "ana.peers.example", From: "peer ana", Addrs: addrs("10.99.0.2")},
	}, "peers.example")
	if len(faults) > 0 {
		t.Fatal(faults)
	}
	for _, row := range []struct{ says, name, from string }{
		{"the name itself", "wiki.corp.example", "wiki"},
		{"the domain is somebody else's", "corp.example", "-"},
		{"and so are its other names", "mail.corp.example", "-"},
		{"and those below a name", "a.wiki.corp.example", "-"},
		{"a wildcard", "a.dev.corp.example", "dev"},
		{"of any depth", "b.a.dev.corp.example", "dev"},
		{"is not for the domain itself", "dev.corp.example", "-"},
		{"nor for a name that only ends alike", "adev.corp.example", "-"},
		{"a name beats it", "db.dev.corp.example", "db"},
		{"what is below that has no records of its own", "a.db.dev.corp.example", "dev"},
		{"the nearest wildcard", "a.test.dev.corp.example", "test"},
		{"a closed domain", "peers.example", "domain peers.example, which is all our own"},
		{"a name in it", "ana.peers.example", "peer ana"},
		{"another", "bob.peers.example", "missing"},
		{"and one below", "a.ana.peers.example", "missing"},
		{"a reverse name", "2.0.99.10.in-addr.arpa", "peer ana"},
		{"of two names for one address, the first", "1.0.0.10.in-addr.arpa", "wiki"},
		{"of IPv6", "1." + strings.Repeat("0.", 27) + "0.0.d.f.ip6.arpa", "wiki"},
		{"a wildcard has none", "2.0.0.10.in-addr.arpa", "-"},
		{"the root", ".", "-"},
	} {
		got := "-"
		if e := b.Find(row.name); e != nil && e.Missing {
			got = "missing"
		} else if e != nil {
			got = e.From
		}
		if got != row.from {
			t.Errorf("%s: %s: got %q, want %q", row.says, row.name, got, row.from)
		}
	}
	var none *Book
	if none.Find("wiki.corp.example") != nil || new(Book).Find("a.b") != nil {
		t.Error("an empty book knows a name")
	}
}

func TestFaults(t *testing.T) {
	ten := addrs("10.0.0.1")
	for _, row := range []struct {
		says string
		list []Record
		want string
	}{
		{"a name that is an address", []Record{{Name: "10.0.0.1", Addrs: ten}}, `0: "10.0.0.1" is not a host name`},
		{"with a port", []Record{{Name: "wiki.example:80", Addrs: ten}}, `0: "wiki.example:80" is not a host name`},
		{"with a star inside", []Record{{Name: "a.*.example", Addrs: ten}}, `0: "a.*.example" is not a host name`},
		{"only a star", []Record{{Name: "*", Addrs: ten}}, `0: "*" is not a host name`},
		{"localhost", []Record{{Name: "a.localhost", Addrs: ten}}, "0: a.localhost has a meaning of its own on every host"},
		{"no records", []Record{{Name: "a.example"}}, "0: a.example has no records"},
		{"one name twice", []Record{{Name: "a.example", Addrs: ten, From: "record at f:1"}, {Name: "A.example.", Addrs: ten}}, "1: A.example. has its records from the record at f:1 already"},
		{"a wildcard and its domain are two", []Record{{Name: "a.example", Addrs: ten}, {Name: "*.a.example", Addrs: ten}}, ""},
		{"one address twice", []Record{{Name: "a.example", Addrs: addrs("10.0.0.1", "10.0.0.1")}}, "0: a.example has the address 10.0.0.1 twice"},
		{"a mapped address", []Record{{Name: "a.example", Addrs: addrs("::ffff:10.0.0.1")}}, "0: a.example has the address ::ffff:10.0.0.1"},
		{"an address with a zone", []Record{{Name: "a.example", Addrs: addrs("fe80::1%lan")}}, "0: a.example has the address fe80::1%lan"},
		{"an alias beside an address", []Record{{Name: "a.example", Addrs: ten, CNAME: "b.example"}}, "0.cname: a.example is an alias, and has other records too"},
		{"an alias of an address", []Record{{Name: "a.example", CNAME: "10.0.0.1"}}, `0.cname: "10.0.0.1" is not a host name`},
		{"an alias of itself", []Record{{Name: "a.example", CNAME: "a.example"}}, "0.cname: the alias a.example never gets to a host"},
		{"a ring of two", []Record{{Name: "a.example", CNAME: "b.example"}, {Name: "b.example", CNAME: "a.example"}}, "0.cname: the alias b.example never gets to a host"},
		{"a wildcard that leads below itself", []Record{{Name: "*.a.example", CNAME: "b.a.example"}}, "0.cname: the alias b.a.example never gets to a host"},
		{"a long text", []Record{{Name: "a.example", TXT: []string{"ok", strings.Repeat("x", 1025)}}}, "0.txt[1]: the TXT record of a.example is \"" + strings.Repeat("x", 80) + `"`},
		{"a mail host without a preference", []Record{{Name: "a.example", MX: []string{"mail.example"}}}, `0.mx[0]: the MX record of a.example is "mail.example"`},
		{"a port above 65535", []Record{{Name: "_sip._tcp.example", SRV: []string{"0 5 65536 sip.example"}}}, `0.srv[0]: the SRV record of _sip._tcp.example is "0 5 65536 sip.example"`},
		{"a service without a host", []Record{{Name: "_sip._tcp.example", SRV: []string{"0 5 5060 ."}}}, `0.srv[0]: the SRV record of _sip._tcp.example is "0 5 5060 ."`},
		{"too many", []Record{{Name: "a.example", TXT: make([]string, 33)}}, "0.txt: a.example has 33 records of one type"},
	} {
		b, faults := Compile(row.list)
		got := ""
		for _, f := range faults {
			got += fmt.Sprintf("%d%s: %s", f.Record, f.Key, f.Problem)
			if f.Mend == "" {
				t.Errorf("%s: no mend", row.says)
			}
		}
		if got != row.want {
			t.Errorf("%s: got %q, want %q", row.says, got, row.want)
		}
		for _, r := range row.list { // whatever is wrong, nobody goes round for ever
			if e := b.Find(strings.ToLower(strings.TrimSuffix(r.Name, "."))); e != nil {
				e.End()
			}
		}
	}
}

func BenchmarkCompile(b *testing.B) {
	var list []Record
	for i := range 10_000 {
		list = append(list, Record{Name: fmt.Sprintf("host%d.corp.example", i), Addrs: []netip.Addr{netip.AddrFrom4([4]byte{10, 20, byte(i >> 8), byte(i)})}})
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, faults := Compile(list); len(faults) > 0 {
			b.Fatal(faults)
		}
	}
}

func BenchmarkFind(b *testing.B) {
	var list []Record
	for i := range 10_000 {
		list = append(list, Record{Name: fmt.Sprintf("host%d.corp.example", i), Addrs: addrs("10.20.0.1")})
	}
	list = append(list, Record{Name: "*.dev.corp.example", Addrs: addrs("10.20.0.2")})
	book, _ := Compile(list, "peers.example")
	for _, name := range []string{"host77.corp.example", "a.b.dev.corp.example", "www.not.ours.example"} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				book.Find(name)
			}
		})
	}
}

func TestHostsThatRecordsLeadTo(t *testing.T) {
	b, faults := Compile([]Record{
		{Name: "a.corp.example", MX: []string{"10 Mail.corp.example", "20 b.example"}, SRV: []string{"0 0 1 c.example"}},
		{Name: "b.corp.example", MX: []string{"10 mail.corp.example"}, TXT: []string{"and more"}},
		{Name: "c.corp.example", MX: []string{"10 mail.corp.example"}, Addrs: []netip.Addr{netip.MustParseAddr("10.0.0.1")}},
		{Name: "*.deep.wild.example", CNAME: "a.corp.example"},
	}, "peers.test")
	if len(faults) > 0 {
		t.Fatal(faults)
	}
	for name, want := range map[string]string{
		"a.corp.example": "[mail.corp.example b.example c.example]", "b.corp.example": "[]", "c.corp.example": "[]", "x.deep.wild.example": "[]",
		"1.0.0.10.in-addr.arpa": "[c.corp.example]",
	} {
		if got := fmt.Sprint(b.Find(name).Hosts()); got != want {
			t.Errorf("%s leads to %s, want %s", name, got, want)
		}
	}
	for name, want := range map[string]bool{
		"z.corp.example": true, "z.a.corp.example": true, "corp.example": false, "z.wild.example": true, "deep.wild.example": true, "wild.example": false,
		"peers.test": true, "other.test": true, "other.com": false, "2.0.0.10.in-addr.arpa": true, "2.0.1.10.in-addr.arpa": false, "": false,
	} {
		if got := b.Beside(name); got != want {
			t.Errorf("%q is beside a name of ours: %t, want %t", name, got, want)
		}
	}
	if (*Book)(nil).Beside("z.corp.example") {
		t.Error("no book has a name beside another")
	}
}
