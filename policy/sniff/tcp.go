package sniff

// TCP reads the name from a TCP stream. b holds all bytes that the client has sent so far; TCP reads the first MaxBytes. A
// Status other than NeedMore is final. In HTTP it reads only the first request; use Requests for those that follow.
func TCP(b []byte) Result {
	return within(b, readTCP(b[:min(len(b), MaxBytes)]))
}

// within returns res, the result for the first MaxBytes of b, or a final result if those bytes are not enough.
func within(b []byte, res Result) Result {
	if res.Status != NeedMore || len(b) < MaxBytes {
		return res
	}
	if res.Protocol == Unknown {
		return Result{Status: NotThis}
	}
	return ambiguous(res.Protocol) // a name may follow after the bytes that are read
}

func readTCP(b []byte) Result {
	if len(b) == 0 {
		return needMore(Unknown)
	}
	if b[0] == recordHandshake {
		return readTLS(b)
	}
	if startsPreface(b) {
		return readHTTP2(b)
	}
	var h head
	h.read(b)
	return h.res
}
