package blocklist

import (
	"bytes"
	"strings"

	"golang.org/x/net/publicsuffix"
)

// suffixKind says whether a name is one under which strangers register theirs.
type suffixKind uint8

const (
	notSuffix    suffixKind = iota
	topLevel                // com, bet: no sane list has it
	publicSuffix            // co.uk, sex.pl: a few stand in most large lists by mistake
	localName               // a single label that is no top-level domain
)

// isPlainTLD knows top-level domains under which ICANN's part of the public suffix list has nothing. Most names of lists
// are under these, and asking the list costs more than all else that is done to a line.
func isPlainTLD(tld []byte) bool {
	switch string(tld) {
	case "com", "net", "org", "info", "biz", "xyz", "top", "online", "site", "shop", "club", "live", "icu", "vip", "store",
		"app", "dev", "de", "eu", "nl", "ru", "ch":
		return true
	}
	return false
}

// suffixOf judges a canonical name. Suffixes of the private part, such as github.io, are names like any other: lists
// mean them.
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
