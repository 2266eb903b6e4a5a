package sniff

import (
	"bytes"
	"net/netip"
	"unicode/utf8"
)

// maxHost is the longest host that is stored, in bytes. A name has at most 253. A name in UTF-8 can be longer than its
// A-labels.
const maxHost = 255

// Host is a host name as the client wrote it, without port, brackets and trailing dot, and with ASCII letters in lower
// case. It may contain UTF-8, which the caller converts to A-labels. The zero Host means no name. Host has no pointers, so
// that reading one does not allocate.
type Host struct {
	n uint8
	b [maxHost]byte
}

// String returns the name, or "" for the zero Host.
func (h Host) String() string { return string(h.b[:h.n]) }

// IsZero reports whether there is no name.
func (h Host) IsZero() bool { return h.n == 0 }

// hostKind says what was found where a host is expected.
type hostKind uint8

const (
	hostAbsent  hostKind = iota
	hostName             // a name
	hostLiteral          // an IP address in any notation
	hostIllegal          // bytes that no host can have
)

// set reads "host", "host:port" or "[address]:port" into h. It sets a name only if it returns hostName.
func (h *Host) set(b []byte) hostKind {
	*h = Host{}
	if len(b) == 0 || string(b) == "." { // the root is no host
		return hostAbsent
	}
	b, ok := cutPort(b)
	if !ok {
		return hostIllegal
	}
	if bytes.IndexByte(b, ':') >= 0 {
		return kindOfIPv6(b)
	}
	b = bytes.TrimSuffix(b, []byte("."))
	if len(b) == 0 || len(b) > maxHost {
		return hostIllegal
	}
	label, ascii := 0, true
	for i, c := range b {
		switch {
		case c == '.':
			if i == label {
				return hostIllegal // an empty label
			}
			label = i + 1
		case 'A' <= c && c <= 'Z':
			c += 'a' - 'A'
		case c >= utf8.RuneSelf:
			ascii = false
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9', c == '-', c == '_':
		default:
			return hostIllegal
		}
		h.b[i] = c
	}
	if label == len(b) || !ascii && !utf8.Valid(b) {
		return hostIllegal
	}
	if isNumber(b[label:]) {
		*h = Host{}
		return hostLiteral
	}
	h.n = uint8(len(b))
	return hostName
}

// cutPort removes a port and brackets. If the result contains a colon, it is an IPv6 address or invalid.
func cutPort(b []byte) (host []byte, ok bool) {
	if b[0] == '[' {
		end := bytes.IndexByte(b, ']')
		if end < 0 || bytes.IndexByte(b[:end], ':') < 0 {
			return nil, false
		}
		return b[1:end], end+1 == len(b) || b[end+1] == ':' && isPort(b[end+2:])
	}
	colon := bytes.IndexByte(b, ':')
	if colon < 0 || bytes.IndexByte(b[colon+1:], ':') >= 0 {
		return b, true
	}
	return b[:colon], isPort(b[colon+1:])
}

// isPort accepts an empty port as RFC 3986 3.2.3 does.
func isPort(b []byte) bool {
	return len(b) <= 5 && allDigits(b)
}

func allDigits(b []byte) bool {
	for _, c := range b {
		if c < '0' || c > '9' {
			return false
		}
	}
	return true
}

func isHex(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'f' || 'A' <= c && c <= 'F'
}

// kindOfIPv6 tells an IPv6 address from other text with colons. Servers that cut a Host field at its first colon serve a name in
// "8888.cc:80:80". A zone is illegal, because it means nothing to anybody but the client.
func kindOfIPv6(b []byte) hostKind {
	for _, c := range b {
		if !isHex(c) && c != ':' && c != '.' {
			return hostIllegal
		}
	}
	if _, err := netip.ParseAddr(string(b)); err != nil {
		return hostIllegal
	}
	return hostLiteral
}

// isNumber reports whether a last label is a number, decimal, octal or hexadecimal. Clients parse such a host as an IPv4 address, even
// "127.1", "2130706433" and "0x7f.1" (WHATWG URL, "ends in a number"). No top-level domain is a number.
func isNumber(label []byte) bool {
	if len(label) < 2 || label[0] != '0' || label[1]|0x20 != 'x' {
		return len(label) > 0 && allDigits(label)
	}
	for _, c := range label[2:] {
		if !isHex(c) {
			return false
		}
	}
	return true
}
