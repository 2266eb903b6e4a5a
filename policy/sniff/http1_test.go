package sniff

import (
	"strings"
	"testing"
)

// lines joins header lines with CRLF and ends the head.
func lines(s ...string) string { return strings.Join(s, "\r\n") + "\r\n\r\n" }

func TestHTTPHead(t *testing.T) {
	found := func(host string) Result { return Result{Status: Found, Protocol: HTTP, Host: hostOf(t, host)} }
	both := func(host, other string) Result {
		res := found(host)
		res.Other = hostOf(t, other)
		return res
	}
	none := Result{Status: NoName, Protocol: HTTP}
	bad := ambiguous(HTTP)
	not := Result{Status: NotThis}
	for _, tt := range []struct {
		name, in string
		want     Result
	}{
		{"a plain request", lines("GET / HTTP/1.1", "Host: x.bet"), found("x.bet")},
		{"a browser's request", chromeHead, found("www.example.com")},
		{"HTTP/1.0 with a host", lines("GET / HTTP/1.0", "Host: x.bet"), found("x.bet")},
		{"the host is last", lines("GET / HTTP/1.1", "A: b", "C: d", "Host: x.bet"), found("x.bet")},
		{"upper case, port and dot", lines("GET / HTTP/1.1", "HOST:X.BET.:8080"), found("x.bet")},
		{"blanks around the host", lines("GET / HTTP/1.1", "host: \t x.bet \t"), found("x.bet")},
		{"an unknown method", lines("BREW /pot HTTP/1.1", "Host: x.bet"), found("x.bet")},
		{"asterisk form", lines("OPTIONS * HTTP/1.1", "Host: x.bet"), found("x.bet")},
		{"empty lines first", "\r\n\r\n\n" + lines("GET / HTTP/1.1", "Host: x.bet"), found("x.bet")},
		{"absolute form", lines("GET http://x.bet/ HTTP/1.1", "Host: x.bet"), found("x.bet")},
		{"absolute form without Host", lines("GET http://x.bet:8080?q HTTP/1.0"), found("x.bet")},
		{"absolute form of another scheme", lines("GET HTTPS://x.bet HTTP/1.1", "Host: x.bet"), found("x.bet")},
		{"absolute form and another Host", lines("GET http://x.bet/ HTTP/1.1", "Host: good.example"), both("x.bet", "good.example")},
		{"absolute form of an address and a Host", lines("GET http://192.0.2.1/ HTTP/1.1", "Host: x.bet"), found("x.bet")},
		{"absolute form and the Host an address", lines("GET http://x.bet/ HTTP/1.1", "Host: 192.0.2.1"), found("x.bet")},
		{"CONNECT", lines("CONNECT x.bet:443 HTTP/1.1", "Host: x.bet:443"), found("x.bet")},
		{"CONNECT and another Host", lines("CONNECT x.bet:443 HTTP/1.1", "Host: good.example"), both("x.bet", "good.example")},
		{"CONNECT of WinHTTP, with an empty body", lines("CONNECT x.bet:443 HTTP/1.0", "Host: x.bet", "Content-Length: 0", "Pragma: no-cache"), found("x.bet")},
		{"a URL in the query is no host", lines("GET /?u=http://x.bet/ HTTP/1.1", "Host: good.example"), found("good.example")},
		{"UTF-8 in path and host", lines("GET /é HTTP/1.1", "Host: é.example"), found("é.example")},
		{"an address", lines("GET / HTTP/1.1", "Host: 192.0.2.1:80"), none},
		{"no host", lines("GET / HTTP/1.1", "Accept: */*"), none},
		{"an empty host", lines("GET / HTTP/1.1", "Host:"), none},

		{"two hosts", lines("GET / HTTP/1.1", "Host: good.example", "Host: x.bet"), bad},
		{"the same host twice", lines("GET / HTTP/1.1", "Host: x.bet", "Host: x.bet"), bad},
		{"a list of hosts", lines("GET / HTTP/1.1", "Host: good.example, x.bet"), bad},
		{"a host that only ends like an address", lines("GET / HTTP/1.1", "Host: x.bet/.1"), bad},
		{"a name of hexadecimal digits and two ports", lines("GET / HTTP/1.1", "Host: 8888.cc:80:80"), bad},
		{"an authority that ends like an address", lines("CONNECT bad.betHTTP/1.0 HTTP/1.1"), bad},
		{"a NUL in the host", lines("GET / HTTP/1.1", "Host: x.bet\x00.good.example"), bad},
		{"a folded host", lines("GET / HTTP/1.1", "Host:", " x.bet"), bad},
		{"a folded line anywhere", lines("GET / HTTP/1.1", "A: b", "\tHost: x.bet", "Host: good.example"), bad},
		{"a blank before the colon", lines("GET / HTTP/1.1", "Host : x.bet"), bad},
		{"a blank before the name", lines("GET / HTTP/1.1", " Host: x.bet"), bad},
		{"no colon", lines("GET / HTTP/1.1", "Host"), bad},
		{"no name", lines("GET / HTTP/1.1", ": x"), bad},
		{"a bare line feed ends a line", "GET / HTTP/1.1\r\nA: b\nHost: x.bet\r\n\r\n", bad},
		{"bare line feeds only", "GET / HTTP/1.1\nHost: x.bet\n\n", bad},
		{"a bare carriage return", lines("GET / HTTP/1.1", "A: b\rHost: x.bet", "Host: good.example"), bad},
		{"an extra carriage return", "GET / HTTP/1.1\r\nHost: x.bet\r\r\n\r\n", bad},
		{"user information", lines("GET http://good.example@x.bet/ HTTP/1.1", "Host: good.example"), bad},
		{"a backslash ends the authority", lines(`GET http://x.bet\@good.example/ HTTP/1.1`, "Host: x.bet"), found("x.bet")},
		{"an absolute form without authority", lines("GET http:/// HTTP/1.1", "Host: x.bet"), bad},
		{"a target in no known form", lines("GET x.bet HTTP/1.1", "Host: x.bet"), bad},
		{"a path before the scheme", lines("GET x.bet/http://good.example HTTP/1.1", "Host: x.bet"), bad},
		{"two blanks", lines("GET  / HTTP/1.1", "Host: x.bet"), bad},
		{"a tab", lines("GET\t/ HTTP/1.1", "Host: x.bet"), bad},
		{"a blank in the target", lines("GET /a b HTTP/1.1", "Host: x.bet"), bad},
		{"a NUL in the target", lines("GET /\x00 HTTP/1.1", "Host: x.bet"), bad},
		{"a lower case version", lines("GET / http/1.1", "Host: x.bet"), bad},
		{"another version", lines("GET / HTTP/1.2", "Host: x.bet"), bad},
		{"a blank behind the version", lines("GET / HTTP/1.1 ", "Host: x.bet"), bad},
		{"HTTP/0.9", "GET /\r\n", bad},
		{"HTTP/0.9 to a proxy", "GET http://x.bet/\r\n", bad},
		{"no version", lines("POST /", "Host: x.bet"), bad},
		{"a version of RTSP", lines("GET / RTSP/1.0", "Host: x.bet"), bad},
		{"a version of ICE", lines("SOURCE / ICE/1.0", "Host: x.bet"), bad},
		{"16 KiB of empty lines", strings.Repeat("\r\n", 8<<10) + lines("GET / HTTP/1.1", "Host: x.bet"), bad},
		{"2 KiB of empty lines", strings.Repeat("\r\n", 1<<10) + lines("GET / HTTP/1.1", "Host: x.bet"), found("x.bet")},
		{"a blank before the method", " " + lines("GET / HTTP/1.1", "Host: x.bet"), bad},
		{"an empty line and a tab before the method", "\r\n\t" + lines("GET / HTTP/1.1", "Host: x.bet"), bad},
		{"a blank of Latin-1 behind the version", lines("GET\xa0/ HTTP/1.1\x85", "Host: x.bet"), bad},
		{"blanks of Latin-1 everywhere", "\r\n\x85" + lines("GET\xa0\x1c/\x1fHTTP/1.0", "Host: x.bet"), bad},
		{"a blank of Latin-1 and HTTP/0.9", lines("GET\xa0/", "Host: x.bet"), bad},
		{"an unknown method behind a blank of Latin-1", "\xa0" + lines("BREW /pot HTTP/1.1", "Host: x.bet"), bad},
		{"a blank of Latin-1 and a control character", lines("GET\xa0\x01/ HTTP/1.1", "Host: x.bet"), bad},
		{"a carriage return and a third word", lines("GET\r/ a HTTP/1.1", "Host: x.bet"), bad},
		{"length and chunked", lines("POST / HTTP/1.1", "Host: x.bet", "Content-Length: 5", "Transfer-Encoding: chunked"), bad},
		{"two lengths", lines("POST / HTTP/1.1", "Host: x.bet", "Content-Length: 5", "Content-Length: 5"), bad},
		{"a list of lengths", lines("POST / HTTP/1.1", "Host: x.bet", "Content-Length: 5, 5"), bad},
		{"a signed length", lines("POST / HTTP/1.1", "Host: x.bet", "Content-Length: +5"), bad},
		{"an empty length", lines("POST / HTTP/1.1", "Host: x.bet", "Content-Length:"), bad},
		{"a length too large", lines("POST / HTTP/1.1", "Host: x.bet", "Content-Length: 9223372036854775808"), bad},
		{"two encodings", lines("POST / HTTP/1.1", "Host: x.bet", "Transfer-Encoding: chunked, identity"), bad},
		{"an unknown encoding", lines("POST / HTTP/1.1", "Host: x.bet", "Transfer-Encoding: xchunked"), bad},
		{"chunked in HTTP/1.0", lines("POST / HTTP/1.0", "Host: x.bet", "Transfer-Encoding: chunked"), bad},
		{"CONNECT with a body", lines("CONNECT x.bet:443 HTTP/1.1", "Content-Length: 5"), bad},
		{"CONNECT with chunks", lines("CONNECT x.bet:443 HTTP/1.1", "Transfer-Encoding: chunked"), bad},
		{"CONNECT with two lengths", lines("CONNECT x.bet:443 HTTP/1.1", "Content-Length: 0", "Content-Length: 0"), bad},
		{"CONNECT to nowhere", lines("CONNECT :443 HTTP/1.1", "Host: x.bet"), bad},
		{"a head without end", "GET / HTTP/1.1\r\nHost: x.bet\r\nA: " + strings.Repeat("a", MaxHead), bad},
		{"a line without end", "GET /" + strings.Repeat("a", MaxHead), bad},
		{"words without a line end", strings.Repeat("and from me", MaxHead/8), not},
		{"an absolute target without end", "GET http://x.bet/" + strings.Repeat("a", MaxHead), bad},
		{"an authority without end", "CONNECT x.bet" + strings.Repeat("a", MaxHead), bad},
		{"18 KiB of cookies after the host", lines("GET / HTTP/1.1", "Host: x.bet", "Cookie: "+strings.Repeat("a", 18<<10)), found("x.bet")},
		{"64 KiB of cookies before the host", lines("GET / HTTP/1.1", "Cookie: "+strings.Repeat("a", 64<<10), "Host: x.bet"), found("x.bet")},
		{"64 KiB of short fields", lines("GET / HTTP/1.1", strings.Repeat("a: b\r\n", 11<<10)+"Host: x.bet"), found("x.bet")},
		{"a long target", lines("GET /"+strings.Repeat("a", 64<<10)+" HTTP/1.1", "Host: x.bet"), found("x.bet")},
		{"a second host after 64 KiB", lines("GET / HTTP/1.1", "Host: a.example", "Cookie: "+strings.Repeat("a", 64<<10), "Host: x.bet"), bad},

		{"a word without end", strings.Repeat("a", MaxBytes), not},
		{"a player", lines("DESCRIBE rtsp://x.bet/film RTSP/1.0", "CSeq: 1"), not},
		{"a player that asks for all", lines("OPTIONS * RTSP/1.0", "CSeq: 1"), not},
		{"a path of another protocol", "stat /var/service/x\r\n", not},
		{"SSH", "SSH-2.0-OpenSSH_9.9\r\n", not},
		{"SMTP", "EHLO mail.example\r\n", not},
		{"IRC", "NICK me\r\nUSER me 0 * :me\r\n", not},
		{"memcached", "get foo bar\r\n", not},
		{"Redis, typed", "GET user:1\r\n", not},
		{"a text that begins with a blank", " GET well soon\r\n", not},
		{"binary", "\x00\x01\x02", not},
		{"binary that begins like a blank", "\x0c\x00\x01", not},
		{"gzip", "\x1f\x8b\x08", not},
		{"LDAP", "0\x1c\x02\x01\x01\x60", not},
		{"telnet", "ls\r\x00", not},
		{"a word and a line end", "QUIT\r\n", not},
		{"a frame around a request", "7\x1cdata " + lines("GET / HTTP/1.1", "Host: x.bet"), not},
		{"a frame around a request, with a blank of Latin-1 first", "\x1f7 data " + lines("GET / HTTP/1.1", "Host: x.bet"), not},
		{"words in Latin-1", "bon\xa0jour / monde\r\n", not},
		{"a binary word", "AB\x00\x01", not},
		{"DNS over TCP", "\x00\x1d\x12\x34\x01\x00", not},
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

// chromeHead has the size and shape of a browser's request.
var chromeHead = lines(
	"GET /search?q=a+word&source=hp HTTP/1.1",
	"Host: www.example.com",
	"Connection: keep-alive",
	`sec-ch-ua: "Chromium";v="142", "Not_A Brand";v="99"`,
	"sec-ch-ua-mobile: ?0",
	`sec-ch-ua-platform: "Linux"`,
	"Upgrade-Insecure-Requests: 1",
	"User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Safari/537.36",
	"Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8",
	"Accept-Encoding: gzip, deflate",
	"Accept-Language: en-GB,en;q=0.9",
	"Cookie: session=0123456789abcdef0123456789abcdef; theme=dark",
)

// Python's http.server splits a request line as str.split does, at all that Unicode takes for a blank.
func TestBlanksOfPythonAreAmbiguous(t *testing.T) {
	for _, blank := range []string{"\x1c", "\x1d", "\x1e", "\x1f", "\x85", "\xa0", "\r"} {
		in := []string{lines("GET"+blank+"/ HTTP/1.1", "Host: x.bet")}
		if blank != "\r" { // servers skip it as a line end
			in = append(in, blank+lines("GET / HTTP/1.1", "Host: x.bet"))
		}
		for _, in := range in {
			if got := cuts(t, []byte(in), 1); got != ambiguous(HTTP) {
				t.Errorf("%q: got %+v, want an ambiguous result", in, got)
			}
		}
	}
}
