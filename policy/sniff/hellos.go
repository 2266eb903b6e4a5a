package sniff

// Hellos reads what a client of TLS sends behind its hello. A server may ask for another one (HelloRetryRequest, RFC 8446 4.1.4). Some
// then go by the name in that (nginx 1.22 with OpenSSL 3.0; Go's crypto/tls refuses one that differs). Between the two come a change of
// cipher, and early data if the first offered it. Hellos sees the client only: it reads until nothing can follow but what both sides
// have encrypted.
type Hellos struct {
	early int // bytes of early data that are still passed over
	left  int // bytes of a record that have not been fed and name nothing
}

// maxEarly is how much early data is passed over, in bytes. Servers that ask for another hello pass over 16 KiB unless they are told
// otherwise.
const maxEarly = 64 << 10

// BehindHello returns what reads on in a stream that starts with a hello, b, which is whole, and of which TCP has returned res.
func BehindHello(b []byte, res Result) Hellos {
	h := Hellos{left: helloSize(b)}
	if res.Early {
		h.early = maxEarly
	}
	return h
}

// helloSize returns the size of the records of the hello at the start of b.
func helloSize(b []byte) (n int) {
	var start [messageHeader]byte
	for total := 0; n < len(b) && (total < len(start) || total < messageSize(start[:])); {
		part, size, ok := cutRecord(b[n:])
		if !ok {
			break
		}
		if total < len(start) {
			copy(start[total:], part)
		}
		total += len(part)
		n += size
	}
	return n
}

// Feed reads b, which are the bytes after those already released, from the first hello on. It returns how many of them it releases.
//
//   - NeedMore: forward b[:n]. If n is 0, keep b and call Feed again when more bytes follow it.
//   - Found, NoName: b[:n] is another hello than the first. Forward it only if that is allowed. Feed has not read b[n:].
//   - NoName and Ambiguous: n is 0. Forward nothing more and close the connection.
//   - NotThis: n is len(b). No hello can follow.
//
// Call Feed again with b[n:] while n > 0 and bytes remain. It keeps no reference to b.
func (h *Hellos) Feed(b []byte) (n int, res Result) {
	for {
		skip := min(h.left, len(b)-n)
		n, h.left = n+skip, h.left-skip
		rest := b[n:]
		switch {
		case len(rest) == 0:
			return n, needMore(TLS)
		case rest[0] == recordChange, rest[0] == recordAlert, rest[0] == recordHandshake, rest[0] == recordData && h.early > 0:
		default:
			return len(b), Result{Status: NotThis}
		}
		if len(rest) < recordHeader {
			return n, needMore(TLS)
		}
		size := int(rest[3])<<8 | int(rest[4])
		switch {
		case size == 0:
		case rest[0] == recordData:
			h.early -= size
		case rest[0] == recordHandshake:
			if n > 0 {
				return n, needMore(TLS) // whatever becomes of it
			}
			return h.again(b)
		}
		h.left = recordHeader + size
	}
}

// again reads the handshake record at the start of b.
func (h *Hellos) again(b []byte) (n int, res Result) {
	res = readAgain(b)
	switch {
	case res.Status == NotThis:
		return len(b), res
	case res.Status == NeedMore, res.Ambiguous:
		return 0, res
	}
	h.early = 0
	if res.Early {
		h.early = maxEarly
	}
	return helloSize(b), res
}

// readAgain reads a stream that goes on with a handshake record. What a client of TLS 1.2 sends encrypted has the same type, and the first
// byte of a hello once in 256 times: so it looks at more of them.
func readAgain(b []byte) Result {
	var start [helloStart]byte
	n, rest := peek(b, start[:])
	switch {
	case !mayBeHello(start[:n]):
		return Result{Status: NotThis}
	case n == len(start):
	case len(rest) == 0 || rest[0] == recordHandshake:
		return needMore(TLS)
	case rest[0] == recordData:
		return Result{Status: NotThis} // which no server takes inside a hello
	}
	return within(b, readTLS(b[:min(len(b), MaxBytes)]))
}
