package blocklist

import (
	"bytes"
	"io"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

// listed builds a Set from "category: list" rows. "category!" is read with Allow and "category=" with Exact.
func listed(tb testing.TB, rows ...string) *Set {
	tb.Helper()
	b := NewBuilder()
	for _, row := range rows {
		category, list, _ := strings.Cut(row, ": ")
		o := Options{List: category}
		if rest, ok := strings.CutSuffix(category, "!"); ok {
			category, o.Allow = rest, true
		}
		if rest, ok := strings.CutSuffix(category, "="); ok {
			category, o.Exact = rest, true
		}
		if _, err := b.Add(category, strings.NewReader(strings.ReplaceAll(list, " ", "\n")), o); err != nil {
			tb.Fatal(err)
		}
	}
	s, err := b.Build()
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

func (s *Set) named(c CategorySet) string {
	var names []string
	for i := range c.Bits() {
		names = append(names, s.categories[i])
	}
	slices.Sort(names)
	return strings.Join(names, " ")
}

func TestLookup(t *testing.T) {
	s := listed(t,
		"ads: ads.example both.example deep.allow.example",
		"ads!: ok.ads.example allow.example",
		"adult: both.example sub.ads.example",
		"adult=: exact.example",
		"ads: ||forced.example^$important @@||ok.forced.example^ ||free.example^$important @@||free.example^$important ||gone.example^ ||gone.example^$badfilter ||stays.example^",
		"social: 192.0.2.7 2001:db8::7 x.example",
		"gambling: /^bet[0-9]+\\./ @@||bet7.example^ ||x.test^",
	)
	for _, row := range []struct{ name, host, want string }{
		{"a listed name", "ads.example", "ads"},
		{"a name below one", "a.b.c.ads.example", "ads"},
		{"a name with the same ending, not a subdomain", "bads.example", ""},
		{"a name above one", "example", ""},
		{"two categories", "www.both.example", "ads adult"},
		{"another category below", "x.sub.ads.example", "ads adult"},
		{"an allow below a block", "www.ok.ads.example", ""},
		{"a block below an allow", "www.deep.allow.example", "ads"},
		{"an exact entry", "exact.example", "adult"},
		{"a name below an exact entry", "www.exact.example", ""},
		{"an important block with an allow below", "ok.forced.example", "ads"},
		{"an important allow", "www.free.example", ""},
		{"a rule that is cancelled", "gone.example", ""},
		{"a rule next to one that is cancelled", "stays.example", "ads"},
		{"an expression", "bet365.example", "gambling"},
		{"an expression with an allow by name", "bet7.example", ""},
		{"a long label", strings.Repeat("a", 63) + ".ads.example", "ads"},
		{"a label of eight bytes", "12345678.ads.example", "ads"},
		{"nothing", "", ""},
		{"an address as a name", "192.0.2.7", ""},
	} {
		if got := s.named(s.Lookup(row.host)); got != row.want {
			t.Errorf("%s: %s: got %q, want %q", row.name, row.host, got, row.want)
		}
		if row.host == "" {
			continue
		}
		for _, host := range []string{row.host, strings.ToUpper(row.host)} {
			if got := s.named(s.LookupWire(wireName(host))); got != row.want {
				t.Errorf("%s: %s on the wire: got %q, want %q", row.name, host, got, row.want)
			}
		}
	}
	for addr, want := range map[string]string{"192.0.2.7": "social", "::ffff:192.0.2.7": "social", "2001:db8::7": "social", "192.0.2.8": ""} {
		if got := s.named(s.LookupAddr(netip.MustParseAddr(addr))); got != want {
			t.Errorf("%s: got %q, want %q", addr, got, want)
		}
	}
}

// TestWhatIsBelowIsMeantAsTheFormatSays has the meaning of each format for a name and what is below it.
func TestWhatIsBelowIsMeantAsTheFormatSays(t *testing.T) {
	const rpz = "$ORIGIN rpz.test.\n@ SOA ns. root. 1 2 3 4 5\n"
	for _, row := range []struct {
		name, list   string
		itself, deep bool
	}{
		{"AdBlock", "||x.example^\n", true, true},
		{"AdBlock, one name", "||other.example^\n|x.example^\n", true, false},
		{"plain", "x.example\n", true, true},
		{"plain, with a wildcard", "*.x.example\n", true, true},
		{"hosts", "0.0.0.0 x.example\n", true, false},
		{"dnsmasq", "address=/x.example/#\n", true, true},
		{"unbound", "local-zone: \"x.example\" always_null\n", true, true},
		{"RPZ, the name", rpz + "x.example CNAME .\n", true, false},
		{"RPZ, what is below", rpz + "*.x.example CNAME .\n", false, true},
		{"RPZ, both", rpz + "x.example CNAME .\n*.x.example CNAME .\n", true, true},
		{"RPZ, all but the name", rpz + "*.x.example CNAME .\nx.example CNAME rpz-passthru.\n", false, true},
	} {
		b := NewBuilder()
		if _, err := b.Add("a", strings.NewReader(row.list), Options{AllowTLD: true}); err != nil {
			t.Fatalf("%s: %v", row.name, err)
		}
		s, err := b.Build()
		if err != nil {
			t.Fatal(err)
		}
		for host, want := range map[string]bool{"x.example": row.itself, "www.x.example": row.deep, "a.b.x.example": row.deep, "x.org": false} {
			if got := s.Lookup(host) != 0; got != want {
				t.Errorf("%s: %s: got %v, want %v", row.name, host, got, want)
			}
			if got := s.LookupWire(wireName(host)) != 0; got != want {
				t.Errorf("%s: %s on the wire: got %v, want %v", row.name, host, got, want)
			}
			hits, err := Find(host, Source{Options: Options{AllowTLD: true}, Open: func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(row.list)), nil }})
			if blocked := slices.ContainsFunc(hits, func(h Hit) bool { return !h.Allow }); err != nil || want && !blocked {
				t.Errorf("%s: %s: Find got %+v, %v", row.name, host, hits, err)
			}
		}
	}
}

func TestATopLevelDomainOnPurposeHoldsItsNames(t *testing.T) {
	b := NewBuilder()
	if _, err := b.Add("a", strings.NewReader("||zip^\n||co.uk^\n"), Options{AllowTLD: true}); err != nil {
		t.Fatal(err)
	}
	s, err := b.Build()
	if err != nil {
		t.Fatal(err)
	}
	path := t.TempDir() + "/set"
	if err := s.WriteFile(path); err != nil {
		t.Fatal(err)
	}
	stored, err := ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []*Set{s, stored} {
		for host, want := range map[string]bool{"zip": true, "a.zip": true, "b.a.zip": true, "x.co.uk": true, "uk": false, "x.org.uk": false, "zip.example": false} {
			if got, wire := s.Lookup(host) != 0, s.LookupWire(wireName(host)) != 0; got != want || wire != want {
				t.Errorf("%s: got %v, and %v on the wire, want %v", host, got, wire, want)
			}
		}
	}
}

func TestMalformedWireNamesAreInNoCategory(t *testing.T) {
	s := listed(t, "ads: ads.example")
	good := wireName("ads.example")
	for name, wire := range map[string][]byte{
		"empty": nil, "root": {0}, "cut": good[:len(good)-1], "bytes behind": append(slices.Clone(good), 0),
		"pointer": {0xc0, 0x0c}, "label beyond": {63, 'a', 0}, "too long": bytes.Repeat([]byte{1, 'a'}, 200),
		"a dot within a label":  {11, 'a', 'd', 's', '.', 'e', 'x', 'a', 'm', 'p', 'l', 'e', 0},
		"a zero behind a label": append([]byte{4, 'a', 'd', 's', 0}, good[4:]...),
	} {
		if got := s.LookupWire(wire); got != 0 {
			t.Errorf("%s: got %b", name, got)
		}
	}
}

func TestANilSetHoldsNothing(t *testing.T) {
	var s *Set
	if s.Lookup("a.example") != 0 || s.LookupWire(wireName("a.example")) != 0 || s.LookupAddr(netip.MustParseAddr("192.0.2.1")) != 0 || s.Names() != 0 {
		t.Error("got something")
	}
}

func TestAMissingCategoryHoldsEveryName(t *testing.T) {
	b := NewBuilder()
	if err := b.MatchAll("adult"); err != nil {
		t.Fatal(err)
	}
	s, err := b.Build()
	if err != nil {
		t.Fatal(err)
	}
	if got := s.named(s.Lookup("any.example")); got != "adult" {
		t.Errorf("got %q", got)
	}
}

func TestARefusedListLeavesNothingBehind(t *testing.T) {
	b := NewBuilder()
	if _, err := b.Add("ads", strings.NewReader("first.example\n"), Options{}); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Add("ads", strings.NewReader("||second.example^\n/^third/\n||vpn.test^\n"), Options{NeverBlock: []string{"vpn.test"}}); err == nil {
		t.Fatal("got no error")
	}
	s, err := b.Build()
	if err != nil {
		t.Fatal(err)
	}
	for host, want := range map[string]bool{"first.example": true, "second.example": false, "third.example": false} {
		if got := s.Lookup(host) != 0; got != want {
			t.Errorf("%s: got %v, want %v", host, got, want)
		}
	}
}

func TestManyNamesAreAllFoundAndOthersAreNot(t *testing.T) {
	const n = 100_000
	s, _ := builtSet(t, n)
	if s.Names() != n {
		t.Errorf("got %d names, want %d", s.Names(), n)
	}
	if perName := float64(s.Bytes()) / n; perName > 10 {
		t.Errorf("got %.2f bytes a name, want at most 10", perName)
	}
	for i := range n {
		host := generatedName(i)
		if s.Lookup(host) == 0 || s.LookupWire(wireName("sub."+host)) == 0 {
			t.Fatalf("%s is not found", host)
		}
		if other := generatedName(n + i); s.Lookup(other) != 0 {
			t.Fatalf("%s is found", other)
		}
	}
	if got := testing.AllocsPerRun(100, func() { s.Lookup("www.casino.example.com") }); got != 0 {
		t.Errorf("got %v allocations, want 0", got)
	}
}

// naive is a simple Set: it stores entries as text and follows the documentation of Set literally.
func naive(blocks, allows map[string]bool, host string) bool {
	for s := host; ; {
		switch {
		case allows[s]:
			return false
		case blocks[s]:
			return true
		}
		i := strings.IndexByte(s, '.')
		if i < 0 {
			return false
		}
		s = s[i+1:]
	}
}

func FuzzLookupAgainstAMap(f *testing.F) {
	for seed := range uint64(4) {
		f.Add(seed, uint16(20*seed))
	}
	labels := strings.Fields("a b ab ba aaaaaaa aaaaaaaa aaaaaaaaa 0 1 _x xn--a")
	f.Fuzz(func(t *testing.T, seed uint64, n uint16) {
		r := rand.New(rand.NewPCG(seed, 1))
		name := func() string {
			parts := make([]string, 1+r.IntN(4))
			for i := range parts {
				parts[i] = labels[r.IntN(len(labels))]
			}
			return strings.Join(parts, ".") + ".example"
		}
		blocks, allows := map[string]bool{}, map[string]bool{}
		var list strings.Builder
		list.WriteString("||never.example^\n")
		for range n % 200 {
			x := name()
			if r.IntN(4) == 0 {
				allows[x] = true
				list.WriteString("@@")
			} else {
				blocks[x] = true
			}
			list.WriteString("||" + x + "^\n")
		}
		s := listed(t, "ads: "+strings.TrimSpace(strings.ReplaceAll(list.String(), "\n", " ")))
		for range 100 {
			host := name()
			want := naive(blocks, allows, host)
			if got := s.Lookup(host) != 0; got != want {
				t.Fatalf("%s: got %v, want %v\n%s", host, got, want, list.String())
			}
			if got := s.LookupWire(wireName(host)) != 0; got != want {
				t.Fatalf("%s on the wire: got %v, want %v", host, got, want)
			}
		}
	})
}
