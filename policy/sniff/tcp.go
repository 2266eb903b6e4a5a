package sniff

// TCP reads the name from all bytes of a TCP stream that the client has sent so far, of which it looks at the first
// MaxBytes. A Status other than NeedMore is final: more bytes don't change it. Of HTTP it reads the first request;
// the ones behind it are for Requests.
func TCP(b []byte) Result {
	return within(b, readTCP(b[:min(len(b), MaxBytes)]))
}

// within is res, the verdict on the first MaxBytes of b, or what to say when those are not enough.
func within(b []byte, res Result) Result {
	if res.Status != NeedMore || len(b) < MaxBytes {
		return res
	}
	if res.Protocol == Unknown {
		return Result{Status: NotThis}
	}
	return ambiguous(res.Protocol) // a name may stand behind the bytes that are read
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
