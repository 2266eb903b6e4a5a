package blocklist

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
)

// scanned writes every entry as one word: "-" allows, "=" is exact, "<" is below, "!" is important, "~" cancels, "/" is an expression.
func scanned(tb testing.TB, list string, o Options) ([]string, Report, error) {
	tb.Helper()
	var got []string
	r, err := Scan(strings.NewReader(list), o, func(e *Entry) error {
		word := string(e.Name)
		if e.Addr.IsValid() {
			word = e.Addr.String()
		}
		if e.Expression != "" {
			word = "/" + e.Expression
		}
		for _, flag := range []struct {
			set  bool
			mark string
		}{{e.Exact, "="}, {e.Below, "<"}, {e.Allow, "-"}, {e.Important, "!"}, {e.Disables, "~"}} {
			if flag.set {
				word = flag.mark + word
			}
		}
		got = append(got, word)
		return nil
	})
	return got, r, err
}

func TestFormatsAreDetectedAndRead(t *testing.T) {
	for _, row := range []struct {
		name   string
		format Format
		list   string
		want   string
	}{
		{"plain names with a header, blank lines and trailing comments", Domains,
			"# head\n\nBad.Example.\nworse.example # why\n", "bad.example worse.example"},
		{"wildcards and leading dots mean the name and its subdomains", Domains, "*.bad.example\n.worse.example\n", "bad.example worse.example"},
		{"a wildcard within a name is skipped", Domains, "ok.example\nads*.example.net\n", "ok.example"},
		{"CRLF, a byte order mark and no newline at the end", Domains, "\ufeffbad.example\r\nworse.example", "bad.example worse.example"},
		{"a name that begins like an address is a name", Domains, "0.0.0.0.bad.example\n1.2.3.4.worse.example\n", "0.0.0.0.bad.example 1.2.3.4.worse.example"},
		{"bare addresses among the names are addresses", Domains, "bad.example\n192.0.2.7\n2001:db8::7\nworse.example\n", "bad.example 192.0.2.7 2001:db8::7 worse.example"},
		{"underscores, punycode and letters of other scripts", Domains, "_x.bad.example\nxn--bcher-kva.example\nBücher.example\n",
			"_x.bad.example xn--bcher-kva.example xn--bcher-kva.example"},
		{"a hosts file with several names per line and the machine's own", Hosts,
			"127.0.0.1 localhost localhost.localdomain\n::1 ip6-localhost ip6-loopback\n255.255.255.255 broadcasthost\n0.0.0.0 0.0.0.0\n" +
				"0.0.0.0 a.example b.example # c.example\n:: d.example\n0 e.example\n127.0.0.1\tf.example\ng.example\n", "=a.example =b.example =d.example =e.example =f.example =g.example"},
		{"a hosts line with a real address blocks nothing", Hosts, "192.0.2.1 nas.example\n0.0.0.0 bad.example\n", "=bad.example"},
		{"AdBlock blocks, allows and is important", AdBlock,
			"[Adblock Plus 2.0]\n! Title\n||a.example^\n@@||ok.a.example^\n||b.example^$important\n@@||c.example^$important\n||d.example^$all\n||e.example^|\n|f.example^\ng.example\n",
			"a.example -ok.a.example !b.example !-c.example d.example e.example =f.example g.example"},
		{"AdBlock rules about paths, elements and conditions are skipped", AdBlock,
			"||a.example^\n||b.example/ads/\n||c.example^$third-party\n||d.example^$domain=x.example\ne.example##.ad\n##.banner\n@@||f.example^$dnsrewrite\n-banner-\n||ads*.example^\n||g.example^$client=1.2.3.4\nh.example#@#.x\n", "a.example"},
		{"AdGuard's modifiers that depend on the name alone", AdBlock,
			"||a.example^$dnsrewrite=NXDOMAIN;;\n||b.example^$dnsrewrite=0.0.0.0\n||c.example^$dnsrewrite=192.0.2.1\n||d.example^$denyallow=x.d.example|y.d.example\n||e.example^$badfilter\n",
			"a.example b.example d.example -x.d.example -y.d.example ~e.example"},
		{"AdBlock expressions", AdBlock, "||a.example^\n/^ads[0-9]+\\./\n@@/^ads1\\./\n/(?=x)/\n/.*/\n", "a.example /^ads[0-9]+\\. -/^ads1\\."},
		{"dnsmasq's server without an address answers locally", Dnsmasq,
			"# x\nserver=/a.example/\nlocal=/b.example/\naddress=/c.example/d.example/0.0.0.0\naddress=/e.example/#\naddress=/f.example/::\n" +
				"server=/g.example/192.0.2.53\naddress=/h.example/192.0.2.1\nserver=/i.example/#\ncache-size=100\n",
			"a.example b.example c.example d.example e.example f.example -i.example"},
		{"unbound zones by their type", Unbound,
			"server:\nlocal-zone: \"a.example.\" always_null\nlocal-zone: 'b.example' static\n  local-zone: c.example refuse\nlocal-zone: \"d.example\" typetransparent\n" +
				"local-data: \"e.example. A 0.0.0.0\"\nlocal-data: \"f.example A 192.0.2.1\"\nlocal-zone: \"g.example\" always_transparent\n",
			"a.example b.example c.example e.example -g.example"},
		{"a policy zone with owners relative to its origin", RPZ,
			"$TTL 60\n$ORIGIN rpz.test.\n@ IN SOA ns. root. (\n 1 ; serial\n 2 3 4 5 )\n  IN NS localhost.\na.example IN CNAME .\n*.a.example 300 IN CNAME .\n" +
				"b.example.rpz.test. CNAME *.\nok.a.example CNAME rpz-passthru.\nc.example CNAME rpz-drop.\nd.example CNAME walled.garden.\n" +
				"32.1.2.0.192.rpz-ip CNAME .\ne.example A 0.0.0.0\nf.example A 192.0.2.1\n$ORIGIN sub.rpz.test.\ng.example CNAME .\n",
			"=a.example <a.example =b.example -=ok.a.example =c.example =e.example =g.example.sub"},
		{"squidGuard's expressions see the host", Expressions, "(^|[-.])(casino|poker)s?([-.]|$)\n(bet|wager)[0-9]+\n", "/(?i)(^|[-.])(casino|poker)s?([-.]|$) /(?i)(bet|wager)[0-9]+"},
		{"squidGuard's urls block no host", URLs, "a.example/x/y\nb.example/z\n", ""},
		{"a geosite source", Geosite, "# x\na.example\ndomain:b.example @ads\nfull:c.example # why\nkeyword:casino\nregexp:^d[0-9]\\.example$\ne.example &other\ncom\n",
			"a.example b.example =c.example /keyword:casino /^d[0-9]\\.example$ e.example"},
	} {
		t.Run(row.name, func(t *testing.T) {
			got, r, err := scanned(t, row.list, Options{List: "x"})
			if err != nil {
				t.Fatal(err)
			}
			if r.Format != row.format {
				t.Errorf("got format %s, want %s", r.Format, row.format)
			}
			want := strings.Fields(row.want)
			if row.format == Expressions {
				want = strings.Split(row.want, " ")
			}
			if !slices.Equal(got, want) {
				t.Errorf("got  %q\nwant %q\nskipped %v", got, want, r.Skipped)
			}
		})
	}
}

func TestIncludesOfGeositeAreFilteredByAttribute(t *testing.T) {
	files := map[string]string{
		"ads":    "x.example @ads\ny.example\ninclude:deep\n",
		"deep":   "z.example @ads @cn\ninclude:top @ads\n",
		"nested": "w.example\n",
		"top":    "include:ads @ads\ninclude:deep @-cn\nfull:own.example\n",
	}
	o := Options{List: "top", Include: func(name string) (io.ReadCloser, error) {
		text, ok := files[name]
		if !ok {
			return nil, fmt.Errorf("no file %s", name)
		}
		return io.NopCloser(strings.NewReader(text)), nil
	}}
	got, _, err := scanned(t, files["top"], o)
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(got)
	if want := []string{"=own.example", "x.example", "z.example"}; !slices.Equal(slices.Compact(got), want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func zipped(text string) string {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	io.WriteString(w, text)
	w.Close()
	return b.String()
}

func TestListsThatCannotBeRightAreRefused(t *testing.T) {
	for _, row := range []struct {
		name string
		list string
		o    Options
		want error
		text string
	}{
		{"a web page", "\n<!DOCTYPE html><html>\n<p>Sign in</p>\n", Options{}, ErrHTML,
			"list L line 1: this is a web page, not a list: check the address: the list may have moved or need a login"},
		{"a web page behind gzip", zipped("<html>"), Options{}, ErrHTML, ""},
		{"a zip archive that holds its file as it is", "PK\x03\x04\x14\x00\nads.example\nbets.example\n", Options{}, ErrPacked,
			"list L: this is an archive or a compressed file, not a list: unpack it; only gzip can stay as it is"},
		{"a list behind zstd", "\x28\xb5\x2f\xfd\x04ads.example\n", Options{}, ErrPacked, ""},
		{"nothing", "", Options{}, ErrEmpty, "list L: no entries (read as domains, 0 lines): check the address, or set the format"},
		{"comments alone", "# x\n# y\n", Options{}, ErrEmpty, ""},
		{"half of what it was", "a.example\nb.example\n", Options{Previous: 5}, ErrHalved,
			"list L: fewer than half of the previous entries (2 now, 5 before): if the list really shrank, remove the cached copy"},
		{"top-level domains alone", "com\nnet\n", Options{}, ErrEmpty, ""},
		{"a name that must not be blocked", "a.example\ncorp.test\n", Options{NeverBlock: []string{"vpn.corp.test"}}, ErrNeverBlock,
			"list L line 2: an entry covers a name that must never be blocked (vpn.corp.test): remove the line, or allow the name in the category"},
		{"an expression for a name that must not be blocked", "/^vpn/\n||a.example^\n", Options{NeverBlock: []string{"vpn.corp.test"}}, ErrNeverBlock, ""},
		{"a line without an end alone", strings.Repeat("x", 1<<20), Options{}, ErrEmpty, ""},
		{"an endless line of more than max_bytes", strings.Repeat("x", 1<<20), Options{MaxBytes: 1 << 19}, ErrTooLarge, ""},
		{"more than max_bytes", strings.Repeat("a.example\n", 1000), Options{MaxBytes: 999}, ErrTooLarge, ""},
		{"a gzip bomb", zipped(strings.Repeat("a.example\n", 1<<20)), Options{MaxBytes: 1 << 20}, ErrTooLarge, ""},
		{"gzip cut short", zipped(strings.Repeat("a.example\n", 1<<12))[:60], Options{}, ErrCompressed, ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			row.o.List = "L"
			_, err := Check(strings.NewReader(row.list), row.o)
			if !errors.Is(err, row.want) {
				t.Fatalf("got %v, want %v", err, row.want)
			}
			le, ok := errors.AsType[*ListError](err)
			if !ok || le.List != "L" || le.Mend == "" {
				t.Errorf("got %#v, want a ListError of list L that says how to fix it", err)
			}
			if row.text != "" && err.Error() != row.text {
				t.Errorf("got  %s\nwant %s", err, row.text)
			}
		})
	}
}

func TestAnEmptyListOfTheOperatorIsFine(t *testing.T) {
	if _, err := Check(strings.NewReader("# none yet\n"), Options{AllowEmpty: true, Previous: 9}); err != nil {
		t.Error(err)
	}
}

func TestALineOfFullLengthIsRead(t *testing.T) {
	list := "# " + strings.Repeat("x", MaxLine-2) + "\r\na.example\n"
	if got, _, err := scanned(t, list, Options{}); err != nil || len(got) != 1 {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestALongLineIsSkippedAndCounted(t *testing.T) {
	for name, long := range map[string]string{
		"of 6 KiB": "a.example,b.example##." + strings.Repeat("x", 6<<10), "that fills the buffer": strings.Repeat("x", 64<<10),
		"of 1 MiB": strings.Repeat("x", 1<<20), "of blanks": strings.Repeat(" ", 1<<20) + "bad.example",
	} {
		for end, list := range map[string]string{"within": "||a.example^\n" + long + "\n||b.example^\n", "at the end": "||a.example^\n||b.example^\n" + long, "with CRLF": "||a.example^\r\n" + long + "\r\n||b.example^\r\n"} {
			got, r, err := scanned(t, list, Options{})
			if err != nil || strings.Join(got, " ") != "a.example b.example" || r.Skipped[SkipLong] != 1 || r.Lines != 3 {
				t.Errorf("a line %s, %s: got %q, %+v, %v; want the other lines", name, end, got, r, err)
			}
		}
	}
}

func TestATopLevelDomainIsTakenOnlyOnPurpose(t *testing.T) {
	for _, row := range []struct{ list, want, withTLD string }{
		{"||a.example^\n||zip^\n", "a.example", "a.example zip"},
		{"a.example\ncom\nco.uk\n", "a.example", "a.example com co.uk"},
		{"$ORIGIN rpz.test.\n@ SOA ns. root. 1 2 3 4 5\n*.top CNAME .\na.example CNAME .\n", "=a.example", "<top =a.example"},
		{"a.example\nlocalhost\n", "a.example", "a.example"},
	} {
		got, r, err := scanned(t, row.list, Options{})
		if err != nil || strings.Join(got, " ") != row.want {
			t.Errorf("%q: got %q, %v; want %s", row.list, got, err, row.want)
		}
		if row.want != row.withTLD && (len(r.Refused) == 0 || r.Refused[0].Line == 0 || r.Refused[0].Text == "") {
			t.Errorf("%q: got refused %v, want the entries and their lines", row.list, r.Refused)
		}
		if got, _, err := scanned(t, row.list, Options{AllowTLD: true}); err != nil || strings.Join(got, " ") != row.withTLD {
			t.Errorf("%q with allow_tld: got %q, %v; want %s", row.list, got, err, row.withTLD)
		}
	}
}

func TestAListMayBeInUTF16(t *testing.T) {
	list := "\xff\xfe"
	for _, c := range "bad.example\r\nworse.example\r\n" {
		list += string([]byte{byte(c), 0})
	}
	if got, r, err := scanned(t, list, Options{}); err != nil || strings.Join(got, " ") != "bad.example worse.example" || r.Lines != 2 {
		t.Errorf("got %q, %+v, %v", got, r, err)
	}
}

func TestSuffixesOfCountriesAreLeftOut(t *testing.T) {
	got, r, err := scanned(t, "co.uk\nx.co.uk\nsex.pl\npvt.k12.ma.us\ngithub.io\nlocalhost\n", Options{})
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"x.co.uk", "github.io"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if r.Skipped[SkipSuffix] != 3 || r.Skipped[SkipSpecial] != 1 {
		t.Errorf("got skipped %v", r.Skipped)
	}
}

func FuzzLineNeverYieldsAPublicSuffix(f *testing.F) {
	for _, line := range []string{
		"com", "||com^", "@@||co.uk^$important", "*.com", "0.0.0.0 com", "address=/com/#", "server=/com/", "local-zone: \"com.\" static",
		"com. CNAME .", "*.com CNAME .", "domain:com", "full:com", "COM.", "xn--p1ai", "рф", "||a.example^$denyallow=com", "com:80",
		"regexp:.*", "/./", "a.example", "192.0.2.1", "0.0.0.0.com", "$ORIGIN com.\nx CNAME .", "。com",
	} {
		for format := Auto; format <= URLs; format++ {
			f.Add(line, uint8(format))
		}
	}
	f.Fuzz(func(t *testing.T, list string, format uint8) {
		Scan(strings.NewReader(list), Options{Format: Format(format % uint8(URLs+1))}, func(e *Entry) error {
			if e.Addr.IsValid() || e.Expression != "" {
				return nil
			}
			name := string(e.Name)
			if canonical, err := CanonicalName(name); err != nil || canonical != name {
				t.Errorf("%q yields %q, which is not canonical", list, name)
			}
			if isICANNSuffix(name) || !strings.Contains(name, ".") {
				t.Errorf("%q yields the public suffix %q", list, name)
			}
			return nil
		})
	})
}
