package sniff

import (
	"bytes"
	"slices"
)

// Requests reads what a client sends on one unencrypted HTTP/1 or HTTP/2 connection and reports the host of every request.
// The zero value is ready for the first byte of a connection.
type Requests struct {
	at     requestPart
	judged bool  // a request has been reported, so another request must follow
	length int64 // bytes of body still to skip, by Content-Length
	body   chunks
	two    *requests2

	followed bool   // a head has ended
	begun    []byte // of a line that may become a request's, and has been released for all that
	odd      oddLine
	fields   *head  // behind an odd line
	line     []byte // released of the next of them
}

// requestPart is the part of the stream that the next byte belongs to.
type requestPart uint8

const (
	partHead requestPart = iota
	partOddLine
	partOddHead
	partFields
	partUnread // a body that servers may leave unread
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
// At the start, and after Upgrade or CONNECT, Feed expects another protocol, unless the bytes parse as a request: the server may
// have refused to switch, and Feed does not see its answer. So a protocol whose first line ends with an HTTP version is judged as
// HTTP, and a Host field behind any first line too.
func (r *Requests) Feed(b []byte) (n int, res Result) {
	if len(b) == 0 {
		return 0, needMore(HTTP)
	}
	switch r.at {
	case partOddLine:
		return r.passOddLine(b)
	case partOddHead:
		return r.readOddHead(b)
	case partFields:
		return r.passFields(b)
	case partUnread:
		return r.passUnread(b)
	case partLength:
		n := int(min(r.length, int64(len(b))))
		r.Skip(int64(n))
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
		return r.opaque(b)
	case partBroken:
		return r.broken()
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

// Prompt reports whether it takes no time to feed b: no name is in it.
func (r *Requests) Prompt(b []byte) bool {
	return r.at == partOddLine && bytes.IndexByte(b, '\n') < 0
}

func (r *Requests) passChunks(b []byte) (int, Result) {
	n := r.body.pass(b)
	switch r.body.at {
	case chunksBroken:
		return r.broken()
	case chunksOver:
		r.at = partHead
		r.body = chunks{}
	}
	return n, needMore(HTTP)
}

// readHead reads the head of a request. Where none has to come, the first line is not held until it is complete: in another protocol, its
// sender may wait for an answer.
func (r *Requests) readHead(b []byte) (int, Result) {
	all := b
	if len(r.begun) > 0 {
		all = slices.Concat(r.begun, b)
	}
	incomplete := !r.judged && !hasLine(all[:min(len(all), MaxHead)])
	if !r.judged && startsPreface(all) {
		switch {
		case incomplete:
			r.begun = bytes.Clone(all)
			return len(b), needMore(Unknown)
		case len(all) < len(preface):
			return 0, needMore(Unknown)
		}
		n := len(preface) - len(r.begun)
		r.at, r.two, r.begun = partHTTP2, newRequests2(), nil
		return n, needMore(HTTP2)
	}
	var h head
	h.read(all)
	switch {
	case incomplete && h.res.Status == NeedMore && len(all) < MaxBytes:
		r.begun = bytes.Clone(all)
		return len(b), needMore(Unknown)
	case incomplete, h.res.Status == NotThis && !r.judged:
		return r.beginOdd(b, h.res.Protocol == HTTP)
	case h.res.Status == NeedMore:
		return 0, h.res
	case h.res.Status == NotThis, h.res.Ambiguous:
		return r.broken()
	}
	n := h.size - len(r.begun)
	r.begun = nil
	r.follow(&h)
	r.judged = !h.connect && !h.upgrade && !(h.streams && h.fields&(sawLength|sawChunked) == 0)
	if h.get && r.at == partLength {
		r.at, r.odd = partUnread, oddLine{}
	}
	return n, h.res
}

// hasLine reports whether there is a line that is not empty, and has an end.
func hasLine(b []byte) bool {
	for len(b) > 0 && (b[0] == '\n' || isBlank(b[0])) {
		b = b[1:]
	}
	return bytes.IndexByte(b, '\n') >= 0
}

// follow goes on with the body of a request, or behind it.
func (r *Requests) follow(h *head) {
	r.judged, r.followed = false, true
	switch {
	case h.fields&sawChunked != 0:
		r.at = partChunks
	case h.length > 0:
		r.at, r.length = partLength, h.length
	default:
		r.at = partHead
	}
}

// passUnread passes the first line of the body of a GET. Python's http.server reads a request there, unless its handler reads the body.
func (r *Requests) passUnread(b []byte) (int, Result) {
	n := int(min(r.length, int64(len(b))))
	line, _, ended := bytes.Cut(b[:n], []byte("\n"))
	r.odd.add(line)
	if ended {
		if r.odd.namesVersion() {
			return r.broken()
		}
		r.at = partLength
	}
	r.Skip(int64(n))
	return n, needMore(HTTP)
}

func (r *Requests) broken() (int, Result) {
	*r = Requests{at: partBroken}
	return 0, ambiguous(HTTP)
}

func (r *Requests) opaque(b []byte) (int, Result) {
	*r = Requests{at: partOpaque}
	return len(b), Result{Status: NotThis}
}
