package sniff

// Requests reads what a client sends on one unencrypted HTTP/1 or HTTP/2 connection and reports the host of every request.
// The zero value is ready for the first byte of a connection.
type Requests struct {
	at     requestPart
	judged bool  // a request has been reported, so another request must follow
	length int64 // bytes of body still to skip, by Content-Length
	body   chunks
	two    *requests2
}

// requestPart is the part of the stream that the next byte belongs to.
type requestPart uint8

const (
	partHead requestPart = iota
	partLength
	partChunks
	partHTTP2
	partOpaque
	partBroken
)

// Feed reads b, which are the bytes after those already released. It returns how many of them it releases: at most up to
// the end of one request's head.
//
//   - NeedMore: forward b[:n]. If n is 0, keep b and call Feed again when more bytes follow it.
//   - Found, NoName: b[:n] ends a request's head. Forward it only if that request is allowed. Feed has not read b[n:].
//   - NoName and Ambiguous: n is 0. Forward nothing more and close the connection.
//   - NotThis: n is len(b). The connection has switched to another protocol for good.
//
// Call Feed again with b[n:] while n > 0 and bytes remain. It never needs more than MaxHead at once, keeps no reference to
// b, and copies no body.
//
// After Upgrade or CONNECT, Feed expects another protocol, unless the bytes parse as a request: the server may have refused
// to switch, and Feed does not see its answer. So a protocol whose first line contains an HTTP version is judged as HTTP,
// and one that starts with a word and a blank is held until its first line is complete.
func (r *Requests) Feed(b []byte) (n int, res Result) {
	if len(b) == 0 {
		return 0, needMore(HTTP)
	}
	switch r.at {
	case partLength:
		n := int(min(r.length, int64(len(b))))
		r.length -= int64(n)
		if r.length == 0 {
			r.at = partHead
		}
		return n, needMore(HTTP)
	case partChunks:
		return r.passChunks(b)
	case partHTTP2:
		n, res := r.two.feed(b)
		if res.Ambiguous {
			r.at = partBroken
		}
		return n, res
	case partOpaque:
		return len(b), Result{Status: NotThis}
	case partBroken:
		return 0, ambiguous(HTTP)
	}
	return r.readHead(b)
}

// Ahead returns how many bytes of a body follow what has been fed, as far as the request's head says.
func (r *Requests) Ahead() int64 {
	if r.at != partLength {
		return 0
	}
	return r.length
}

// Skip passes over n bytes that are not fed, at most Ahead.
func (r *Requests) Skip(n int64) {
	if r.length -= n; r.length == 0 {
		r.at = partHead
	}
}

func (r *Requests) passChunks(b []byte) (int, Result) {
	n := r.body.pass(b)
	switch r.body.at {
	case chunksBroken:
		r.at = partBroken
		return 0, ambiguous(HTTP)
	case chunksOver:
		r.at = partHead
		r.body = chunks{}
	}
	return n, needMore(HTTP)
}

func (r *Requests) readHead(b []byte) (int, Result) {
	if !r.judged && startsPreface(b) {
		if len(b) < len(preface) {
			return 0, needMore(Unknown)
		}
		r.at, r.two = partHTTP2, newRequests2()
		return len(preface), needMore(HTTP2)
	}
	var h head
	h.read(b)
	switch {
	case h.res.Status == NeedMore:
		return 0, h.res
	case h.res.Status == NotThis && !r.judged:
		r.at = partOpaque
		return len(b), h.res
	case h.res.Status == NotThis, h.res.Ambiguous:
		r.at = partBroken
		return 0, ambiguous(HTTP)
	}
	r.judged = !h.connect && !h.upgrade
	switch {
	case h.fields&sawChunked != 0:
		r.at = partChunks
	case h.length > 0:
		r.at, r.length = partLength, h.length
	}
	return h.size, h.res
}
