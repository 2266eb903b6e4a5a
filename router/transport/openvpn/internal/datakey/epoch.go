package datakey

import (
	"crypto/cipher"
	"encoding/binary"
	"fmt"
	"sync"
	"sync/atomic"

	"penstock/router/transport/openvpn/internal/replay"
	"penstock/router/transport/openvpn/internal/wire"
)

const (
	epochIDSize   = 8             // epoch(2), counter(6)
	futureEpochs  = 4             // receive keys kept ready ahead of the current one
	lastEpoch     = 0xF000        // from here a renegotiation is due
	epochUse      = 1<<36 - 1<<20 // GCM packets and blocks before the next epoch
	epochCounters = 1<<48 - 1<<20 // packets before the next epoch, for any cipher
)

// epochKey is the epoch format: header, epoch(2), counter(6), ciphertext, tag(16). It moves on to fresh keys without a
// negotiation.
type epochKey struct {
	params Params
	head   []byte
	spent  atomic.Bool

	mu     sync.Mutex // guards send: a received epoch raises it
	send   *epoch
	limits epochLimits

	current    *epoch
	retiring   *epoch
	future     []*epoch // the epochs right after current
	openErrors uint64
}

type epochLimits struct{ use, counters uint64 }

// epoch is one direction of one epoch.
type epoch struct {
	n       uint16
	secret  []byte
	aead    cipher.AEAD
	iv      [nonceSize]byte
	nonce   [nonceSize]byte
	counter uint64 // sending: the last one used
	use     use
	seen    replay.Window // receiving
}

func newEpochKey(material *wire.StaticKey, d wire.Direction, p Params) (*epochKey, error) {
	sendHalf, receiveHalf := 0, 1
	if d == wire.Inverse {
		sendHalf, receiveHalf = 1, 0
	}
	k := &epochKey{params: p, head: p.head(), limits: epochLimits{use: epochUse, counters: epochCounters}}
	var err error
	if k.send, err = newEpoch(1, material.Cipher(sendHalf)[:32], p.Cipher); err != nil {
		return nil, err
	}
	if k.current, err = newEpoch(1, material.Cipher(receiveHalf)[:32], p.Cipher); err != nil {
		return nil, err
	}
	return k, k.extend()
}

func newEpoch(n uint16, secret []byte, c Cipher) (*epoch, error) {
	key, err := expandLabel(secret, "data_key", c.keySize())
	if err != nil {
		return nil, fmt.Errorf("data key: epoch %d: %w", n, err)
	}
	iv, err := expandLabel(secret, "data_iv", nonceSize)
	if err != nil {
		return nil, fmt.Errorf("data key: epoch %d: %w", n, err)
	}
	e := &epoch{n: n, secret: secret, iv: [nonceSize]byte(iv)}
	e.use.gcm = c != ChaCha20
	if e.aead, err = c.aead(key); err != nil {
		return nil, fmt.Errorf("data key: epoch %d: %w", n, err)
	}
	return e, nil
}

func (e *epoch) next(c Cipher) (*epoch, error) {
	secret, err := expandLabel(e.secret, "datakey upd", 32)
	if err != nil {
		return nil, fmt.Errorf("data key: after epoch %d: %w", e.n, err)
	}
	return newEpoch(e.n+1, secret, c)
}

func (e *epoch) setNonce(id []byte) []byte {
	e.nonce = e.iv
	for i, b := range id {
		e.nonce[i] ^= b
	}
	return e.nonce[:]
}

// extend keeps futureEpochs keys ready after the current one.
func (k *epochKey) extend() error {
	last := k.current
	if n := len(k.future); n > 0 {
		last = k.future[n-1]
	}
	for len(k.future) < futureEpochs && last.n < 0xFFFF {
		next, err := last.next(k.params.Cipher)
		if err != nil {
			return err
		}
		k.future = append(k.future, next)
		last = next
	}
	return nil
}

func (k *epochKey) Head() int { return len(k.head) + epochIDSize }

func (k *epochKey) Spent() bool { return k.spent.Load() }

func (k *epochKey) Seal(packet []byte) ([]byte, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.send.counter >= k.limits.counters || k.send.use.n >= k.limits.use {
		if err := k.advanceLocked(k.send.n + 1); err != nil {
			return nil, err
		}
	}
	e, head := k.send, k.Head()
	e.counter++
	e.use.add(len(packet) - head)
	copy(packet, k.head)
	id := packet[len(k.head):head]
	binary.BigEndian.PutUint64(id, uint64(e.n)<<48|e.counter)
	sealed := e.aead.Seal(packet[head:head], e.setNonce(id), packet[head:], k.authenticated(packet))
	return packet[:head+len(sealed)], nil
}

// authenticated is what the tag covers beside the ciphertext: as in the classic format, not the header byte of V1.
func (k *epochKey) authenticated(packet []byte) []byte {
	if len(k.head) == 1 {
		return packet[1:k.Head()]
	}
	return packet[:k.Head()]
}

func (k *epochKey) advanceLocked(n uint16) error {
	for k.send.n < n {
		if k.send.n == 0xFFFF {
			return ErrExhausted
		}
		next, err := k.send.next(k.params.Cipher)
		if err != nil {
			return err
		}
		k.send = next
	}
	if k.send.n >= lastEpoch {
		k.spent.Store(true)
	}
	return nil
}

func (k *epochKey) Open(packet []byte) ([]byte, error) {
	head := k.Head()
	if len(packet) < head+tagSize {
		return nil, ErrShort
	}
	if k.openErrors >= maxOpenErrors {
		return nil, ErrExhausted
	}
	id := packet[len(k.head):head]
	number := binary.BigEndian.Uint16(id)
	counter := binary.BigEndian.Uint64(id) & (1<<48 - 1)
	e := k.receiving(number)
	if e == nil {
		return nil, ErrAuthentication
	}
	if !e.seen.Fresh(counter) {
		return nil, ErrReplay
	}
	plain, err := e.aead.Open(packet[head:head], e.setNonce(id), packet[head:], k.authenticated(packet))
	if err != nil {
		k.openErrors++
		return nil, ErrAuthentication
	}
	e.seen.Mark(counter)
	if number > k.current.n {
		if err := k.follow(number); err != nil {
			return nil, err
		}
	}
	return plain, nil
}

// receiving finds the key of an epoch: the current, the retiring, or one of the next few.
func (k *epochKey) receiving(n uint16) *epoch {
	switch {
	case n == k.current.n:
		return k.current
	case k.retiring != nil && n == k.retiring.n:
		return k.retiring
	case n > k.current.n && int(n-k.current.n) <= len(k.future):
		return k.future[n-k.current.n-1]
	}
	return nil
}

// follow makes epoch n current: the peer has proven that it is there. What we send moves up to it as well.
func (k *epochKey) follow(n uint16) error {
	steps := int(n - k.current.n)
	k.retiring = k.current
	k.current = k.future[steps-1]
	k.future = append([]*epoch(nil), k.future[steps:]...)
	if err := k.extend(); err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.advanceLocked(n)
}
