package sniff

// The headers of the PROXY protocol (haproxy.org, proxy-protocol.txt of 2020), by which a load balancer tells a server whom it speaks for.
const (
	proxyV2Start  = "\r\n\r\n\x00\r\nQUIT\n"
	proxyV2Header = len(proxyV2Start) + 4 // bytes: start, version and command, family, length
	maxProxyLine  = 512                   // bytes of a header of version 1; at most 107 are legal
)

// maxProxy is how many bytes of headers may come before a hello or a request. nginx takes a header of 4096 bytes, and others take longer ones.
const maxProxy = 4096

// proxySize returns the size of the header of the PROXY protocol at the start of b, in bytes, or 0 if there is none. whole is false if b
// may become one whose size is not known yet.
func proxySize(b []byte) (size int, whole bool) {
	if isStart(b, proxyV2Start) {
		switch {
		case len(b) > len(proxyV2Start) && b[len(proxyV2Start)]>>4 != 2: // the version
			return 0, true
		case len(b) < proxyV2Header:
			return 0, false
		}
		return proxyV2Header + int(b[proxyV2Header-2])<<8 + int(b[proxyV2Header-1]), true
	}
	for _, start := range [...]string{"PROXY TCP4 ", "PROXY TCP6 ", "PROXY UNKNOWN"} {
		if !isStart(b, start) {
			continue
		}
		line, ok := cutLine(b[:min(len(b), maxProxyLine)])
		switch {
		case ok && namesVersion(line):
			return 0, true // a request
		case ok:
			return len(line), true
		}
		return 0, len(b) >= maxProxyLine
	}
	return 0, true
}

// isStart reports whether b is, or could become, a stream that starts with text.
func isStart(b []byte, text string) bool {
	n := min(len(b), len(text))
	return string(b[:n]) == text[:n]
}

// readProxied reads a stream that starts with a header of the PROXY protocol, of size bytes. No client sends one, but servers that are
// set up for it take one from anybody, so a hello or a request that follows is ambiguous. limit is as for readTCP.
func readProxied(b []byte, size, limit int) Result {
	if size > limit-(MaxBytes-maxProxy) {
		return ambiguous(TLS) // what follows is not read
	}
	if len(b) <= size {
		return needMore(Unknown)
	}
	res := readTCP(b[size:], limit-size)
	if res.Status == Found || res.Status == NoName || res.Protocol == HTTP2 { // after the preface, a client may wait for the server
		return ambiguous(res.Protocol)
	}
	return res
}
