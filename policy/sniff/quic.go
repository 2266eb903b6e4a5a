package sniff

import (
	"bytes"
	"crypto/sha256"
	"slices"
)

// Initials reads the name from the QUIC Initial packets, of versions 1 and 2 (RFC 9000, RFC 9369), that a client sends on
// one UDP flow. The zero value is ready to use, and is all that a flow of another protocol costs. It stores at most MaxBytes of hellos
// and about a kilobyte more for each of at most maxHellos.
type Initials struct {
	last   *connection   // the latest to begin; nil until a packet of a hello has been read
	others []*connection // that began before last, the oldest first
}

// maxHellos limits the connections that are told apart. Clients that share a socket begin two or three at once.
const maxHellos = 8

// connection is what Initials has read of one.
type connection struct {
	dcid   []byte // of its first packet
	scid   []byte
	keys   initialKeys
	before *initialKeys        // of the version before a change; nil if there was none
	res    Result              // of the hello that was read last, or is read
	hello  assembly            // all hellos, until the handshake goes on: see collect
	begin  int                 // where in hello the one that is read begins: a server may ask for another one (HelloRetryRequest, RFC 8446 4.1.4)
	end    int                 // where the one ends that was read last
	goesOn bool                // the client has gone on with the handshake: its server has the hello
	seen   [][sha256.Size]byte // of what came of hello, for repetitions that come late: see collect
	told   bool                // res is part of a result that was returned
	all    Result              // the result that was returned when this was the latest connection: for its hello and those that came interleaved
}

// maxCoalesced limits the packets in one datagram, and so the keys derived for it. Clients send three.
const maxCoalesced = 8

// Datagram reads the next datagram and returns the result for the latest hello of the flow. It does not keep or change b.
//
// One flow can carry several connections: a datagram that starts another hello begins again with NeedMore. If the hello before it is
// not whole yet, the result is NeedMore until both are, and then has the names of both. A whole hello would otherwise free
// the part of the other. A caller that enforces names must pass every datagram, which costs a look at one bit for most of them, and
// must hold back datagrams while the result is NeedMore. NotThis means that the flow has shown no hello yet; one may still come.
//
// An Initial packet that cannot be opened is ambiguous: a part of a hello may be in it whose beginning came from another port.
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
		if p.kind == packetHandshake {
			in.goesOn(p)
		}
		if p.kind != packetInitial {
			continue
		}
		// A server should ignore packets for another connection than the first one's (RFC 9000 12.2). Not all do.
		if !first && string(p.dcid) != string(dcid) {
			return in.fail()
		}
		dcid = p.dcid
		if !in.initial(p, first) {
			return in.fail()
		}
		first = false
	}
	if len(b) > 0 && b[0]&longHeader != 0 {
		return in.fail()
	}
	return in.latest()
}

// Held returns how many bytes are stored of hellos.
func (in *Initials) Held() (n int) {
	for c := range in.connections {
		n += cap(c.hello.data) + 8*cap(c.hello.have)
	}
	return n
}

// connections yields all of them, the latest first.
func (in *Initials) connections(yield func(*connection) bool) {
	if in.last == nil || !yield(in.last) {
		return
	}
	for _, c := range in.others {
		if !yield(c) {
			return
		}
	}
}

func (in *Initials) latest() Result {
	last := in.last
	if last == nil {
		return Result{Status: NotThis}
	}
	res := last.all
	if !last.told {
		res = last.res
	}
	for _, c := range in.others {
		if !c.told {
			res = both(res, c.res)
		}
	}
	if res.Status != NeedMore {
		last.all = res
		for c := range in.connections {
			c.told = true
		}
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

// unread returns the result for a datagram with a packet that cannot be parsed. After a hello, a packet of an unknown version
// may be another hello. The name from the first hello must not be used for it.
func (in *Initials) unread(p packet) Result {
	if _, isRead := saltOf(p.version); in.last != nil && p.version != 0 && !isRead {
		return ambiguous(QUIC)
	}
	return in.latest()
}

// fail makes the flow ambiguous, and frees the bytes of all hellos.
func (in *Initials) fail() Result {
	in.last, in.others = new(connection), nil
	in.last.ended(ambiguous(QUIC))
	return in.latest()
}

// initial reads one Initial packet. Its keys are derived from the connection ID in the first Initial of the connection or,
// after a Retry, from the one that the Retry chose. In both cases a new hello follows. It fails if the packet cannot be opened, or begins
// a connection where it may not.
func (in *Initials) initial(p packet, mayStart bool) (ok bool) {
	for c := range in.connections {
		if payload, ok := c.open(p); ok {
			in.frames(c, payload)
			return true
		}
	}
	keys, err := newInitialKeys(p.version, p.dcid)
	if err != nil {
		return true // nor can anything else be read on this platform
	}
	payload, ok := keys.open(p)
	if !ok {
		return in.changesVersion(p)
	}
	if !mayStart || !in.makeRoom() {
		return false // two hellos in one datagram, or too many that are unfinished
	}
	in.last = &connection{dcid: bytes.Clone(p.dcid), scid: bytes.Clone(p.scid), keys: keys, res: needMore(QUIC)}
	in.frames(in.last, payload)
	return true
}

// open decrypts an Initial packet of the connection.
func (c *connection) open(p packet) (payload []byte, ok bool) {
	for _, keys := range []*initialKeys{&c.keys, c.before} {
		if keys == nil || keys.version != p.version || keys.aead == nil {
			continue
		}
		if payload, ok = keys.open(p); ok {
			return payload, true
		}
	}
	return nil, false
}

// changesVersion reads an Initial packet of a connection that goes on in another version, which the server has chosen (RFC 9368 2.3). The
// keys still come from the connection ID of its first packet.
func (in *Initials) changesVersion(p packet) (ok bool) {
	for c := range in.connections {
		if p.version == c.keys.version || c.dcid == nil {
			continue
		}
		keys, err := newInitialKeys(p.version, c.dcid)
		if err != nil {
			return false
		}
		keys.next = c.keys.next
		if payload, ok := keys.open(p); ok {
			before := c.keys
			c.keys, c.before = keys, &before
			in.frames(c, payload)
			return true
		}
	}
	return false
}

// makeRoom makes room for another connection in the place of last. It fails if as many as are kept are unfinished.
func (in *Initials) makeRoom() (ok bool) {
	if in.last == nil {
		return true
	}
	in.others = append(in.others, in.last)
	if len(in.others) < maxHellos {
		return true
	}
	i := slices.IndexFunc(in.others, func(c *connection) bool { return c.told && c.goesOn })
	if i < 0 {
		i = slices.IndexFunc(in.others, func(c *connection) bool { return c.told })
	}
	if i < 0 {
		return false
	}
	in.others = slices.Delete(in.others, i, i+1)
	return true
}

// goesOn notes a Handshake packet of a client's. It sends no Initial packet any more (RFC 9001 4.9.1).
func (in *Initials) goesOn(p packet) {
	for c := range in.connections {
		if c.res.Status != NeedMore && bytes.Equal(c.scid, p.scid) {
			c.goesOn, c.hello = true, assembly{}
		}
	}
}

// maxSeen is how many packets with parts of a hello are recognised later. A hello has two or three, and clients repeat each a few times.
const maxSeen = 16

// frames collects the hello of c from the frames of an Initial packet.
func (in *Initials) frames(c *connection, payload []byte) {
	if c.res.Ambiguous {
		return
	}
	sum := sha256.Sum256(payload)
	switch seen := slices.Contains(c.seen, sum); {
	case seen && c.goesOn:
		return // it comes late
	case !seen && len(c.seen) < maxSeen:
		c.seen = append(c.seen, sum)
	}
	f := frames{rest: payload}
	for f.next() {
		if !c.collect(&f) || in.stored() > MaxBytes {
			c.ended(ambiguous(QUIC))
			return
		}
	}
	switch {
	case c.res.Status != NeedMore: // a repetition, or acknowledgements
	case f.broken:
		c.ended(ambiguous(QUIC))
	default:
		c.read()
	}
}

// collect adds what a frame has of the hellos. It fails if that contradicts what came before: servers do not have what was lost on its way, and
// discard datagrams that are too short (RFC 9000 14.1), so any of two could count. For that, a hello is kept until the handshake goes on;
// then only packets that are the same as before may come.
func (c *connection) collect(f *frames) bool {
	if c.goesOn || !c.hello.write(f.offset, f.data) {
		return false
	}
	if c.res.Status != NeedMore && len(c.hello.data) > c.end {
		c.begin, c.res, c.told = c.end, needMore(QUIC), false // another hello
	}
	return true
}

// read reads the hello if it is whole.
func (c *connection) read() {
	b := c.hello.prefix()[c.begin:]
	switch res := readMessage(b, QUIC); {
	case res.Status == NeedMore:
	case res.Status == NotThis, res.Ambiguous, len(c.hello.data) > c.begin+messageSize(b): // a client starts with a hello, and waits
		c.ended(ambiguous(QUIC))
	default:
		c.end = c.begin + messageSize(b)
		c.res = res
	}
}

// ended stores the result for the connection and frees its bytes.
func (c *connection) ended(res Result) { c.res, c.hello, c.told = res, assembly{}, false }

// stored is how many bytes the hellos take.
func (in *Initials) stored() (n int) {
	for c := range in.connections {
		n += len(c.hello.data)
	}
	return n
}
