package blocklist

import (
	"strings"
	"testing"

	"golang.org/x/net/publicsuffix"
)

func isICANNSuffix(name string) bool {
	suffix, icann := publicsuffix.PublicSuffix(name)
	return icann && suffix == name
}

func TestIsPublicSuffix(t *testing.T) {
	for name, want := range map[string]bool{
		"com": true, "co.uk": true, "arpa": true, "in-addr.arpa": true, "box": true, "zip": true, "home.arpa": true,
		"lan": false, "home": false, "fritz.box": false, "example.com": false, "github.io": false, "local": false,
	} {
		if got := IsPublicSuffix(name); got != want {
			t.Errorf("%s: got %v, want %v", name, got, want)
		}
	}
}

func TestCanonicalName(t *testing.T) {
	for _, row := range []struct{ in, want string }{
		{"example.com", "example.com"},
		{"Example.COM.", "example.com"},
		{"example.com:8443", "example.com"},
		{"example.com.:443", "example.com"},
		{"example.com:", "example.com"},
		{"bücher.example", "xn--bcher-kva.example"},
		{"BÜCHER.example", "xn--bcher-kva.example"},
		{"XN--BCHER-KVA.example", "xn--bcher-kva.example"},
		{"例え。テスト", "xn--r8jz45g.xn--zckzah"},
		{"ｅｘａｍｐｌｅ.com", "example.com"},
		{"_dmarc.example.com", "_dmarc.example.com"},
		{"nas", "nas"},
		{"0.0.0.0.example", "0.0.0.0.example"},
		{strings.Repeat("a", 63) + ".example", strings.Repeat("a", 63) + ".example"},
		{"", ""}, {".", ""}, {"..", ""}, {"a..b", ""}, {".a", ""}, {"a.example..", ""},
		{"exa\x00mple.com", ""}, {"example.com\x00", ""}, {"exa mple.com", ""}, {"example.com/", ""}, {"user@example.com", ""},
		{"192.0.2.1", ""}, {"192.0.2.1:80", ""}, {"[2001:db8::1]:80", ""}, {"2001:db8::1", ""}, {"example.1", ""}, {"0x7f.1", ""},
		{"%65xample.com", ""}, {"a:b:c", ""}, {"example.com:99999999", ""}, {"℀.example", ""},
		{strings.Repeat("a", 64) + ".example", ""}, {strings.Repeat("a.", 127) + "example", ""},
	} {
		got, err := CanonicalName(row.in)
		if got != row.want || (err == nil) != (row.want != "") {
			t.Errorf("%q: got %q, %v; want %q", row.in, got, err, row.want)
		}
	}
}

func TestACanonicalNameCostsNoMemory(t *testing.T) {
	if n := testing.AllocsPerRun(100, func() { CanonicalName("www.xn--bcher-kva.example.co.uk") }); n != 0 {
		t.Errorf("got %v allocations, want 0", n)
	}
}

func FuzzCanonicalNameIsIdempotent(f *testing.F) {
	for _, s := range []string{"example.com", "Example.COM.:443", "bücher.example", "xn--a", "xn--", "a\x00b", "1.2.3.4", "例え。テスト", "ⓧn--a.b", "a\u00ad.b", "ß.de", "\u200d.x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		once, err := CanonicalName(s)
		if err != nil {
			if once != "" {
				t.Errorf("%q: got %q with an error", s, once)
			}
			return
		}
		twice, err := CanonicalName(once)
		if err != nil || twice != once {
			t.Errorf("%q: first %q, then %q, %v", s, once, twice, err)
		}
		if len(once) > 253 || once != strings.ToLower(once) || strings.ContainsAny(once, ":/\x00 ") || strings.HasSuffix(once, ".") {
			t.Errorf("%q: got %q", s, once)
		}
	})
}

func TestPlainTopLevelDomainsHaveNoSuffixesBelow(t *testing.T) {
	for _, tld := range strings.Fields("com net org info biz xyz top online site shop club live icu vip store app dev de eu nl ru ch") {
		if !isPlainTLD([]byte(tld)) {
			t.Errorf("%s: not plain", tld)
		}
		for _, below := range strings.Fields("com co net org gov edu ac mil info biz or ne go in web k12 msk spb gob") {
			if isICANNSuffix(below + "." + tld) {
				t.Errorf("%s.%s is a public suffix", below, tld)
			}
		}
	}
}
