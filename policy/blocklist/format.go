package blocklist

import (
	"bytes"
	"fmt"
	"net/netip"
	"strings"
)

// Format is the syntax of a list file.
type Format uint8

// The formats. A file in any of them may be compressed with gzip.
const (
	Auto        Format = iota // detected from the first lines
	Domains                   // one name per line: "x", "*.x" or ".x"; squidGuard's domains files
	Hosts                     // "0.0.0.0 x y"
	AdBlock                   // "||x^", "@@||x^": rules for whole hosts in AdBlock and AdGuard syntax
	Dnsmasq                   // address=/x/, server=/x/, local=/x/
	Unbound                   // local-zone: "x." always_null
	RPZ                       // response policy zone
	Geosite                   // source of geosite files: domain: full: keyword: regexp: include:
	Expressions               // squidGuard's expressions files
	URLs                      // squidGuard's urls files: host/path. No line blocks a whole host
)

var formatNames = [...]string{"auto", "domains", "hosts", "adblock", "dnsmasq", "unbound", "rpz", "geosite", "expressions", "urls"}

// String returns the name that ParseFormat accepts.
func (f Format) String() string {
	if int(f) < len(formatNames) {
		return formatNames[f]
	}
	return fmt.Sprintf("format(%d)", uint8(f))
}

// ParseFormat reads the name of a format from a configuration; empty means Auto.
func ParseFormat(s string) (Format, error) {
	if s == "" {
		return Auto, nil
	}
	for i, name := range formatNames {
		if s == name {
			return Format(i), nil
		}
	}
	return Auto, fmt.Errorf("list format %q is unknown: use one of %s", s, strings.Join(formatNames[:], ", "))
}

// detect guesses the format from the beginning of a file. The sample may end within a line. html reports whether the file
// is a web page.
func detect(sample []byte) (f Format, html bool) {
	if looksLikeHTML(sample) {
		return Auto, true
	}
	var votes [len(formatNames)]int
	total := 0
	for line := range bytes.Lines(sample) {
		f := classify(bytes.TrimRight(line, " \t\r\n"))
		if f == Auto {
			continue
		}
		votes[f]++
		total++
	}
	// In files of these formats nearly all lines are typical.
	for _, f := range []Format{RPZ, Unbound, Dnsmasq} {
		if votes[f]*2 > total {
			return f, false
		}
	}
	switch {
	case votes[AdBlock]*10 > total:
		return AdBlock, false
	case votes[Geosite] >= 3, votes[Geosite]*50 > total: // long files begin with a few includes
		return Geosite, false
	case votes[Hosts]*4 > total:
		return Hosts, false
	case votes[URLs]*2 > total:
		return URLs, false
	case votes[Expressions]*2 > total:
		return Expressions, false
	}
	return Domains, false
}

func looksLikeHTML(sample []byte) bool {
	head := bytes.ToLower(bytes.TrimLeft(sample[:min(len(sample), 512)], " \t\r\n"))
	for _, tag := range []string{"<!doctype", "<html", "<head", "<?xml", "<body", "<script"} {
		if bytes.HasPrefix(head, []byte(tag)) {
			return true
		}
	}
	return false
}

// classify returns the format that a line is typical of, or Auto if none. The line has no trailing blanks.
func classify(line []byte) Format {
	trimmed := bytes.TrimLeft(line, " \t")
	if len(trimmed) == 0 {
		return Auto
	}
	s := string(trimmed)
	switch s[0] {
	case '#':
		if isCosmetic(s) {
			return AdBlock
		}
		return Auto
	case '!':
		return Auto
	case ';':
		return Auto
	case '$':
		return RPZ
	case '[':
		if strings.HasPrefix(strings.ToLower(s), "[adblock") || strings.HasPrefix(strings.ToLower(s), "[adguard") {
			return AdBlock
		}
	case '&', '@':
		if strings.HasPrefix(s, "@@") {
			return AdBlock
		}
	}
	switch {
	case strings.HasPrefix(s, "||"), isCosmetic(s):
		return AdBlock
	case strings.HasPrefix(s, "local-zone:"), strings.HasPrefix(s, "local-data:"), s == "server:":
		return Unbound
	case strings.HasPrefix(s, "address=/"), strings.HasPrefix(s, "server=/"), strings.HasPrefix(s, "local=/"):
		return Dnsmasq
	}
	if prefix, _, ok := strings.Cut(s, ":"); ok {
		switch prefix {
		case "domain", "full", "keyword", "regexp", "include":
			return Geosite
		}
	}
	fields := strings.Fields(s)
	if len(fields) == 0 {
		return Auto // only Unicode blanks
	}
	if len(fields) > 2 && isRecordType(fields[1:]) || line[0] == ' ' && isRecordType(fields) {
		return RPZ
	}
	if len(fields) > 1 {
		if _, err := netip.ParseAddr(fields[0]); err == nil {
			return Hosts
		}
		if fields[1][0] == '@' || fields[1][0] == '&' {
			return Geosite
		}
	}
	if s[0] == '/' && strings.LastIndexByte(s, '/') > 0 {
		return AdBlock
	}
	if strings.ContainsAny(fields[0], `()[]\|^$?`) {
		if strings.HasSuffix(s, "^") {
			return AdBlock
		}
		return Expressions
	}
	if i := strings.IndexByte(s, '/'); i > 0 && isCanonical(strings.ToLower(s[:i])) {
		return URLs
	}
	return Domains
}

// isRecordType reports whether one of the first fields is a record type that policy zones use.
func isRecordType(fields []string) bool {
	for _, f := range fields[:min(len(fields), 3)] {
		switch strings.ToUpper(f) {
		case "SOA", "NS", "CNAME", "TXT", "A", "AAAA":
			return true
		}
	}
	return false
}
