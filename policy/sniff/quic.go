package sniff

import "slices"

// Initials reads the name from the QUIC Initial packets, of versions 1 and 2 (RFC 9000, RFC 9369), that a client sends on
// one UDP flow. The zero value is ready to use, and is all that a flow of another protocol costs. It stores at most MaxBytes of hellos
// and a few hundred bytes more for each of at most maxHellos. It frees a hello after reading it.
type Initials struct {
	last *connection // the latest to begin; nil until a packet of a hello has been read
	// others began before last. Their hellos are unfinished, or whole and wait for one that is not.
	others []*connection
}

// maxHellos limits the connections whose hellos come interleaved. Clients that share a socket begin two or three at once.
const maxHellos = 4

// connection is what Initials has read of one.
type connection struct {
	res   Result
	keys  initialKeys
	hello assembly
	begin uint64 // where in the handshake the hello begins: a server may ask for another one (HelloRetryRequest, RFC 8446 4.1.4)
	end   uint64 // where the one ended that was read last
	left  bool   // what has come of the hello was let go, so that it holds back no other
}

// maxCoalesced limits the packets in one datagram, and so the keys derived for it. Clients send three.
const maxCoalesced = 8

// Datagram reads the next datagram and returns the result for the latest hello of the flow. It does not keep or change b.
//
// One flow can carry several connections: a datagram that starts another hello begins again with NeedMore. If the hello before it is
// not whole yet, the result is NeedMore until both are, and then has the names of both. A whole hello would otherwise free
// the part of the other. A caller that enforces names must pass every datagram, which costs a look at one bit for most of them, and
// must hold back datagrams while the result is NeedMore. NotThis means that the flow has shown no hello yet; one may still come.
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
	if len(in.others) == 0 {
		return in.last.res
	}
	res := in.last.res
	for _, c := range in.others {
		if !c.left {
			res = both(res, c.res)
		}
	}
	if res.Status != NeedMore {
		in.end(res)
	}
	return res
}

// both returns the result for hellos with the result a and another one with the result b.
func both(a, b Result) Result {
	one := a
	one.ECH, one.Early = a.ECH || b.ECH, a.Early || b.Early
	switch {
	case a.Ambiguous || b.Ambiguous:
		return ambiguous(QUIC)
	case a.Status == NeedMore || b.Status == NeedMore:
		return needMore(QUIC)
	case a.Status != b.Status:
		return ambiguous(QUIC) // one has no name, and may not have the verdict of the other
	case b.Host == a.Host || b.Host == a.Other:
		return one
	case a.Other.IsZero():
		one.Other = b.Host
		return one
	}
	return ambiguous(QUIC) // of three names
}

// GiveUp returns the result for a caller that waits no longer and lets go what it has held back. A hello of which a part has come
// counts as none; the rest is still read. Of several, one may be whole: they are ambiguous.
func (in *Initials) GiveUp() Result {
	for _, c := range in.others {
		if !c.left {
			return in.end(ambiguous(QUIC))
		}
	}
	if in.last != nil {
		in.last.left = in.last.res.Status == NeedMore
	}
	return Result{}
}

// unread returns the result for a datagram with a packet that cannot be parsed. After a hello, a packet of an unknown version
// may be another hello. The name from the first hello must not be used for it.
func (in *Initials) unread(p packet) Result {
	if in.last != nil && p.version != 0 && p.version != version1 && p.version != version2 {
		return ambiguous(QUIC)
	}
	return in.latest()
}

// end stores the result for all hellos that hold something back, and frees their bytes.
func (in *Initials) end(res Result) Result {
	if in.last == nil {
		in.last = new(connection)
	}
	in.last.ended(res)
	in.others = slices.DeleteFunc(in.others, func(c *connection) bool { return !c.left })
	return res
}

// ended stores the result for the connection's hello and frees its bytes.
func (c *connection) ended(res Result) { c.res, c.hello = res, assembly{} }

// open decrypts an Initial packet of the connection.
func (c *connection) open(p packet) (payload []byte, ok bool) {
	if p.version != c.keys.version {
		return nil, false
	}
	return c.keys.open(p)
}

// initial reads one Initial packet. Its keys are derived from the connection ID in the first Initial of the connection or,
// after a Retry, from the one that the Retry chose. In both cases a new hello follows.
func (in *Initials) initial(p packet, mayStart bool) {
	if in.last != nil {
		if payload, ok := in.last.open(p); ok {
			in.frames(in.last, payload)
			return
		}
	}
	for _, c := range in.others {
		if payload, ok := c.open(p); ok {
			in.frames(c, payload)
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
	if in.last != nil && in.latest().Status == NeedMore {
		if len(in.others) == maxHellos-1 {
			in.end(ambiguous(QUIC))
			return
		}
		in.others = append(in.others, in.last)
	}
	in.last = &connection{keys: keys, res: needMore(QUIC)}
	in.frames(in.last, payload)
}

// frames collects the hello of c from the frames of an Initial packet.
func (in *Initials) frames(c *connection, payload []byte) {
	if c.res.Ambiguous {
		return
	}
	c.left = false
	f := frames{rest: payload}
	for f.next() {
		if c.res.Status != NeedMore {
			if f.offset+uint64(len(f.data)) <= c.end {
				continue // a retransmission
			}
			c.begin, c.res = c.end, needMore(QUIC) // another hello
		}
		if !c.collect(&f) || in.stored() > MaxBytes {
			c.ended(ambiguous(QUIC))
			return
		}
	}
	if c.res.Status != NeedMore {
		return // acknowledgements
	}
	if f.broken {
		c.ended(ambiguous(QUIC))
		return
	}
	c.read()
}

// collect adds what a frame has of the hello.
func (c *connection) collect(f *frames) bool {
	data, offset := f.data, f.offset
	if offset < c.begin {
		data = data[min(c.begin-offset, uint64(len(data))):]
		offset = c.begin
	}
	return c.hello.write(offset-c.begin, data)
}

// read reads the hello if it is whole.
func (c *connection) read() {
	b := c.hello.prefix()
	switch res := readMessage(b, QUIC); {
	case res.Status == NeedMore:
	case res.Status == NotThis, res.Ambiguous, len(c.hello.data) > messageSize(b): // a client starts with a hello, and waits
		c.ended(ambiguous(QUIC))
	default:
		c.end = c.begin + uint64(messageSize(b))
		c.ended(res)
	}
}

// stored is how many bytes the hellos take.
func (in *Initials) stored() int {
	n := len(in.last.hello.data)
	for _, c := range in.others {
		n += len(c.hello.data)
	}
	return n
}
