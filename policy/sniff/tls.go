package sniff

// Numbers from the TLS registries (RFC 8446, RFC 6066, RFC 9849).
const (
	recordHeader    = 5  // bytes: type, version, length
	recordChange    = 20 // ChangeCipherSpec
	recordAlert     = 21
	alertSize       = recordHeader + 2 // bytes: header, level, description
	recordHandshake = 22
	recordData      = 23
	maxRecord       = 1 << 14 // bytes of plaintext
	messageHeader   = 4       // bytes: type, length
	clientHelloType = 1
	extServerName   = 0
	extEarlyData    = 42
	extECH          = 0xfe0d
	nameTypeHost    = 0
)

// readBefore reads a stream that starts with an alert, or a change of cipher. No client sends one before its hello, but Go's server
// passes over warnings there (crypto/tls of Go 1.25), and OpenSSL's over a change of cipher without content (3.0), so a hello that follows
// is ambiguous.
func readBefore(b []byte) Result {
	for len(b) > 0 && (b[0] == recordAlert || b[0] == recordChange) {
		if len(b) > 3 && b[3] != 0 || len(b) > 4 && !goesBefore(b[0], b[4]) {
			return Result{Status: NotThis}
		}
		if len(b) < recordHeader || len(b) < recordHeader+int(b[4]) {
			return needMore(Unknown)
		}
		b = b[recordHeader+int(b[4]):]
	}
	switch {
	case len(b) == 0:
		return needMore(TLS)
	case b[0] != recordHandshake:
		return Result{Status: NotThis}
	}
	res := readTLS(b)
	switch res.Status {
	case NotThis:
		return res
	case NeedMore:
		return needMore(TLS)
	}
	return ambiguous(TLS)
}

// goesBefore reports whether a record of a size in bytes may be one that a server passes over before the hello.
func goesBefore(kind, size byte) bool {
	if kind == recordAlert {
		return size == alertSize-recordHeader
	}
	return size <= 1
}

// readTLS reads a stream that starts with a handshake record. Before the type of the hello it can still be another protocol.
// After it, any syntax error is ambiguous.
func readTLS(b []byte) Result {
	if len(b) < recordHeader {
		return needMore(Unknown)
	}
	size := int(b[3])<<8 | int(b[4])
	if b[1] >= 0x10 || size > maxRecord {
		return readOddRecord(b)
	}
	fragment := b[recordHeader:]
	if len(fragment) <= size {
		return alone(readMessage(fragment, TLS), fragment, size) // still in the first record
	}
	if res := readMessage(fragment[:size], TLS); res.Status != NeedMore {
		return alone(res, fragment, size)
	}
	return readRecords(b)
}

// readOddRecord reads a stream that starts with a handshake record of a version that is none, or a record that is too long. No client sends
// one, but Java's server takes both (JSSE of OpenJDK 17), so a hello in it is ambiguous.
func readOddRecord(b []byte) Result {
	var start [helloStart]byte
	n, rest := peek(b, start[:])
	switch {
	case !mayBeHello(start[:n]), n > 1 && start[1] != 0, n > messageHeader && start[messageHeader] != 3:
		return Result{Status: NotThis}
	case n <= messageHeader:
		return needMore(Unknown)
	case n < len(start) && (len(rest) == 0 || rest[0] == recordHandshake):
		return needMore(TLS)
	}
	if res := readRecords(b); res.Status == NeedMore {
		return res
	}
	return ambiguous(TLS)
}

// helloStart is how many bytes of a hello mayBeHello looks at: up to the length of the session id.
const helloStart = messageHeader + 2 + 32 + 1

// maxHello is the largest hello that a server takes, in bytes without the header: OpenSSL, the largest that there can be.
const maxHello = 131396

// mayBeHello reports whether a message that starts so may be a hello that a server takes. OpenSSL and GnuTLS take any version from 3.1 on, if
// an extension names another one.
func mayBeHello(start []byte) bool {
	for i, c := range start {
		switch {
		case i == 0 && c != clientHelloType,
			i == messageHeader-1 && (messageSize(start) < helloStart || messageSize(start) > messageHeader+maxHello),
			i == messageHeader && c < 3,
			i == helloStart-1 && c > 32:
			return false
		}
	}
	return true
}

// peek copies the first bytes of the message in the records at the start of b to to, and returns how many there are, and what follows the
// records that it has read.
func peek(b, to []byte) (n int, rest []byte) {
	for len(b) > 0 && b[0] == recordHandshake && n < len(to) {
		part, size, ok := cutRecord(b)
		if !ok {
			break
		}
		n += copy(to[n:], part)
		b = b[size:]
	}
	return n, b
}

// alone returns res, the result for the message at the start of b, if its records, of size bytes in all, have no other message. No client
// puts one behind its hello; some servers read it, should they ask for another hello.
func alone(res Result, b []byte, size int) Result {
	if (res.Status == Found || res.Status == NoName) && !res.Ambiguous && size > messageSize(b) {
		return ambiguous(TLS)
	}
	return res
}

// readRecords reads a message that spans several records. It joins them only once the message is complete, because a client
// may send each byte in a record, and each record in a segment, of its own.
func readRecords(b []byte) Result {
	var start [messageHeader]byte
	total, size := 0, 0 // of the fragments: what has come, and what their headers say
	rest := needMore(TLS)
	for at := 0; at < len(b) && (total < len(start) || total < messageSize(start[:])); {
		if b[at] != recordHandshake {
			rest = ambiguous(TLS) // an alert or data inside the hello
			break
		}
		part, taken, ok := cutRecord(b[at:])
		if !ok {
			break
		}
		if total < len(start) {
			copy(start[total:], part)
		}
		total += len(part)
		size += int(b[at+3])<<8 | int(b[at+4])
		at += taken
	}
	res := readMessage(start[:min(total, len(start))], TLS)
	if res.Status != NeedMore {
		return res // a type or length that is not a hello's
	}
	if total < len(start) || total < messageSize(start[:]) {
		return rest
	}
	return alone(joinRecords(b), start[:], size)
}

// cutRecord returns the available part of the fragment in the record at the start of b, and the bytes of b that the record
// takes.
func cutRecord(b []byte) (part []byte, size int, ok bool) {
	if len(b) < recordHeader {
		return nil, 0, false
	}
	size = min(recordHeader+(int(b[3])<<8|int(b[4])), len(b))
	return b[recordHeader:size], size, true
}

// joinRecords joins the fragments of a complete message and reads it.
func joinRecords(b []byte) Result {
	var message [MaxBytes]byte
	n := 0
	for len(b) > 0 && b[0] == recordHandshake {
		part, size, ok := cutRecord(b)
		if !ok {
			break
		}
		n += copy(message[n:], part)
		b = b[size:]
	}
	return readMessage(message[:n], TLS)
}

// readMessage reads the handshake message at the start of b.
func readMessage(b []byte, p Protocol) Result {
	if len(b) == 0 {
		return needMore(Unknown)
	}
	if b[0] != clientHelloType {
		return Result{Status: NotThis}
	}
	if len(b) < messageHeader {
		return needMore(p)
	}
	size := messageSize(b)
	if size > MaxBytes {
		return ambiguous(p)
	}
	if len(b) < size {
		return needMore(p)
	}
	return readHello(b[messageHeader:size], p)
}

// messageSize returns the size of the message at the start of b, including its header.
func messageSize(b []byte) int { return messageHeader + (int(b[1])<<16 | int(b[2])<<8 | int(b[3])) }

// readHello reads the body of a ClientHello.
func readHello(b []byte, p Protocol) Result {
	hello := reader{b}
	_, ok := hello.bytes(2 + 32)                // version, random
	for _, size := range [...]uint64{1, 2, 1} { // session id, cipher suites, compression methods
		_, more := hello.vector(size)
		ok = ok && more
	}
	if ok && len(hello.rest) == 0 {
		return noName(p) // no extensions, as in old clients
	}
	list, more := hello.vector(2)
	if !ok || !more || len(hello.rest) > 0 {
		return ambiguous(p)
	}
	return readExtensions(reader{list}, p)
}

func readExtensions(r reader, p Protocol) Result {
	res := noName(p)
	named := false
	for len(r.rest) > 0 {
		kind, ok := r.uint(2)
		data, more := r.vector(2)
		if !ok || !more {
			return ambiguous(p)
		}
		switch kind {
		case extECH:
			res.ECH = true
		case extEarlyData:
			res.Early = true
		case extServerName:
			name, ok := readServerName(data)
			if !ok || named {
				return ambiguous(p)
			}
			named = true
			switch res.Host.set(name) {
			case hostName:
				res.Status = Found
			case hostIllegal:
				return ambiguous(p)
			}
		}
	}
	return res
}

// readServerName reads a server_name extension. It accepts one name only: servers differ in which of two they use. The name is
// empty if the extension or its list is: RFC 6066 forbids that, but clients that were given no name send it.
func readServerName(data []byte) (name []byte, ok bool) {
	r := reader{data}
	if len(data) == 0 || len(data) == 2 && data[0] == 0 && data[1] == 0 {
		return nil, true
	}
	list, ok := r.vector(2)
	if !ok || len(r.rest) > 0 {
		return nil, false
	}
	r = reader{list}
	if kind, ok := r.uint(1); !ok || kind != nameTypeHost {
		return nil, false
	}
	name, ok = r.vector(2)
	return name, ok && len(r.rest) == 0
}
