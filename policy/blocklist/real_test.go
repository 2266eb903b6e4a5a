package blocklist

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"testing"
)

// realLists is the environment variable with the directory of unmodified published lists. The lists are too large, and
// their licences too varied, to keep them in the repository.
const realLists = "PENSTOCK_REAL_LISTS"

func realDir(t *testing.T) string {
	t.Helper()
	dir := os.Getenv(realLists)
	if dir == "" {
		t.Skipf("%s does not name a directory of lists", realLists)
	}
	return dir
}

func TestPublishedListsParseWithTheirCounts(t *testing.T) {
	dir := realDir(t)
	suffix := map[string]int{SkipSuffix: 1}
	for file, want := range map[string]Report{
		"1hosts-pro-2021.dnsmasq-server.conf.gz":    {Format: Dnsmasq, Lines: 99802, Blocks: 99782, Skipped: suffix}, // danang.vn
		"1hosts-pro-2021.domains.txt.gz":            {Format: Domains, Lines: 173582, Blocks: 173562, Skipped: suffix},
		"blocklistproject-phishing.domains.txt.gz":  {Format: Domains, Lines: 190228, Blocks: 190215},
		"blocklistproject-redirect.dnsmasq.conf.gz": {Format: Dnsmasq, Lines: 108698, Blocks: 108685},
		"blocklistproject-tracking.adguard.txt.gz":  {Format: AdBlock, Lines: 143889, Blocks: 143876},
		"hagezi-easylist-2022.unbound.conf.gz":      {Format: Unbound, Lines: 50270, Blocks: 50231},
		"hagezi-light-2022.adblock.txt.gz":          {Format: AdBlock, Lines: 122690, Blocks: 122679, Skipped: suffix}, // net.kg
		// Owners such as 32.2a03:2880::.rpz.ip, and two with a single label.
		"mullvad-social.rpz.zone.gz":               {Format: RPZ, Lines: 73209, Blocks: 73189, Skipped: map[string]int{SkipInvalid: 6, SkipSpecial: 2}},
		"shadowwhisperer-adult.domains.txt.gz":     {Format: Domains, Lines: 219532, Blocks: 219517, Skipped: map[string]int{SkipSuffix: 5}}, // sex.pl
		"shadowwhisperer-gambling.domains.txt":     {Format: Domains, Lines: 9614, Blocks: 9604},
		"shadowwhisperer-malware.domains.txt.gz":   {Format: Domains, Lines: 43736, Blocks: 43726},
		"shadowwhisperer-tracking.domains.txt.gz":  {Format: Domains, Lines: 116358, Blocks: 116348},
		"shadowwhisperer-wild-ads.wildcard.txt.gz": {Format: Domains, Lines: 19049, Blocks: 19039},
		"sinfonietta-gambling.hosts":               {Format: Hosts, Lines: 2642, Blocks: 2642},
		// Five bare addresses; "xxxhindi.to en" has two fields, and "en" is not a host name.
		"sinfonietta-pornography.hosts.gz":   {Format: Hosts, Lines: 61188, Blocks: 61181, Addresses: 5, Skipped: map[string]int{SkipSpecial: 1}},
		"sinfonietta-social.hosts.gz":        {Format: Hosts, Lines: 3290, Blocks: 3244, Skipped: map[string]int{SkipSpecial: 1}}, // snapchat-com
		"ut1-adult.squidguard.expression":    {Format: Expressions, Lines: 2, Expressions: 2},
		"ut1-doh.squidguard.domains.gz":      {Format: Domains, Lines: 3015, Blocks: 2996, Addresses: 19},
		"ut1-gambling.squidguard.domains.gz": {Format: Domains, Lines: 32247, Blocks: 32232, Addresses: 14, Skipped: suffix}, // bet.br
		"ut1-malware.squidguard.urls.gz":     {Format: URLs, Lines: 19226, Skipped: map[string]int{SkipURL: 19226}},
	} {
		t.Run(file, func(t *testing.T) {
			f, err := os.Open(filepath.Join(dir, file))
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			got, err := Check(f, Options{List: file})
			if err != nil {
				t.Fatal(err)
			}
			if !maps.Equal(got.Skipped, want.Skipped) {
				t.Errorf("got skipped %v, want %v", got.Skipped, want.Skipped)
			}
			got.Skipped, want.Skipped = nil, nil
			if g, w := got, want; g.Format != w.Format || g.Lines != w.Lines || g.Blocks != w.Blocks || g.Allows != w.Allows ||
				g.Addresses != w.Addresses || g.Expressions != w.Expressions {
				t.Errorf("got %+v, want %+v", g, w)
			}
		})
	}
}

func TestPublishedGeositeSourcesParseWithTheirIncludes(t *testing.T) {
	files := geositeFiles(t, filepath.Join(realDir(t), "v2fly-domain-list-community.geosite-source.tar.gz"))
	include := func(name string) (io.ReadCloser, error) {
		text, ok := files[name]
		if !ok {
			return nil, fs.ErrNotExist
		}
		return io.NopCloser(bytes.NewReader(text)), nil
	}
	entries, refused := 0, 0
	for name, text := range files {
		r, err := Check(bytes.NewReader(text), Options{List: name, Format: Geosite, Include: include, AllowEmpty: true})
		if err != nil {
			t.Logf("%v", err)
			refused++
			continue
		}
		entries += r.Entries()
		if n := r.Skipped[SkipInvalid]; n > 0 {
			t.Errorf("%s: %d lines could not be parsed", name, n)
		}
	}
	t.Logf("%d files, %d entries with includes, %d refused", len(files), entries, refused)
	for _, name := range []string{"category-porn", "category-ads-all", "category-doh", "category-vpnservices"} {
		r, err := Check(bytes.NewReader(files[name]), Options{List: name, Include: include})
		if err != nil || r.Format != Geosite || r.Entries() == 0 {
			t.Errorf("%s: got %+v, %v", name, r, err)
		}
		t.Logf("%s: %+v", name, r)
	}
}

func geositeFiles(t *testing.T, archive string) map[string][]byte {
	t.Helper()
	f, err := os.Open(archive)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string][]byte{}
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if err == io.EOF {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.Typeflag != tar.TypeReg || path.Base(path.Dir(h.Name)) != "data" {
			continue
		}
		if files[path.Base(h.Name)], err = io.ReadAll(r); err != nil {
			t.Fatal(err)
		}
	}
}
