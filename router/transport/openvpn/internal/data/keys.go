package data

import (
	"sync"
	"sync/atomic"
	"time"

	"penstock/router/transport/openvpn/internal/datakey"
	"penstock/router/transport/openvpn/internal/framing"
	"penstock/router/transport/openvpn/internal/wire"
)

// slot is a data key in use.
type slot struct {
	id  uint8
	op  wire.Opcode // of the packets it opens
	key datakey.Key
	in  framing.Kind // of plaintexts
}

// Keys are the data keys in use. Receiving goes strictly by a packet's key id; sending stays with the old key until the
// server has used the new one.
type Keys struct {
	slots  [8]atomic.Pointer[slot]
	newest atomic.Pointer[slot]
	send   atomic.Pointer[slot]
	// awaited is the key id under negotiation, plus one: packets may come before its key does. 0: none.
	awaited atomic.Uint32

	mu    sync.Mutex // guards below, and Key.Open
	plain [][]byte   // scratch of Channel.Receive
	early [][]byte   // packets that came before their key

	// Touched by the session's goroutine only, which alone calls the exported methods.
	switchAt  time.Time // send with the newest key by then, proven or not; zero: it does already
	duckUntil time.Time // the end of the key before
}

// earlyPackets are kept for a key that is being derived.
const earlyPackets = 128

// install makes key the newest one and returns the packets that waited for it.
func (k *Keys) install(fresh *slot, switchAt, duckUntil time.Time) (early [][]byte) {
	first := k.newest.Load() == nil
	k.Trust()
	k.mu.Lock()
	k.slots[fresh.id].Store(fresh)
	k.newest.Store(fresh)
	k.awaited.Store(0)
	early, k.early = k.early, nil
	k.mu.Unlock()
	k.switchAt, k.duckUntil = switchAt, duckUntil
	if first {
		k.Trust()
		k.duckUntil = time.Time{}
	}
	return early
}

// Await says which key id is under negotiation, -1 for none: packets of that key may come before it does.
func (k *Keys) Await(keyID int) { k.awaited.Store(uint32(keyID + 1)) }

// Trust sends with the newest key from now on: the server is known to have it.
func (k *Keys) Trust() {
	k.send.Store(k.newest.Load())
	k.switchAt = time.Time{}
}

// Tick trusts a key that was not proven in time. It reports that the key before the newest has served its time, and
// when to call it again, at the latest; the zero time: never.
func (k *Keys) Tick(now time.Time) (expired bool, next time.Time) {
	if !k.switchAt.IsZero() && (k.send.Load() == k.newest.Load() || now.After(k.switchAt)) {
		k.Trust()
	}
	next = k.switchAt
	if !k.duckUntil.IsZero() && (next.IsZero() || k.duckUntil.Before(next)) {
		next = k.duckUntil
	}
	return !k.duckUntil.IsZero() && now.After(k.duckUntil), next
}

// Remove forgets the key before the newest.
func (k *Keys) Remove(id uint8) {
	k.slots[id].Store(nil)
	k.duckUntil = time.Time{}
}

// Spent reports that the newest key is near its limits: a new one is to be negotiated.
func (k *Keys) Spent() bool {
	s := k.newest.Load()
	return s != nil && s.key.Spent()
}

// Sending returns the id of the key that packets are sent with, -1 for none. Anyone may call it.
func (k *Keys) Sending() int {
	if s := k.send.Load(); s != nil {
		return int(s.id)
	}
	return -1
}

// forPacketLocked returns the key that opens packet, or nil. A packet whose key is about to be installed is kept: the server
// may be done before we are.
func (k *Keys) forPacketLocked(packet []byte) (key *slot, kept bool) {
	op, id := wire.ParseHeader(packet[0])
	s := k.slots[id].Load()
	if s != nil && s.op == op {
		return s, false
	}
	if s != nil || k.awaited.Load() != uint32(id)+1 || len(k.early) >= earlyPackets {
		return nil, false
	}
	k.early = append(k.early, append(make([]byte, 0, len(packet)+datakey.Tail), packet...))
	return nil, true
}

// proveLocked notes that the server has used s: it has that key.
func (k *Keys) proveLocked(s *slot) {
	if s == k.newest.Load() && s != k.send.Load() {
		k.send.Store(s)
	}
}

// Opening returns the ids of the keys that packets are opened with, in order. Anyone may call it.
func (k *Keys) Opening() []int {
	var ids []int
	for id := range k.slots {
		if k.slots[id].Load() != nil {
			ids = append(ids, id)
		}
	}
	return ids
}
