package transit

import (
	"encoding/binary"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"penstock/stack/link"
	"penstock/stack/packet"
)

// How long a silent flow is remembered.
const (
	OpeningFor = 75 * time.Second // the handshake is not over: a client repeats its SYN for about as long
	CrowdedFor = 10 * time.Second // the same for one of very many flows of a client
	OpenFor    = 2*time.Hour + 4*time.Minute
	OverFor    = 4 * time.Second // both sides have ended: what is on its way still finds its flow
)

// Config is what New needs.
type Config struct {
	Client, Server netip.AddrPort // as the client sees them
	Mapped         netip.AddrPort // what the server sees instead of the client
	ISN            uint32         // sequence number of the client's SYN
	MTU            uint16         // of the narrower side, bytes
	KeepHops       bool           // a router on the server's side, on this host, has counted or will count the hop
	// Read gets what the client sends, each byte once and in order, before it leaves. It must not keep the bytes, must not
	// block and must not call the flow. What it gets leaves only when Permit or Open says so. Nil: nothing is read.
	Read func(b []byte)
	// Owner must be set.
	Owner Owner
}

// Owner is whoever carries the packets of a flow. The flow calls its methods without holding a lock; they must not call the flow.
type Owner interface {
	// ToServer and ToClient send a packet of the flow that did not come just now: one that was held, or a reset. They must
	// not keep it.
	ToServer(m link.Meta, b []byte)
	ToClient(m link.Meta, b []byte)
	// Opened is called once, when the server accepts.
	Opened()
	// Carries is called once, when the client has acknowledged that, and payload has come from either side.
	Carries()
	// Heard is called after Read got bytes. Unlike Read it may call the flow, but it must not block either.
	Heard()
	// Ended is called once, when both sides have closed, one has reset or Reset was called.
	Ended(r Result)
}

// Result is how a flow ended.
type Result uint8

const (
	Closed      Result = iota // after the server had accepted, or by Reset
	Refused                   // the server refused
	Unanswered                // the server did not answer
	Unreachable               // an ICMP error said that there is no way
)

// Step is what becomes of a packet that was given to a flow.
type Step uint8

const (
	Cross  Step = iota // it was rewritten: send it to the other side
	Stay               // send nothing: it is held, or is lost
	Renew              // it begins another connection between the same ports: Reset the flow and begin another
	Expire             // it has no hops left: tell its sender
)

// phase is how far a connection has come.
//
//	opening --SYN-ACK--> open --FIN both ways, or RST--> over --Reset--> cut
//	   +------------------+------------Reset--------------------------^
type phase uint8

const (
	opening phase = iota
	open
	over // what is on its way still crosses
	cut  // nothing crosses
)

// Flow is one TCP connection that crosses. Its methods may be called by several goroutines at once. Packets of one direction must
// come in their order.
type Flow struct {
	Config
	out, back change // of what the client, and the server, sends
	most      uint16 // bytes in a segment
	Judged    bool   // what the client sends was, or is, read before it leaves
	seen      atomic.Int64
	tx, rx    atomic.Uint64

	mu             sync.Mutex // guards below
	phase          phase
	carries        bool  // Owner was told
	offered        bool  // the client scales windows, if the server does
	scale          uint8 // of the server's windows
	result         Result
	client, server end
	left           uint32 // sequence number after what has left for the server
	syn            string // as it left, until the server has answered
	gate           *gate  // nil: all passes
}

// end is one side of a connection.
type end struct {
	next   uint32 // sequence number after what it has sent
	has    uint32 // what it has acknowledged: sequence number that it expects of the other
	stamp  uint32 // its newest timestamp (RFC 7323)
	window uint16 // as it was sent last
	fin    bool   // it has sent FIN
	agreed bool   // it has acknowledged the other's SYN
	stamps bool   // it sends timestamps
}

// sent notes a segment to other, and returns how much of its payload is new.
func (e *end) sent(s *segment, other *end) (fresh uint64) {
	if n, data := s.end(), s.seq+uint32(len(s.payload)); after(n, e.next) {
		if after(data, e.next) {
			fresh = min(uint64(data-e.next), uint64(len(s.payload)))
		}
		e.next = n
	}
	if s.has(flagACK) && !after(s.ack, other.next) {
		e.agreed = true
		if after(s.ack, e.has) {
			e.has = s.ack
		}
	}
	e.fin = e.fin || s.has(flagFIN)
	e.window = s.window
	return fresh
}

// note keeps the timestamp of a segment, for those that the flow makes itself.
func (e *end) note(s *segment) {
	if stamp, ok := s.stamp(); ok {
		e.stamp, e.stamps = stamp, true
	}
}

// New makes the flow of a SYN, which is then given to FromClient.
func New(c Config, now int64) *Flow {
	f := &Flow{
		Config: c, out: changeOf(c.Client, c.Mapped), back: changeOf(c.Mapped, c.Client),
		most: c.MTU - uint16(packet.HeaderLen(c.Server.Addr())) - 20,
	}
	f.client, f.left = end{next: c.ISN + 1}, c.ISN+1
	f.seen.Store(now)
	if c.Read != nil {
		f.Judged, f.gate, f.Read = true, &gate{base: c.ISN + 1, may: c.ISN + 1, has: c.ISN + 1, read: c.Read}, nil
	}
	return f
}

// forServer rewrites a packet of the client's.
func (c *Config) forServer(out change, m link.Meta, p *packet.Packet) {
	t := translation{to: c.Mapped, keep: c.KeepHops, change: out}
	t.apply(m, p)
}

// forClient rewrites a packet of the server's.
func (c *Config) forClient(back change, m link.Meta, p *packet.Packet) {
	t := translation{to: c.Client, isDst: true, keep: c.KeepHops, change: back}
	t.apply(m, p)
}

// FromClient takes a packet of the client's. now is in nanoseconds of the clock that Stale is asked with.
func (f *Flow) FromClient(m link.Meta, p *packet.Packet, now int64) Step {
	s, step := look(m, p, 1) // also before another router: only this side has an address that the client knows
	if step != Cross {
		return step
	}
	f.seen.Store(now)
	f.mu.Lock()
	step, ended := f.fromClient(m, p, &s)
	carries := !f.carries && f.client.agreed && f.phase == open && f.tx.Load()+f.rx.Load() > 0
	f.carries = f.carries || carries
	f.mu.Unlock()
	if carries {
		f.Owner.Carries()
	}
	if s.heard {
		f.Owner.Heard()
	}
	if step == Stay { // still, after what has come was judged: mostly it has been let go by now
		f.mu.Lock()
		loan := lender{f}.loanLocked()
		f.mu.Unlock()
		if loan != nil {
			f.Owner.ToClient(link.Meta{}, loan)
		}
	}
	if ended {
		f.Owner.Ended(f.result)
	}
	return step
}

func (f *Flow) fromClient(m link.Meta, p *packet.Packet, s *segment) (step Step, ended bool) {
	switch {
	case s.has(flagSYN):
		if s.has(flagACK) {
			return Stay, false
		}
		switch {
		case f.phase >= over, s.seq != f.ISN:
			return Renew, false
		case f.client.next != f.ISN+1:
			return Stay, false // late; a server that has closed would take it for another connection, which nobody would read
		}
		// It may be repeated although its answer has crossed: that was lost, or is on its way.
		f.offered = clampSYN(p, f.most) != noScale
		if f.Judged {
			plainSYN(p)
		}
		f.forServer(f.out, link.Meta{}, p)
		reseal(link.Meta{}, p, f.Mapped.Addr(), f.Server.Addr())
		if f.phase == opening {
			f.syn = string(p.Raw)
		}
		reseal(m, p, f.Mapped.Addr(), f.Server.Addr())
		return Cross, false
	case f.phase == cut:
		return Stay, false
	case s.has(flagRST):
		if f.phase != opening || s.seq == f.ISN+1 { // else it answers what is left of an older connection, and the SYN will be repeated
			ended = f.endLocked()
		}
		if len(s.payload) == 0 {
			break
		}
		cutPayload(p) // nobody has read it
		f.forServer(f.out, link.Meta{}, p)
		reseal(m, p, f.Mapped.Addr(), f.Server.Addr())
		return Cross, ended
	case f.phase == opening:
		return Stay, false // nothing can follow a SYN that was not answered
	case f.phase == over && after(s.seq+uint32(len(s.payload)), f.client.next):
		return Stay, false // what is repeated crosses: the last ACK may be lost
	case f.gate != nil:
		f.client.note(s)
		notUrgent(m, p, s)
		switch f.admit(m, p, s) {
		case hold:
			f.tx.Add(f.client.sent(s, &f.server))
			return Stay, false
		case discard:
			return Stay, false
		}
	}
	f.tx.Add(f.client.sent(s, &f.server))
	if s.end() != s.seq {
		raise(&f.left, s.end())
	} else if edge := f.server.has + uint32(f.server.window)<<f.scale; f.gate != nil && f.gate.lent && after(s.seq, edge) {
		// The client goes by what it was told that the server has. A server takes no acknowledgement from beyond its window.
		renumber(m, p, atSeq, edge)
	}
	f.forServer(f.out, m, p)
	return Cross, ended || f.closedLocked()
}

// raise makes a sequence number at least n.
func raise(to *uint32, n uint32) {
	if after(n, *to) {
		*to = n
	}
}

// admit asks the gate, lets the reader read, and keeps a packet that has to wait.
func (f *Flow) admit(m link.Meta, p *packet.Packet, s *segment) order {
	o, fresh := f.gate.admit(s)
	if len(fresh) > 0 {
		f.gate.read(fresh)
		s.heard = true
	}
	if o == hold {
		f.forServer(f.out, m, p)
		f.gate.keep(m, p.Raw, s)
	}
	return o
}

// FromServer takes a packet of the server's.
func (f *Flow) FromServer(m link.Meta, p *packet.Packet, now int64) Step {
	spent := byte(1)
	if f.KeepHops {
		spent = 0
	}
	s, step := look(m, p, spent)
	if step != Cross {
		return step
	}
	f.seen.Store(now)
	f.mu.Lock()
	step, opened, ended := f.fromServer(m, p, &s)
	if g := f.gate; g != nil && g.slow {
		g.full = true
		f.drain()
	} else {
		f.mu.Unlock()
	}
	if opened {
		f.Owner.Opened()
	}
	if ended {
		f.Owner.Ended(f.result)
	}
	return step
}

func (f *Flow) fromServer(m link.Meta, p *packet.Packet, s *segment) (step Step, opened, ended bool) {
	switch {
	case f.phase == cut:
		return Stay, false, false
	case s.has(flagSYN):
		if !s.has(flagACK) || s.ack != f.ISN+1 {
			return Stay, false, false
		}
		scale := clampSYN(p, f.most)
		if f.gate != nil {
			clampWindow(link.Meta{Partial: true}, p, maxWindow, 0) // the window of a SYN is never scaled
		}
		f.forClient(f.back, link.Meta{}, p)
		reseal(m, p, f.Server.Addr(), f.Client.Addr())
		if f.phase == opening || f.phase == open && !f.client.agreed { // a server that keeps no SYN answers another with another number
			opened, f.phase, f.syn = f.phase == opening, open, ""
			f.server.sent(s, &f.client)
			f.server.note(s)
			f.server.next, f.server.has = s.seq+1, s.ack
			f.client.has = s.seq + 1
			f.result = Closed
			if f.offered && scale != noScale {
				f.scale = scale
			}
		}
		return Cross, opened, false
	case s.has(flagRST):
		if ended = f.isResetLocked(s); ended && f.phase == opening {
			f.result = Refused
		}
		ended = ended && f.endLocked()
	case f.phase == over && after(s.seq+uint32(len(s.payload)), f.server.next):
		return Stay, false, false
	case f.phase != opening && f.server.knows(s, &f.client):
		f.rx.Add(f.server.sent(s, &f.client))
		if f.gate != nil {
			f.server.note(s)
			if f.gate.acked(s.ack) {
				f.gate = nil
			}
		}
	}
	f.forClient(f.back, m, p)
	switch g := f.gate; {
	case g == nil:
	case g.lent && s.has(flagACK):
		if after(g.known(), s.ack) {
			renumber(m, p, atAck, g.known())
		}
		clampWindow(m, p, lender{f}.windowLocked(s.ack, s.window), f.scale)
	case !g.open:
		clampWindow(m, p, g.window(s.ack), f.scale)
	}
	return Cross, false, ended || f.closedLocked()
}

// isResetLocked reports whether a client would take a RST: one made by somebody who cannot see the connection does not end it.
func (f *Flow) isResetLocked(s *segment) bool {
	if f.phase == opening {
		return s.has(flagACK) && s.ack == f.ISN+1
	}
	return !after(f.client.has, s.seq) && !after(s.seq, f.server.next)
}

// maxLate is how old an acknowledgement may be, in bytes that were acknowledged since.
const maxLate = 1 << 24

// knows reports whether a segment of e's acknowledges what other may have sent. One that somebody made up who cannot see the
// connection crosses, and the client ignores it (RFC 5961, 5); believed, it would make a RST credible.
func (e *end) knows(s *segment, other *end) bool {
	return s.has(flagACK) && !after(s.ack, other.next) && !after(e.has, s.ack+maxLate)
}

func (f *Flow) endLocked() (ended bool) {
	ended = f.phase < over
	f.phase = max(f.phase, over)
	return ended
}

// closedLocked ends the flow once both sides have closed and have each other's FIN.
func (f *Flow) closedLocked() (ended bool) {
	c, s := &f.client, &f.server
	if c.fin && s.fin && !after(s.next, c.has) && !after(c.next, s.has) {
		return f.endLocked()
	}
	return false
}

// Permit lets the next n bytes that were read leave.
func (f *Flow) Permit(n int) {
	f.mu.Lock()
	if f.gate == nil {
		f.mu.Unlock()
		return
	}
	f.gate.permit(n)
	f.drain()
}

// Skip lets n bytes leave without being read, if all that was read has been permitted. It reports false if they will be read.
func (f *Flow) Skip(n int) (ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.gate != nil && f.gate.skip(n)
}

// Open lets everything leave from now on. Nothing more is read.
func (f *Flow) Open() {
	f.mu.Lock()
	if f.gate == nil {
		f.mu.Unlock()
		return
	}
	f.gate.open = true
	f.drain()
}

// drain sends what was held and may leave. It is called with the lock held, and gives it up.
func (f *Flow) drain() {
	g := f.gate
	if g.draining {
		f.mu.Unlock()
		return // whoever drains sees the change
	}
	g.draining = true
	for f.phase < over {
		list := append(g.release(), lender{f}.owedLocked(g)...)
		if len(list) == 0 {
			break
		}
		for _, h := range list {
			if f.phase >= over {
				break
			}
			raise(&f.left, h.end)
			f.mu.Unlock()
			f.Owner.ToServer(h.m, h.b)
			f.mu.Lock()
		}
	}
	g.draining, g.full = false, false
	if g.over() { // the server had everything before
		f.gate = nil
	}
	f.mu.Unlock()
}

// Reset ends the flow with RST to both sides. Nothing of it crosses any more.
func (f *Flow) Reset() { f.end(Closed) }

// Expire is Reset for a flow that is Stale at now. Where the server has not answered and the client may still repeat its SYN, neither is
// told: a client would take the reset for that of a closed port.
func (f *Flow) Expire(now int64) {
	if time.Duration(now-f.seen.Load()) < OpeningFor && f.Abandon() {
		return
	}
	f.end(Unanswered)
}

// Abandon ends a flow that the server has not answered, and tells neither side. It reports false for any other.
func (f *Flow) Abandon() bool {
	f.mu.Lock()
	abandoned := f.phase == opening
	if abandoned {
		f.phase, f.result, f.gate = cut, Unanswered, nil
	}
	f.mu.Unlock()
	if abandoned {
		f.Owner.Ended(Unanswered)
	}
	return abandoned
}

func (f *Flow) end(r Result) {
	f.mu.Lock()
	if f.phase == opening && f.result == Closed {
		f.result = r
	}
	was, c, s, left := f.phase, f.client, f.server, f.left
	f.phase, f.gate = cut, nil
	f.mu.Unlock()
	switch was {
	case opening:
		f.Owner.ToClient(link.Meta{}, build(f.Server, f.Client, flagRST|flagACK, 0, f.ISN+1, 0, nil, nil))
		f.Owner.ToServer(link.Meta{}, build(f.Mapped, f.Server, flagRST, f.ISN+1, 0, 0, nil, nil)) // what it has sent is not known
	case open:
		// What was sent last has the numbers that a side takes a reset with, if it has received everything. If it has not, it asks,
		// and whoever finds no flow any more answers with the right ones (RFC 5961, 3.2).
		f.Owner.ToClient(link.Meta{}, build(f.Server, f.Client, flagRST|flagACK, s.next, c.next, 0, nil, nil))
		f.Owner.ToServer(link.Meta{}, build(f.Mapped, f.Server, flagRST|flagACK, left, s.next, 0, nil, nil))
	default:
		return
	}
	f.Owner.Ended(f.result)
}

// lender is a flow as it answers for bytes that its server does not have yet.
type lender struct{ *Flow }

// loanLocked acknowledges for the server what is held, when that has become many segments: a client with a small window in
// segments would send no more, and so might never finish what is read. From then on the flow answers for these bytes.
func (f lender) loanLocked() []byte {
	const many = 4
	g := f.gate
	if g == nil || f.phase != open || !g.lent && (g.open || g.segments(int(f.most)) < many) {
		return nil
	}
	if g.lend(); !g.lent {
		return nil
	}
	server := f.server
	server.window = uint16(f.windowLocked(server.has, server.window) >> f.scale)
	return control(f.Server, f.Client, flagACK, server.next, g.known(), &server, &f.client, nil)
}

// windowLocked is how much a client may send that was told that the server has all that was read, in bytes. ack and window are the
// server's own.
func (f lender) windowLocked(ack uint32, window uint16) int {
	g, bytes := f.gate, int(window)<<f.scale
	if g.open { // then the rest passes at once, and the server has to have room for it
		return max(0, bytes-int(int32(g.known()-ack)))
	}
	return min(bytes, maxWindow, maxSeen-len(g.seen))
}

// Held returns how many bytes the flow keeps of what was read, in packets that wait or until the server has them.
func (f *Flow) Held() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.gate == nil {
		return 0
	}
	return len(f.gate.seen) + f.gate.kept
}

// Repeat sends again what the server has not acknowledged of the bytes that the flow answers for. It is called every second or so. What
// a client has not been able to go on with until then, it is told to be there: its window may be too small for more. goes reports that
// it is to be called again.
func (f *Flow) Repeat() (goes bool) {
	f.mu.Lock()
	if f.gate != nil && (f.gate.isTorn() || f.gate.waits()) {
		f.gate.lend()
	}
	goes = f.gate != nil
	if !goes || !f.gate.lent {
		f.mu.Unlock()
		return goes
	}
	if f.gate.repeat(); f.gate.full { // perhaps what it sends is too big for the way, and nobody says so (RFC 4821)
		f.most = min(f.most, leastMost)
	}
	f.drain()
	return true
}

// owedLocked makes segments of the bytes that the flow answers for and that may leave.
func (f lender) owedLocked(g *gate) (list []held) {
	at, b := g.owed()
	size := int(f.most)
	if f.client.stamps && f.server.stamps {
		size -= stampBytes
	}
	if g.full { // one segment asks a server whether it still has no room
		room := max(size, int(f.server.window)<<f.scale) - int(at-g.base)
		g.slow = room < len(b)
		b = b[:min(len(b), max(0, room))]
	}
	for len(b) > 0 {
		n := min(size, len(b))
		h := held{b: control(f.Mapped, f.Server, flagACK|flagPSH, at, f.client.has, &f.client, &f.server, b[:n])}
		at, b = at+uint32(n), b[n:]
		h.end = at
		list = append(list, h)
		g.left = at
	}
	return list
}

// Nudge is called when the way to the server works again after it did not. A server that was not reached is asked again. A client
// whose retransmissions were lost waits ever longer between them: an ICMP error takes back one step of that (RFC 6069), and does
// nothing else to an open connection.
func (f *Flow) Nudge() {
	const steps = 12 // from any pause that a kernel makes down to the first one
	f.mu.Lock()
	var syn, revert []byte
	switch {
	case f.phase == opening:
		syn = []byte(f.syn)
	case f.phase == open && after(f.client.next, f.server.has):
		lost := build(f.Client, f.Server, flagACK, f.server.has, f.client.has, f.client.window, nil, nil)
		revert = unreachable(f.Server.Addr(), f.Client.Addr(), lost)
	}
	f.mu.Unlock()
	if len(syn) > 0 {
		f.Owner.ToServer(link.Meta{}, syn)
	}
	if revert != nil {
		for range steps {
			f.Owner.ToClient(link.Meta{}, revert)
		}
	}
}

// leastMost is what every way takes in a segment (RFC 9293, 3.7.1), in bytes.
const leastMost = 536

// TooBig says that no packet of more than mtu bytes reaches the server: segments that the flow makes itself are no longer from now on.
func (f *Flow) TooBig(mtu int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.most = uint16(min(int(f.most), max(mtu-packet.HeaderLen(f.Server.Addr())-20, leastMost)))
}

// stampBytes is what timestamps take of a segment.
const stampBytes = 12

// control makes a segment from one side to the other, in the name of from.
func control(src, dst netip.AddrPort, flags byte, seq, ack uint32, from, to *end, payload []byte) []byte {
	var options []byte
	if from.stamps && to.stamps {
		options = []byte{optionNop, optionNop, optionStamps, 10}
		options = binary.BigEndian.AppendUint32(options, from.stamp)
		options = binary.BigEndian.AppendUint32(options, to.stamp)
	}
	return build(src, dst, flags, seq, ack, from.window, options, payload)
}

// Over reports whether the flow has ended.
func (f *Flow) Over() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.phase >= over
}

// Stale reports whether the flow has been silent for too long. crowds says that its client has very many: what a flood of SYNs has opened
// is forgotten early, and a client that repeats its SYN later begins anew.
func (f *Flow) Stale(now int64, crowds bool) bool {
	silent := time.Duration(now - f.seen.Load())
	if silent < OverFor {
		return false
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.phase >= over:
		return true
	case f.client.agreed:
		return silent >= OpenFor
	case crowds:
		return silent >= CrowdedFor
	}
	return silent >= OpeningFor
}

// Bytes returns how many bytes of payload the client has sent and received.
func (f *Flow) Bytes() (in, out uint64) { return f.tx.Load(), f.rx.Load() }

// QuoteToClient translates the head of a packet to the server that an ICMP error quotes, for the client. final says that the error
// ends the attempt of a client that has no answer yet. ok is false for a packet that the flow has not sent lately: somebody guesses.
func (f *Flow) QuoteToClient(quoted []byte, final bool) (b []byte, ok bool) {
	seq, ok := quotedSeq(quoted, f.Mapped, f.Server)
	if !ok {
		return nil, false
	}
	f.mu.Lock()
	ok = f.phase == opening && seq == f.ISN || f.phase == open && !after(f.server.has, seq) && after(f.client.next, seq)
	ended := false
	if ok && f.phase == opening && final {
		f.result = Unreachable
		ended = f.endLocked()
	}
	f.mu.Unlock()
	if !ok {
		return nil, false
	}
	if ended {
		f.Owner.Ended(Unreachable)
	}
	return quote(quoted, f.Client, false), true
}

// QuoteToServer is QuoteToClient for the head of a packet to the client.
func (f *Flow) QuoteToServer(quoted []byte) (b []byte, ok bool) {
	seq, ok := quotedSeq(quoted, f.Server, f.Client)
	if !ok {
		return nil, false
	}
	f.mu.Lock()
	ok = f.phase == open && !after(f.client.has, seq) && after(f.server.next, seq)
	f.mu.Unlock()
	if !ok {
		return nil, false
	}
	return quote(quoted, f.Mapped, true), true
}
