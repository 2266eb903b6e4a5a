package sniff

// Initials reads the name from the datagrams that a client sends on one UDP flow, out of QUIC Initial packets of
// versions 1 and 2 (RFC 9000, RFC 9369). The zero value is ready. It holds at most MaxBytes of one hello and a few
// hundred bytes more, and once a hello has been read only the latter.
type Initials struct {
	res     Result
	started bool // a packet of a hello has been read
	keys    initialKeys
	hello   assembly
}

// maxCoalesced bounds the packets of one datagram and with them the keys that are derived for it. Clients send three.
const maxCoalesced = 8

// Datagram reads the next datagram and says what is known of the flow's latest hello. It does not keep or change b.
//
// One flow can carry several connections, one after the other: a datagram that starts another hello begins again with
// NeedMore. A caller that enforces names hands in every datagram, at the cost of looking at one bit for most of them,
// and holds back what comes back NeedMore. NotThis means that no hello has been seen on this flow; one may still come.
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
		// A server ignores packets for another connection than the first one's (RFC 9000 12.2), or it doesn't.
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
	if !in.started {
		return Result{Status: NotThis}
	}
	return in.res
}

// unread is the verdict on a datagram with a packet that can't be parsed. On a flow that had a hello, one of another
// version may be another hello, which the name of the first must not cover.
func (in *Initials) unread(p packet) Result {
	if in.started && p.version != 0 && p.version != version1 && p.version != version2 {
		return ambiguous(QUIC)
	}
	return in.latest()
}

// end is the verdict on the current hello, which needs no more memory.
func (in *Initials) end(res Result) Result {
	in.started, in.res, in.hello = true, res, assembly{}
	return res
}

// initial reads one Initial packet. Its keys derive from the first Initial of the connection, or, when that was
// answered by a Retry, from the connection ID chosen there; a new hello comes in both cases, as with a new connection.
func (in *Initials) initial(p packet, mayStart bool) {
	if in.started && p.version == in.keys.version {
		if payload, ok := in.keys.open(p); ok {
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
		return // damaged, or of a connection that began before this flow was seen
	}
	if !mayStart {
		in.end(ambiguous(QUIC)) // two hellos in one datagram
		return
	}
	*in = Initials{started: true, keys: keys, res: needMore(QUIC)}
	in.frames(payload)
}

// frames collects the hello from the frames of an Initial packet.
func (in *Initials) frames(payload []byte) {
	if in.res.Status != NeedMore {
		return // a retransmission, or acknowledgements
	}
	f := frames{rest: payload}
	for f.next() {
		if !in.hello.write(f.offset, f.data) {
			in.end(ambiguous(QUIC))
			return
		}
	}
	if f.broken {
		in.end(ambiguous(QUIC))
		return
	}
	switch res := readMessage(in.hello.prefix(), QUIC); res.Status {
	case NeedMore:
	case NotThis:
		in.end(ambiguous(QUIC)) // a client starts with a hello
	default:
		in.end(res)
	}
}
