package sniff

// Requests watches what a client sends on one HTTP connection, HTTP/1 or HTTP/2 in clear, and reports the host of every
// request. The zero value is ready for the first byte of a connection.
type Requests struct {
	at     requestPart
	judged bool  // a request has been reported: what follows has to be another
	length int64 // bytes of body to pass, by Content-Length
	body   chunks
	two    *requests2
}

// requestPart is what the next byte belongs to.
type requestPart uint8

const (
	partHead requestPart = iota
	partLength
	partChunks
	partHTTP2
	partOpaque
	partBroken
)

// Feed reads b, the bytes that follow those already released, and returns how many of them are released, at most one
// request at a time:
//
//   - NeedMore: forward b[:n]. With n == 0 keep b and feed it again with more bytes behind it.
//   - Found, NoName: b[:n] is the end of a request's head. Forward it only if that request is allowed; what is in b[n:]
//     has not been read.
//   - NoName and Ambiguous: n is 0; nothing more may be forwarded, close the connection.
//   - NotThis: n is len(b); the connection has become another protocol and stays so.
//
// Call it again with b[n:] while n > 0 and bytes remain. It asks for no more than MaxBytes at once, keeps no reference
// to b and copies no body.
//
// What follows Upgrade or CONNECT is another protocol unless it reads as a request: a server may have refused to switch,
// and the scanner does not see its answer. A protocol switched to whose first line names HTTP is therefore judged as
// HTTP, and one that starts with a word and a blank is held until its first line is whole.
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
