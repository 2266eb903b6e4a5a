package blocklist

import (
	"fmt"
	"strings"

	"golang.org/x/net/idna"
)

// Lengths of a host name in text without the trailing dot: RFC 1035 section 2.3.4.
const (
	maxName  = 253
	maxLabel = 63
)

// toASCII maps names as browsers do (UTS #46, non-transitional). isCanonical checks the characters afterwards.
var toASCII = idna.New(idna.MapForLookup(), idna.Transitional(false), idna.StrictDomainName(false))

// CanonicalName returns the form in which names are compared everywhere: lower case, A-labels, no trailing dot, no port.
// It fails on addresses and on text that cannot be a host name. It is idempotent and does not allocate for a canonical name.
func CanonicalName(s string) (string, error) {
	if isCanonical(s) {
		return s, nil
	}
	name := withoutPort(s)
	name = strings.TrimSuffix(name, ".")
	if len(name) > 4*maxName {
		return "", fmt.Errorf("host name of %d bytes is too long", len(s))
	}
	if isASCII(name) {
		name = strings.ToLower(name)
	} else {
		ascii, err := toASCII.ToASCII(name)
		if err != nil {
			return "", fmt.Errorf("host name %q: %w", s, err)
		}
		name = strings.TrimSuffix(ascii, ".")
	}
	if !isCanonical(name) {
		return "", fmt.Errorf("%q is not a host name", s)
	}
	return name, nil
}

// withoutPort removes a trailing :port, which a Host header may have.
func withoutPort(s string) string {
	i := strings.LastIndexByte(s, ':')
	if i < 0 || len(s)-i > len(":65535") || strings.IndexByte(s, ':') != i {
		return s
	}
	for _, c := range []byte(s[i+1:]) {
		if c < '0' || c > '9' {
			return s
		}
	}
	return s[:i]
}

func isASCII(s string) bool {
	for i := range len(s) {
		if s[i] >= 0x80 {
			return false
		}
	}
	return true
}

// isCanonical reports whether s is a canonical host name. A name whose last label is a number is not: resolvers and
// browsers take it for an address.
func isCanonical[T string | []byte](s T) bool {
	if len(s) == 0 || len(s) > maxName {
		return false
	}
	label, numeric := 0, true
	for i := range len(s) {
		switch nameBytes[s[i]] {
		case byteDigit:
			label++
		case byteOther:
			label++
			numeric = false
		case byteDot:
			if label == 0 || label > maxLabel {
				return false
			}
			label, numeric = 0, true
		default:
			return false
		}
	}
	return label > 0 && label <= maxLabel && !numeric
}

// Classes of bytes. A canonical name has no byte of class zero.
const (
	byteDigit = iota + 1
	byteOther
	byteDot
)

// nameBytes maps a byte to its class. It allows the underscore, because real names have it.
var nameBytes = func() (t [256]uint8) {
	for c := byte('a'); c <= 'z'; c++ {
		t[c] = byteOther
	}
	for c := byte('0'); c <= '9'; c++ {
		t[c] = byteDigit
	}
	t['-'], t['_'], t['.'] = byteOther, byteOther, byteDot
	return t
}()
