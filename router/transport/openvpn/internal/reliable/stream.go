// Package reliable makes an ordered byte stream out of control packets that may be lost, doubled and reordered: one
// Stream per key id, and a Pipe that lets TLS run over it. A Stream is a state machine without goroutines: the caller
// owns the clock, the sockets and the locking.
//
// The package does not parse or protect packets.
package reliable

import (
	"slices"
	"time"

	"penstock/router/transport/openvpn/internal/wire"
)

const (
	sendWindow    = 6  // unacknowledged packets, as the reference allows
	receiveWindow = 12 // packets kept ahead of a gap
	controlAcks   = 4  // acknowledgements in a packet that carries data
	fastAcks      = 3  // acknowledgements of later packets that prove one lost
)

// Outgoing is a packet that is due. Its acknowledgements are in Acks; an Ack packet has no ID and no payload.
type Outgoing struct {
	Op      wire.Opcode
	ID      uint32
	Acks    []uint32
	Payload []byte
	Again   bool // a retransmission
}

// Incoming is a packet in its turn.
type Incoming struct {
	Op      wire.Opcode
	ID      uint32
	Payload []byte
}

type flight struct {
	Outgoing
	sent    time.Time // zero: not yet
	timeout time.Duration
	tries   int
	later   int // acknowledgements of higher ids since it was sent
}

// Stream is the reliability layer of one key id. The zero value with RTT set is ready.
type Stream struct {
	RTT      *RTT // shared by the streams of one session
	HoldAcks bool // acknowledgements travel with other packets only

	queue  []*flight // in flight first, then waiting; in order of ID
	nextID uint32

	expected uint32
	ahead    map[uint32]Incoming

	owed   []uint32 // not yet acknowledged
	recent []uint32 // acknowledged before, newest first: repeated as redundancy

	last *flight // the newest packet that was acknowledged
}

// Send queues a packet.
func (s *Stream) Send(op wire.Opcode, payload []byte) {
	s.queue = append(s.queue, &flight{Outgoing: Outgoing{Op: op, ID: s.nextID, Payload: payload}})
	s.nextID++
}

// Waiting is how many queued packets have not been acknowledged.
func (s *Stream) Waiting() int { return len(s.queue) }

// Room is how many more packets would go out at once.
func (s *Stream) Room() int { return max(0, sendWindow-len(s.queue)) }

// Receive takes a packet and returns those whose turn has come. It keeps payload.
func (s *Stream) Receive(op wire.Opcode, id uint32, payload []byte) []Incoming {
	if uint64(id) >= uint64(s.expected)+receiveWindow {
		return nil // unacknowledged: it will come again
	}
	s.owe(id)
	if id < s.expected {
		return nil
	}
	if s.ahead == nil {
		s.ahead = make(map[uint32]Incoming, receiveWindow)
	}
	if _, seen := s.ahead[id]; !seen {
		s.ahead[id] = Incoming{Op: op, ID: id, Payload: payload}
	}
	var ready []Incoming
	for {
		in, ok := s.ahead[s.expected]
		if !ok {
			return ready
		}
		delete(s.ahead, s.expected)
		ready = append(ready, in)
		s.expected++
	}
}

func (s *Stream) owe(id uint32) {
	if !slices.Contains(s.owed, id) {
		s.owed = append(s.owed, id)
	}
}

// Acked takes the acknowledgements of a received packet.
func (s *Stream) Acked(ids []uint32, now time.Time) {
	for _, id := range ids {
		i := slices.IndexFunc(s.queue, func(f *flight) bool { return f.ID == id && !f.sent.IsZero() })
		if i < 0 {
			continue
		}
		f := s.queue[i]
		if f.tries == 1 { // of a packet sent twice nobody knows which copy is meant
			s.RTT.sample(now.Sub(f.sent))
		}
		for _, earlier := range s.queue[:i] {
			earlier.later++
		}
		s.queue = slices.Delete(s.queue, i, i+1)
		s.last = f
	}
}

// Next returns a packet that is due at now, until there is none.
func (s *Stream) Next(now time.Time) (Outgoing, bool) {
	for _, f := range s.queue[:min(len(s.queue), sendWindow)] {
		if f.due(now) {
			f.send(now, s.RTT)
			out := f.Outgoing
			out.Again = f.tries > 1
			out.Acks = s.takeAcks(controlAcks)
			return out, true
		}
	}
	if len(s.owed) > 0 && !s.HoldAcks {
		return Outgoing{Op: wire.Ack, Acks: s.takeAcks(wire.MaxAcks)}, true
	}
	return Outgoing{}, false
}

// Repeat returns a packet that the peer has acknowledged before. It changes nothing at the peer, which must acknowledge it again.
func (s *Stream) Repeat() (Outgoing, bool) {
	if s.last == nil {
		return Outgoing{}, false
	}
	out := s.last.Outgoing
	out.Acks = s.takeAcks(controlAcks)
	return out, true
}

// Due is when Next has something to return; the zero time says that nothing is pending.
func (s *Stream) Due(now time.Time) time.Time {
	if len(s.owed) > 0 && !s.HoldAcks {
		return now
	}
	var due time.Time
	for _, f := range s.queue[:min(len(s.queue), sendWindow)] {
		at := now
		if !f.due(now) {
			at = f.sent.Add(f.timeout)
		}
		if due.IsZero() || at.Before(due) {
			due = at
		}
	}
	return due
}

func (f *flight) due(now time.Time) bool {
	return f.sent.IsZero() || f.later >= fastAcks || !now.Before(f.sent.Add(f.timeout))
}

// send notes that f goes out. It waits twice as long each time, unless the peer was never heard: one that comes back is
// to be noticed within a second.
func (f *flight) send(now time.Time, rtt *RTT) {
	timeout := rtt.timeout()
	if f.tries > 0 && rtt.known() {
		timeout = max(2*f.timeout, timeout)
	}
	f.sent, f.timeout, f.later = now, min(timeout, maxTimeout), 0
	f.tries++
}

// takeAcks moves owed acknowledgements to recent and fills up with older ones.
func (s *Stream) takeAcks(limit int) []uint32 {
	n := min(len(s.owed), limit)
	fresh := s.owed[:n]
	acks := append(make([]uint32, 0, limit), fresh...)
	for _, id := range s.recent {
		if len(acks) == limit {
			break
		}
		if !slices.Contains(acks, id) {
			acks = append(acks, id)
		}
	}
	s.owed = slices.Delete(s.owed, 0, n)
	s.recent = slices.Clone(acks)
	return acks
}
