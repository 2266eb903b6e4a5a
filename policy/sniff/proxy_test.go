package sniff

import (
	"strings"
	"testing"
)

// proxyV2 returns a header of version 2 of the PROXY protocol with size bytes of addresses and further values.
func proxyV2(size int) []byte {
	header := append([]byte(proxyV2Start), 0x21, 0x11, byte(size>>8), byte(size))
	return append(header, make([]byte, size)...)
}

func TestWhatComesBehindTheProxyProtocol(t *testing.T) {
	const v1 = "PROXY TCP4 192.0.2.1 192.0.2.2 1000 443\r\n"
	v2 := string(proxyV2(12))
	hello := string(records(helloWith(t, serverName("x.bet")), 9999))
	nameless := string(records(helloWith(t), 9999))
	head := lines("GET / HTTP/1.1", "Host: x.bet")
	not := Result{Status: NotThis}
	for _, tt := range []struct {
		name, in string
		want     Result
	}{
		{"a hello behind version 1", v1 + hello, ambiguous(TLS)},
		{"a hello behind version 2", v2 + hello, ambiguous(TLS)},
		{"a hello behind addresses of IPv6", "PROXY TCP6 2001:db8:1111:2222:3333:4444:5555:6666 2001:db8:1111:2222:3333:4444:5555:7777 65535 65535\r\n" + hello, ambiguous(TLS)},
		{"a hello behind no addresses", "PROXY UNKNOWN\r\n" + hello, ambiguous(TLS)},
		{"a hello behind a command without addresses", proxyV2Start + "\x20\x00\x00\x00" + hello, ambiguous(TLS)},
		{"a hello behind two headers", v1 + v2 + hello, ambiguous(TLS)},
		{"a hello in short records", v1 + string(records(helloWith(t, serverName("x.bet")), 3)), ambiguous(TLS)},
		{"a hello without a name", v2 + nameless, ambiguous(TLS)},
		{"a hello behind a long header", string(proxyV2(maxProxy-proxyV2Header)) + hello, ambiguous(TLS)},
		{"a header too long to read what follows", string(proxyV2(maxProxy)), ambiguous(TLS)},
		{"headers too long to read what follows", v1 + string(proxyV2(maxProxy-proxyV2Header)), ambiguous(TLS)},
		{"a hello without end", v1 + "\x16\x03\x01\x40\x00\x01\x00\x3f\xfc" + strings.Repeat("a", MaxBytes), ambiguous(TLS)},
		{"a request", v1 + head, ambiguous(HTTP)},
		{"a request behind version 2", v2 + head, ambiguous(HTTP)},
		{"a request without a name", v1 + lines("GET / HTTP/1.0"), ambiguous(HTTP)},
		{"a request without end", v2 + "GET / HTTP/1.1\r\nA: " + strings.Repeat("a", MaxHead), ambiguous(HTTP)},
		{"the preface of HTTP/2", v1 + preface, ambiguous(HTTP2)},

		{"another protocol", v1 + "EHLO mail.example\r\n", not},
		{"another protocol behind version 2", v2 + "SSH-2.0-OpenSSH_9.9\r\n", not},
		{"binary", v2 + "\x00\x01", not},
		{"an unknown version", proxyV2Start + "\x11\x11\x00\x0c", not},
		{"what only starts like version 2", "\r\n\r\n\x00\r\nQUIZ", not},
		{"what only starts like version 1", "PROXY TCP5 x\r\n" + head, not},
		{"a line too long for version 1", "PROXY UNKNOWN " + strings.Repeat("a", maxProxyLine) + "\r\n" + head, not},

		{"a header alone", v1, needMore(Unknown)},
		{"a header alone, of version 2", v2, needMore(Unknown)},
		{"half a header", v1[:20], needMore(Unknown)},
		{"half a header of version 2", v2[:14], needMore(Unknown)},
		{"a method of that name", lines("PROXY / HTTP/1.1", "Host: x.bet"), Result{Status: Found, Protocol: HTTP, Host: hostOf(t, "x.bet")}},
		{"a method of that name and no target", lines("PROXY UNKNOWN HTTP/1.1", "Host: x.bet"), ambiguous(HTTP)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			step := 1
			if len(tt.in) > 1<<12 {
				step = 61
			}
			if got := cuts(t, []byte(tt.in), step); got != tt.want {
				t.Errorf("got %+v, want %+v", got, tt.want)
			}
		})
	}
}
