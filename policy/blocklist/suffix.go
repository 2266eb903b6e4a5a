package blocklist

import (
	"bytes"
	"strings"

	"golang.org/x/net/publicsuffix"
)

// suffixKind says whether the public can register names directly under a name.
type suffixKind uint8

const (
	notSuffix    suffixKind = iota
	topLevel                // com, bet: no sane list contains one
	publicSuffix            // co.uk, sex.pl: most large lists contain a few by mistake
	localName               // a single label that is not a top-level domain, or a name under localhost
)

// isPlainTLD reports whether tld is a common top-level domain under which ICANN's part of the public suffix list has no
// entry. Most listed names are under one of these, and a look-up in the suffix list costs more than the rest of a line.
func isPlainTLD(tld []byte) bool {
	switch string(tld) {
	case "com", "net", "org", "info", "biz", "xyz", "top", "online", "site", "shop", "club", "live", "icu", "vip", "store",
		"app", "dev", "de", "eu", "nl", "ru", "ch":
		return true
	}
	return false
}

// IsPublicSuffix reports whether a canonical name is one under which the public can register names, such as com or co.uk.
// Private suffixes, such as github.io, and single labels that are no top-level domain are none.
func IsPublicSuffix(name string) bool {
	kind := suffixOf([]byte(name))
	return kind == topLevel || kind == publicSuffix
}

// suffixOf returns the kind of a canonical name. Suffixes from the private part of the list, such as github.io, are ordinary
// names: lists contain them on purpose.
func suffixOf(name []byte) suffixKind {
	i := bytes.LastIndexByte(name, '.')
	if i < 0 {
		if _, icann := publicsuffix.PublicSuffix(string(name)); icann {
			return topLevel
		}
		return localName
	}
	if bytes.Count(name, []byte{'.'}) > 3 {
		return notSuffix // ICANN's longest has three dots: pvt.k12.ma.us
	}
	if isPlainTLD(name[i+1:]) {
		return notSuffix
	}
	s := string(name)
	if s == "localhost.localdomain" || strings.HasSuffix(s, ".localhost") {
		return localName
	}
	if suffix, icann := publicsuffix.PublicSuffix(s); icann && suffix == s {
		return publicSuffix
	}
	return notSuffix
}
