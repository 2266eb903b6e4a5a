package sniff

import (
	"bytes"
	"strconv"
)

// head is the head of an HTTP/1 request (RFC 9112). It is parsed strictly: anything that servers and proxies are known to
// read in different ways is ambiguous.
type head struct {
	res  Result
	size int // bytes, including empty lines before and after; 0 until the head is complete

	http10  bool
	connect bool // the method is CONNECT
	get     bool // the method is GET or HEAD, which have no body
	upgrade bool // it has an Upgrade field
	streams bool // a body without a length may follow: Icecast's SOURCE and PUT, and what a client of NTRIP says of its place
	hosts   hostPair
	fields  uint8 // fields seen, of those that may occur once
	length  int64 // Content-Length in bytes
}

// Fields that may occur only once.
const (
	sawHost uint8 = 1 << iota
	sawLength
	sawChunked
)

// read parses the head at the start of b into h, which must be zero, and stores the result in h.res.
func (h *head) read(b []byte) {
	h.res = within(b, h.parse(b[:min(len(b), MaxHead)]))
}

// maxEmpty is how many bytes of empty lines may come before a request. Servers skip more, but nobody has a reason to send them.
const maxEmpty = 4096

func (h *head) parse(b []byte) Result {
	at, indented, odd := 0, false, false
	for at < len(b) && (b[at] == '\n' || isBlank(b[at])) {
		indented = indented || b[at] != '\r' && b[at] != '\n' // some servers skip blanks too: Python's http.server
		odd = odd || isOddBlank(b[at])
		at++ // servers skip empty lines before a request (RFC 9112 2.2)
	}
	if at > maxEmpty {
		return ambiguous(HTTP)
	}
	method := tokenLen(b[at:])
	if at+method == len(b) {
		return needMore(Unknown)
	}
	if method == 0 || !isBlank(b[at+method]) {
		return Result{Status: NotThis}
	}
	odd = odd || isOddBlank(b[at+method])
	if (odd || b[at+method] == '\r') && !isMethod(b[at:at+method]) && startsBinary(skipBlanks(b[at+method:])) {
		return Result{Status: NotThis}
	}
	line, ok := cutLine(b[at:])
	if !ok && !hasTarget(b[at:], method) {
		return needMore(Unknown)
	}
	if !ok {
		return needMore(HTTP)
	}
	if !namesVersion(line) || odd && !isThreeWords(line) {
		target := skipBlanks(line[method:])
		isPath := len(target) > 0 && target[0] == '/'
		switch {
		case isPath && (namesOther(target) || isMethod(line[:method])), // Node reads the Host field behind both
			bytes.EqualFold(line[:method], []byte("GET")) && isTarget(target): // HTTP/0.9; "get key" is for memcached or Redis
			return ambiguous(HTTP)
		}
		return Result{Status: NotThis}
	}
	if indented || !h.requestLine(line, method) {
		return ambiguous(HTTP)
	}
	if len(b) > MaxBytes && !bytes.Contains(b[at:], []byte("\n\r\n")) {
		return needMore(HTTP) // reading every line again with each segment would cost seconds
	}
	for {
		at += len(line)
		if line, ok = cutLine(b[at:]); !ok {
			return needMore(HTTP)
		}
		if len(line) == 2 && line[0] == '\r' {
			h.size = at + len(line)
			return h.verdict()
		}
		if !h.fieldLine(line) {
			return ambiguous(HTTP)
		}
	}
}

// hasTarget reports whether what follows the first word may be a request target, or is too short to say. In the text of other
// protocols it is another word.
func hasTarget(line []byte, method int) bool {
	target := skipBlanks(line[method:])
	return len(target) < scheme || isTarget(target) || bytes.EqualFold(line[:method], []byte("CONNECT"))
}

// scheme is the number of bytes within which the "://" of an absolute target comes.
const scheme = 64

// isTarget reports whether the text after a method starts like a path, an asterisk or a URL.
func isTarget(text []byte) bool {
	return len(text) > 0 && (text[0] == '/' || text[0] == '*') || bytes.Contains(text[:min(len(text), scheme)], []byte("://"))
}

// requestLine parses "METHOD target HTTP/1.x\r\n" with single spaces. method is the length of METHOD in bytes.
func (h *head) requestLine(line []byte, method int) bool {
	const version = len(" HTTP/1.1\r\n")
	if len(line) < method+1+1+version || line[method] != ' ' {
		return false
	}
	target := line[method+1 : len(line)-version]
	switch string(line[len(line)-version:]) {
	case " HTTP/1.1\r\n":
	case " HTTP/1.0\r\n":
		h.http10 = true
	default:
		return false
	}
	for _, c := range target {
		if c <= ' ' || c == 0x7f {
			return false
		}
	}
	switch string(line[:method]) {
	case "CONNECT":
		h.connect = true
	case "GET", "HEAD":
		h.get = true
	case "SOURCE", "PUT", "POST":
		h.streams = true
	}
	authority, ok := targetAuthority(target, h.connect)
	if !ok {
		return false
	}
	h.hosts.targetKind = h.hosts.target.set(authority)
	return true
}

// targetAuthority returns the authority in a request target (RFC 9112 3.2). "/path" and "*" have none.
func targetAuthority(target []byte, connect bool) (authority []byte, ok bool) {
	if connect {
		return target, true
	}
	if target[0] == '/' || string(target) == "*" {
		return nil, true
	}
	scheme, rest, ok := bytes.Cut(target, []byte("://"))
	if !ok || bytes.ContainsAny(scheme, `/?#\`) {
		return nil, false
	}
	if end := bytes.IndexAny(rest, `/?#\`); end >= 0 {
		rest = rest[:end]
	}
	return rest, len(rest) > 0
}

// fieldLine parses "name: value\r\n". It refuses an empty name, a folded line and a blank after the name.
func (h *head) fieldLine(line []byte) bool {
	name := tokenLen(line)
	if name == 0 || line[name] != ':' || len(line) < name+3 || line[len(line)-2] != '\r' {
		return false
	}
	value := line[name+1 : len(line)-2]
	for _, c := range value {
		if c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	switch name {
	case len("Host"):
		if bytes.EqualFold(line[:name], []byte("Host")) {
			h.hosts.fieldKind = h.hosts.field.set(trimBlank(value))
			return h.once(sawHost)
		}
	case len("Upgrade"):
		if bytes.EqualFold(line[:name], []byte("Upgrade")) {
			h.upgrade = true
		}
	case len("User-Agent"):
		const ntrip = "NTRIP"
		if v := trimBlank(value); bytes.EqualFold(line[:name], []byte("User-Agent")) && len(v) > len(ntrip) && bytes.EqualFold(v[:len(ntrip)], []byte(ntrip)) {
			h.streams = true
		}
	case len("Content-Length"):
		if bytes.EqualFold(line[:name], []byte("Content-Length")) {
			return h.once(sawLength) && h.contentLength(trimBlank(value))
		}
	case len("Transfer-Encoding"):
		if bytes.EqualFold(line[:name], []byte("Transfer-Encoding")) {
			return h.once(sawChunked) && bytes.EqualFold(trimBlank(value), []byte("chunked"))
		}
	}
	return true
}

func (h *head) once(field uint8) bool {
	first := h.fields&field == 0
	h.fields |= field
	return first
}

func (h *head) contentLength(b []byte) bool {
	if !allDigits(b) {
		return false
	}
	n, err := strconv.ParseInt(string(b), 10, 64)
	h.length = n
	return err == nil
}

// verdict returns the result for a complete head. It refuses contradictory fields.
func (h *head) verdict() Result {
	length, chunked := h.fields&sawLength != 0, h.fields&sawChunked != 0
	switch {
	case length && chunked, // request smuggling (RFC 9112 11.2)
		chunked && h.http10,
		h.connect && (h.length > 0 || chunked): // WinHTTP sends a length of 0
		return ambiguous(HTTP)
	}
	return h.hosts.result(HTTP)
}

// cutLine returns the first line, including its line feed.
func cutLine(b []byte) (line []byte, ok bool) {
	end := bytes.IndexByte(b, '\n')
	if end < 0 {
		return nil, false
	}
	return b[:end+1], true
}

// namesVersion reports whether the line contains an HTTP version, so that it is meant as a request line, even a malformed
// one.
func namesVersion(line []byte) bool {
	for len(line) > 0 {
		i := bytes.IndexByte(line, '/')
		if i < 0 {
			return false
		}
		if i >= 4 && bytes.EqualFold(line[i-4:i], []byte("HTTP")) {
			return true
		}
		line = line[i+1:]
	}
	return false
}

// namesOther reports whether the line contains a version of RTSP or ICE. Requests of RTSP itself have a URL or an asterisk for a target,
// and no path.
func namesOther(line []byte) bool {
	return bytes.Contains(line, []byte(" RTSP/")) || bytes.Contains(line, []byte(" ICE/"))
}

// isMethod reports whether a word is a method of HTTP, of RFC 9110, WebDAV and others.
func isMethod(word []byte) bool {
	switch string(word) {
	case "GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "QUERY", "SEARCH", "REPORT", "PURGE", "SOURCE",
		"PROPFIND", "PROPPATCH", "MKCOL", "COPY", "MOVE", "LOCK", "UNLOCK", "BIND", "REBIND", "UNBIND", "ACL", "LINK", "UNLINK",
		"MKACTIVITY", "MKCALENDAR", "CHECKOUT", "MERGE", "NOTIFY", "SUBSCRIBE", "UNSUBSCRIBE", "M-SEARCH":
		return true
	}
	return false
}

// isThreeWords reports whether a line has a method, a target and a version, and nothing else, in whatever blanks. No server reads more than
// three words where there are odd blanks; in binary there are.
func isThreeWords(line []byte) bool {
	var word []byte
	words := 0
	for rest := skipBlanks(line); len(rest) > 0 && rest[0] != '\n'; rest = skipBlanks(rest[len(word):]) {
		word = rest[:wordLen(rest)]
		words++
	}
	const version = "HTTP/"
	return words == 3 && len(word) >= len(version) && bytes.EqualFold(word[:len(version)], []byte(version))
}

// wordLen counts the bytes before the first blank or line feed.
func wordLen(b []byte) int {
	for i, c := range b {
		if isBlank(c) || c == '\n' {
			return i
		}
	}
	return len(b)
}

// startsBinary reports whether text starts with a byte that no target has. Python's urlsplit passes over some.
func startsBinary(text []byte) bool {
	return len(text) > 0 && (text[0] < ' ' && text[0] != '\n' || text[0] == 0x7f)
}

// isBlank reports whether a server takes c for a blank in a request line. Those of RFC 9112 3 are SP, HT, VT, FF and CR.
func isBlank(c byte) bool {
	return c == ' ' || c == '\t' || c == '\v' || c == '\f' || c == '\r' || isOddBlank(c)
}

// isOddBlank reports whether c is a blank of Unicode as Latin-1. Python's http.server splits a request line at them (3.11, str.split).
func isOddBlank(c byte) bool { return 0x1c <= c && c <= 0x1f || c == 0x85 || c == 0xa0 }

func skipBlanks(b []byte) []byte {
	for len(b) > 0 && isBlank(b[0]) {
		b = b[1:]
	}
	return b
}

func trimBlank(b []byte) []byte { return bytes.Trim(b, " \t") }

// tokenLen counts the token characters (RFC 9110 5.6.2) at the start of b.
func tokenLen(b []byte) int {
	for i, c := range b {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-':
		case c > ' ' && c < 0x7f && bytes.IndexByte([]byte("!#$%&'*+.^_`|~"), c) >= 0:
		default:
			return i
		}
	}
	return len(b)
}
