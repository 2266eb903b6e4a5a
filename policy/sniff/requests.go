package sniff

// Requests watches what a client sends on one HTTP connection and reports the host of every request. The zero value is
// ready for the first byte of a connection.
type Requests struct{}

// Feed reads b, the bytes that follow those already released, and returns how many of them are released, at most one
// request at a time:
//
//   - NeedMore: forward b[:n]. With n == 0 keep b and feed it again with more bytes behind it.
//   - Found, NoName: b[:n] is the end of a request's head. Forward it only if that host is allowed; none is in b[n:].
//   - NoName and Ambiguous: n is 0; nothing more may be forwarded, close the connection.
//   - NotThis: n is len(b); the connection has become another protocol, as it will be for every later call.
//
// Call it again with b[n:] while n > 0 and bytes remain. It keeps no reference to b and copies no body.
func (r *Requests) Feed(b []byte) (n int, res Result) {
	return 0, Result{}
}
