package sniff

// TCP reads the name from a TCP stream. b holds all bytes that the client has sent so far; TCP reads the first MaxBytes, or
// MaxHead in HTTP. A Status other than NeedMore is final. In HTTP it reads only the first request; use Requests for those
// that follow.
func TCP(b []byte) Result {
	return within(b, readTCP(b[:min(len(b), MaxHead)], MaxBytes))
}

// within returns res, the result for b, or a final result if b has all the bytes that are read.
func within(b []byte, res Result) Result {
	limit := MaxBytes
	if res.Protocol == HTTP || res.Protocol == HTTP2 {
		limit = MaxHead
	}
	if res.Status != NeedMore || len(b) < limit {
		return res
	}
	if res.Protocol == Unknown {
		return Result{Status: NotThis}
	}
	return ambiguous(res.Protocol) // a name may follow after the bytes that are read
}

// readTCP reads at most limit bytes, or all in HTTP.
func readTCP(b []byte, limit int) Result {
	if len(b) == 0 {
		return needMore(Unknown)
	}
	switch b[0] {
	case recordHandshake:
		return readTLS(b[:min(len(b), limit)])
	case recordAlert, recordChange:
		return readBefore(b[:min(len(b), limit)])
	}
	switch size, whole := proxySize(b); {
	case !whole:
		return needMore(Unknown)
	case size > 0:
		return readProxied(b, size, limit)
	}
	if startsPreface(b) {
		return readHTTP2(b)
	}
	var h head
	h.read(b)
	return h.res
}
