package sniff

// Initials reads the name from the QUIC Initial packets, of versions 1 and 2 (RFC 9000, RFC 9369), that a client sends on
// one UDP flow. The zero value is ready to use, and is all that a flow of another protocol costs. It stores at most MaxBytes of one
// hello and a few hundred bytes more. It frees the hello after reading it.
type Initials struct {
	last *connection // nil until a packet of a hello has been read
}

// connection is what Initials has read of one.
type connection struct {
	res   Result
	keys  initialKeys
	hello assembly
}

// maxCoalesced limits the packets in one datagram, and so the keys derived for it. Clients send three.
const maxCoalesced = 8

// Datagram reads the next datagram and returns the result for the latest hello of the flow. It does not keep or change b.
//
// One flow can carry several connections, one after the other: a datagram that starts another hello begins again with
// NeedMore. A caller that enforces names must pass every datagram, which costs a look at one bit for most of them, and must
// hold back datagrams while the result is NeedMore. NotThis means that the flow has shown no hello yet; one may still come.
func (in *Initials) Datagram(b []byte) Result {
	first := true // Initial of this datagram
	var dcid []byte
	for range maxCoalesced {
		if len(b) == 0 || b[0]&longHeader == 0 {
			return in.latest()
		}
		p, size, ok := parsePacket(b)
		if !ok {
			return in.unread(p)
		}
		b = b[size:]
		if !p.initial {
			continue
		}
		// A server should ignore packets for another connection than the first one's (RFC 9000 12.2). Not all do.
		if !first && string(p.dcid) != string(dcid) {
			return in.end(ambiguous(QUIC))
		}
		dcid = p.dcid
		in.initial(p, first)
		first = false
	}
	if len(b) > 0 && b[0]&longHeader != 0 {
		return in.end(ambiguous(QUIC))
	}
	return in.latest()
}

func (in *Initials) latest() Result {
	if in.last == nil {
		return Result{Status: NotThis}
	}
	return in.last.res
}

// unread returns the result for a datagram with a packet that cannot be parsed. After a hello, a packet of an unknown version
// may be another hello. The name from the first hello must not be used for it.
func (in *Initials) unread(p packet) Result {
	if in.last != nil && p.version != 0 && p.version != version1 && p.version != version2 {
		return ambiguous(QUIC)
	}
	return in.latest()
}

// end stores the result for the current hello and frees its bytes.
func (in *Initials) end(res Result) Result {
	if in.last == nil {
		in.last = new(connection)
	}
	in.last.res, in.last.hello = res, assembly{}
	return res
}

// initial reads one Initial packet. Its keys are derived from the connection ID in the first Initial of the connection or,
// after a Retry, from the one that the Retry chose. In both cases a new hello follows.
func (in *Initials) initial(p packet, mayStart bool) {
	if in.last != nil && p.version == in.last.keys.version {
		if payload, ok := in.last.keys.open(p); ok {
			in.frames(payload)
			return
		}
	}
	keys, err := newInitialKeys(p.version, p.dcid)
	if err != nil {
		return
	}
	payload, ok := keys.open(p)
	if !ok {
		return // damaged, or from a connection that began before penstock saw the flow
	}
	if !mayStart {
		in.end(ambiguous(QUIC)) // two hellos in one datagram
		return
	}
	in.last = &connection{keys: keys, res: needMore(QUIC)}
	in.frames(payload)
}

// frames collects the hello from the frames of an Initial packet.
func (in *Initials) frames(payload []byte) {
	if in.last.res.Status != NeedMore {
		return // a retransmission, or acknowledgements
	}
	f := frames{rest: payload}
	for f.next() {
		if !in.last.hello.write(f.offset, f.data) {
			in.end(ambiguous(QUIC))
			return
		}
	}
	if f.broken {
		in.end(ambiguous(QUIC))
		return
	}
	switch res := readMessage(in.last.hello.prefix(), QUIC); res.Status {
	case NeedMore:
	case NotThis:
		in.end(ambiguous(QUIC)) // a client starts with a hello
	default:
		in.end(res)
	}
}
