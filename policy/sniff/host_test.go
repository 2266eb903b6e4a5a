package sniff

import (
	"strings"
	"testing"
)

func TestHostIsReadWithoutItsTrimmings(t *testing.T) {
	long := strings.Repeat("a.", 127) + "a"
	for _, tt := range []struct {
		name, in, want string
		kind           hostKind
	}{
		{"a name stays", "x.bet", "x.bet", hostName},
		{"one label is a name", "intranet", "intranet", hostName},
		{"upper case is lowered", "X.BeT", "x.bet", hostName},
		{"a port is cut", "x.bet:8080", "x.bet", hostName},
		{"an empty port is cut", "x.bet:", "x.bet", hostName},
		{"a trailing dot is cut", "x.bet.", "x.bet", hostName},
		{"a trailing dot before a port is cut", "x.bet.:80", "x.bet", hostName},
		{"an underscore is legal in practice", "_dns.x.bet", "_dns.x.bet", hostName},
		{"A-labels stay", "xn--e1afmkfd.example", "xn--e1afmkfd.example", hostName},
		{"UTF-8 is left to the caller", "пример.example", "пример.example", hostName},
		{"a label that starts with digits is a name", "1.2.3.4a", "1.2.3.4a", hostName},
		{"the longest name fits", long, long, hostName},
		{"empty text is not a host", "", "", hostAbsent},
		{"an IPv4 address is not a name", "192.0.2.1", "", hostLiteral},
		{"an IPv4 address with a port is not a name", "192.0.2.1:80", "", hostLiteral},
		{"a shortened IPv4 address is not a name", "127.1", "", hostLiteral},
		{"an IPv4 address as one number is not a name", "2130706433", "", hostLiteral},
		{"a hexadecimal IPv4 address is not a name", "0x7f.0X1", "", hostLiteral},
		{"an IPv4 address with a trailing dot and a port is not a name", "192.0.2.1.:80", "", hostLiteral},
		{"an octal IPv4 address is not a name", "0300.0.2.1", "", hostLiteral},
		{"an IPv4 address as one hexadecimal number is not a name", "0xC0000201", "", hostLiteral},
		{"a bracketed IPv6 address is not a name", "[2001:db8::1]", "", hostLiteral},
		{"a bracketed IPv6 address with a port is not a name", "[2001:db8::1]:443", "", hostLiteral},
		{"a bare IPv6 address is not a name", "2001:db8::1", "", hostLiteral},
		{"a mapped IPv4 address is not a name", "[::ffff:192.0.2.1]:80", "", hostLiteral},
		{"a short IPv6 address is not a name", "::", "", hostLiteral},
		{"two ports behind hexadecimal digits are illegal", "8888.cc:80:80", "", hostIllegal},
		{"hexadecimal digits and two colons are illegal", "bade.de::", "", hostIllegal},
		{"hexadecimal digits in brackets are illegal", "[bade.de::]", "", hostIllegal},
		{"a replica of a container", "web.1", "", hostLiteral},
		{"a path that ends in a number is illegal", "x.bet/.1", "", hostIllegal},
		{"a fragment that ends in a number is illegal", "x.bet#.1", "", hostIllegal},
		{"a query that ends in a number is illegal", "x.bet?.0x1", "", hostIllegal},
		{"a backslash before a number is illegal", `x.bet\.1`, "", hostIllegal},
		{"a version behind the name is illegal", "bad.betHTTP/1.0", "", hostIllegal},
		{"an empty label in an address is illegal", "192.0..1", "", hostIllegal},
		{"a name in brackets is illegal", "[x.bet]", "", hostIllegal},
		{"an open bracket is illegal", "[2001:db8::1", "", hostIllegal},
		{"a zone is illegal", "[fe80::1%25eth0]", "", hostIllegal},
		{"letters after a bracket are illegal", "[::1]x.bet", "", hostIllegal},
		{"a port of letters is illegal", "x.bet:http", "", hostIllegal},
		{"a port of six digits is illegal", "x.bet:123456", "", hostIllegal},
		{"two ports are illegal", "x.bet:80:80", "", hostIllegal},
		{"only a port is illegal", ":80", "", hostIllegal},
		{"the root alone is not a host", ".", "", hostAbsent},
		{"the root with a port is illegal", ".:80", "", hostIllegal},
		{"two trailing dots are illegal", "x.bet..", "", hostIllegal},
		{"a leading dot is illegal", ".x.bet", "", hostIllegal},
		{"an empty label is illegal", "x..bet", "", hostIllegal},
		{"a NUL is illegal", "x.bet\x00.good.example", "", hostIllegal},
		{"a blank is illegal", "x.bet good.example", "", hostIllegal},
		{"user information is illegal", "good.example@x.bet", "", hostIllegal},
		{"a percent sign is illegal", "x%2ebet", "", hostIllegal},
		{"a slash is illegal", "x.bet/", "", hostIllegal},
		{"a list is illegal", "x.bet,good.example", "", hostIllegal},
		{"broken UTF-8 is illegal", "x\xff.bet", "", hostIllegal},
		{"a name too long is illegal", long + "aa", "", hostIllegal},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var h Host
			if kind := h.set([]byte(tt.in)); kind != tt.kind || h.String() != tt.want {
				t.Errorf("set(%q): got %q, kind %d; want %q, kind %d", tt.in, h, kind, tt.want, tt.kind)
			}
			if (tt.kind == hostName) == h.IsZero() {
				t.Errorf("set(%q): got IsZero %v", tt.in, h.IsZero())
			}
		})
	}
}
