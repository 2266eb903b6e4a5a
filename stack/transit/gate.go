package transit

import (
	"bytes"
	"slices"

	"penstock/stack/link"
)

// Bounds of what a gate keeps of one flow, in bytes.
const (
	maxSeen   = 192 << 10 // read, and not acknowledged by the server yet: the longest head that is read, 128 KiB, and a window
	maxHeld   = 256 << 10 // in packets that wait: a client can put the same bytes into many
	maxWindow = 60000     // that a client may send ahead, so that it does not meet maxSeen
)

// heldCost is what a held packet takes beside its payload.
const heldCost = 128

// gate holds what a client sends until it is permitted. It remembers what was read until the server has it: until then the
// client could send other bytes under the same sequence numbers, which nobody has read.
type gate struct {
	read func([]byte) // see Config
	base uint32       // sequence number of seen[0]
	seen []byte       // read, and not acknowledged by the server
	may  uint32       // sequence number up to which bytes may pass
	open bool         // nothing more is read

	// While the server does not have seen, what follows it up to may is skipped. Then base is moved on to may.
	skips bool
	has   uint32 // what the server has acknowledged, at most base then

	// Once the client was told that the server has what it has not, nothing is held: bytes leave out of seen.
	lent     bool
	left     uint32 // sequence number up to which they have left
	stuck    uint32 // what base was at the last look
	full     bool   // the server has taken nothing since: only what there is room for leaves now
	slow     bool   // there was not room for all, so that the rest leaves with its acknowledgements
	held     []held
	kept     int    // cost of what is held, bytes
	heard    uint32 // sequence number after what had been read at the last look
	torn     uint32 // what may was when it led into a held packet at a look
	draining bool   // somebody sends what was held: what follows has to queue behind it
}

// held is a packet that waits, rewritten already.
type held struct {
	m   link.Meta
	b   []byte
	n   int    // bytes of payload
	end uint32 // sequence number behind its payload
	fin bool
}

// order is what a gate does with a segment.
type order uint8

const (
	pass order = iota
	hold
	discard
)

// known is the sequence number after what was read.
func (g *gate) known() uint32 { return g.base + uint32(len(g.seen)) }

// admit looks at a segment. fresh is what of it has not been read before.
func (g *gate) admit(s *segment) (o order, fresh []byte) {
	n, known := uint32(len(s.payload)), g.known()
	switch {
	case n == 0 && !s.has(flagFIN):
		return pass, nil
	case g.skips && after(s.seq+n, g.may):
		return discard, nil // seen has no room for a gap
	case after(s.seq, known) && !g.open && !g.skips:
		return discard, nil // the client sends it again when what comes before it has arrived
	case !after(s.seq+n, g.base) && n > 0: // the server has it
		return pass, nil
	case !g.same(s, known):
		return discard, nil
	}
	end := s.seq + n
	if !g.open && !g.skips && after(end, known) {
		fresh = s.payload[known-s.seq:]
		if len(g.seen)+len(fresh) > maxSeen {
			return discard, nil
		}
	}
	o = pass
	if g.draining || !g.open && after(end, g.may) {
		o = hold
		isNew := g.draining || len(fresh) > 0 || s.has(flagFIN) && !g.holdsFIN(end)
		if !isNew || g.kept+len(s.payload)+heldCost > maxHeld {
			return discard, nil
		}
	}
	g.seen = append(g.seen, fresh...)
	return o, fresh
}

// same reports whether a segment repeats what was read before as it was.
func (g *gate) same(s *segment, known uint32) bool {
	from, to := s.seq, s.seq+uint32(len(s.payload))
	if after(g.base, from) {
		from = g.base
	}
	if after(to, known) {
		to = known
	}
	return !after(to, from) || bytes.Equal(s.payload[from-s.seq:to-s.seq], g.seen[from-g.base:to-g.base])
}

// holdsFIN reports whether a FIN behind end waits already.
func (g *gate) holdsFIN(end uint32) bool {
	return slices.ContainsFunc(g.held, func(h held) bool { return h.fin && h.end == end })
}

// keep keeps a packet that has to wait, but none whose bytes leave out of seen.
func (g *gate) keep(m link.Meta, b []byte, s *segment) {
	if g.lent && !g.open {
		return
	}
	n := len(s.payload)
	g.held = append(g.held, held{m, bytes.Clone(b), n, s.seq + uint32(n), s.has(flagFIN)})
	g.kept += n + heldCost
}

// release takes out the packets that may pass now.
func (g *gate) release() (out []held) {
	rest := g.held[:0]
	for _, h := range g.held {
		if !g.open && after(h.end, g.may) {
			rest = append(rest, h)
			continue
		}
		out = append(out, h)
		g.kept -= h.n + heldCost
	}
	clear(g.held[len(rest):])
	g.held = rest
	return out
}

// permit lets the next n bytes that were read pass.
func (g *gate) permit(n int) {
	if g.open || g.skips {
		return
	}
	unread := int(g.known() - g.may)
	g.may += uint32(min(max(n, 0), unread))
}

// maxSkip limits what is skipped at once, in bytes: sequence numbers are compared.
const maxSkip = 1 << 29

// skip lets n bytes that follow seen pass unread. It fails if not all of seen has been permitted, or bytes leave out of it.
func (g *gate) skip(n int) (ok bool) {
	if g.open || g.skips || g.lent || g.draining || n <= 0 || n > maxSkip || len(g.held) > 0 || g.may != g.known() {
		return false
	}
	g.may += uint32(n)
	if g.skips = len(g.seen) > 0; !g.skips {
		g.base = g.may
	}
	return true
}

// window is what a client that has this acknowledgement may send ahead, in bytes.
func (g *gate) window(ack uint32) int {
	to := g.base
	if g.skips {
		to = g.may
	}
	if after(to, ack) {
		return max(maxWindow, int(to-ack))
	}
	return maxWindow
}

// lend begins to answer, if it can, to the client for what was read. What was held leaves out of seen instead.
func (g *gate) lend() {
	if g.lent || g.skips || after(g.base, g.has) { // what was skipped could not be sent again
		return
	}
	g.lent, g.left = true, g.base
	if after(g.may, g.base) {
		g.left = g.may // that has left as it came
	}
	for _, h := range g.held { // but what was permitted of a packet whose end was not
		if start := h.end - uint32(h.n); after(g.left, start) {
			g.left = start
		}
	}
	g.held, g.kept = nil, 0
}

// isTorn reports whether a packet has been held since the last look of which a part may leave. Its rest may be the beginning of what
// the client goes on with only when it has got an answer.
func (g *gate) isTorn() bool {
	torn := !g.lent && !g.open && slices.ContainsFunc(g.held, func(h held) bool { return after(h.end, g.may) && after(g.may, h.end-uint32(h.n)) })
	if !torn || g.torn == g.may {
		return torn
	}
	g.torn = g.may
	return false
}

// owed is what may leave out of seen and has not, and its sequence number.
func (g *gate) owed() (at uint32, b []byte) {
	if !g.lent {
		return 0, nil
	}
	to := g.known()
	if !g.open && after(to, g.may) {
		to = g.may
	}
	if at = g.left; after(g.base, at) {
		at = g.base
	}
	if !after(to, at) {
		return at, nil
	}
	return at, g.seen[at-g.base : to-g.base]
}

// repeat makes everything that the server has not acknowledged leave again, if it has acknowledged nothing since the last look.
func (g *gate) repeat() {
	if g.full = g.lent && g.stuck == g.base; g.full {
		g.left = g.base
	}
	g.stuck = g.base
}

// acked forgets what the server has. It reports whether the gate is not needed any more.
func (g *gate) acked(ack uint32) (over bool) {
	known := g.known()
	if !g.open && after(ack, g.may) {
		ack = g.may // a server cannot have what was not sent to it
	}
	raise(&g.has, ack)
	if after(ack, known) {
		ack = known
	}
	if after(ack, g.base) {
		g.seen = g.seen[ack-g.base:]
		g.base = ack
	}
	if len(g.seen) == 0 {
		g.seen = nil // an idle flow keeps nothing
	}
	if g.skips && g.seen == nil {
		g.base, g.skips = g.may, false
	}
	return g.over()
}

// over reports whether the gate is not needed any more.
func (g *gate) over() bool { return g.open && len(g.seen) == 0 && len(g.held) == 0 && !g.draining }

// segments is how many segments are held; a super-packet stands for several.
func (g *gate) segments(most int) (n int) {
	for _, h := range g.held {
		n += max(1, (h.n+most-1)/most)
	}
	return n
}

// waits reports whether something is held, and nothing has come since the last look.
func (g *gate) waits() bool {
	was := g.heard
	g.heard = g.known()
	return !g.lent && !g.open && len(g.held) > 0 && g.heard == was
}
