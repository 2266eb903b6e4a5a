package wire

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"time"

	"penstock/router/transport/openvpn/internal/replay"
)

// Errors of Wrap.Open.
var (
	ErrAuthentication = errors.New("control packet does not authenticate")
	ErrReplay         = errors.New("control packet was seen before")
)

// Wrap protects control packets. It is not safe for concurrent use.
type Wrap interface {
	// Seal makes the packet to send. Each call takes a new replay id: a retransmission is sealed again.
	Seal(p *Packet) []byte
	// Open authenticates packet and returns its body, in memory of its own where it was encrypted.
	Open(packet []byte) (body []byte, err error)
	// Overhead is how many bytes Seal adds.
	Overhead() int
}

// Plain protects nothing.
type Plain struct{}

// Seal appends the body as it is.
func (Plain) Seal(p *Packet) []byte { return append(outer(p, 0), p.Body()...) }

// Open returns what follows the clear part.
func (Plain) Open(packet []byte) ([]byte, error) {
	if len(packet) < OuterSize {
		return nil, ErrMalformed
	}
	return packet[OuterSize:], nil
}

// Overhead is zero.
func (Plain) Overhead() int { return 0 }

func outer(p *Packet, room int) []byte {
	b := make([]byte, 0, OuterSize+room+96+len(p.Payload))
	b = append(b, Header(p.Op, p.KeyID))
	return append(b, p.Session[:]...)
}

const replayIDSize = 8

// replayID numbers what a wrap sends and remembers what it received.
type replayID struct {
	now  func() time.Time
	next uint32
	time uint32
	seen replay.Window
}

func (r *replayID) take() [replayIDSize]byte {
	if r.time == 0 || r.next == 0 { // the counter has wrapped: a later time keeps the pair rising
		r.time = max(uint32(r.now().Unix()), r.time+1)
	}
	r.next++
	var b [replayIDSize]byte
	binary.BigEndian.PutUint32(b[:], r.next)
	binary.BigEndian.PutUint32(b[4:], r.time)
	return b
}

// counter makes one number of a received id that rises with every packet: the time counts first.
func counter(id []byte) uint64 {
	return uint64(binary.BigEndian.Uint32(id[4:]))<<32 | uint64(binary.BigEndian.Uint32(id))
}

// TLSAuth signs packets with an HMAC and leaves them readable.
type TLSAuth struct {
	id            replayID
	send, receive hash.Hash
}

// NewTLSAuth makes the wrap of tls-auth with a profile's digest.
func NewTLSAuth(key *StaticKey, d Direction, digest func() hash.Hash, now func() time.Time) *TLSAuth {
	send, receive := d.halves()
	size := digest().Size()
	return &TLSAuth{
		id:      replayID{now: now},
		send:    hmac.New(digest, key.HMAC(send)[:size]),
		receive: hmac.New(digest, key.HMAC(receive)[:size]),
	}
}

// Overhead is the HMAC and the replay id.
func (w *TLSAuth) Overhead() int { return w.send.Size() + replayIDSize }

func (w *TLSAuth) sum(mac hash.Hash, id, clear, body []byte) []byte {
	mac.Reset()
	mac.Write(id)
	mac.Write(clear)
	mac.Write(body)
	return mac.Sum(nil)
}

// Seal signs p.
func (w *TLSAuth) Seal(p *Packet) []byte {
	id, body := w.id.take(), p.Body()
	b := outer(p, w.Overhead())
	b = append(b, w.sum(w.send, id[:], b, body)...)
	b = append(b, id[:]...)
	return append(b, body...)
}

// Open checks the signature.
func (w *TLSAuth) Open(packet []byte) ([]byte, error) {
	if len(packet) < OuterSize+w.Overhead() {
		return nil, fmt.Errorf("%w: %d bytes", ErrMalformed, len(packet))
	}
	clear, rest := packet[:OuterSize], packet[OuterSize:]
	size := w.receive.Size()
	mac, id, body := rest[:size], rest[size:size+replayIDSize], rest[size+replayIDSize:]
	if !hmac.Equal(mac, w.sum(w.receive, id, clear, body)) {
		return nil, ErrAuthentication
	}
	if !w.id.seen.Fresh(counter(id)) {
		return nil, ErrReplay
	}
	w.id.seen.Mark(counter(id))
	return body, nil
}

const (
	tagSize = sha256.Size

	// earlyNegotiation is where the replay ids of a tls-crypt-v2 client start: it tells the server that the client
	// understands its cookie.
	earlyNegotiation = 0x0f000000
)

// TLSCrypt signs and encrypts packets.
type TLSCrypt struct {
	id                      replayID
	sendMAC, receiveMAC     hash.Hash
	sendBlock, receiveBlock cipher.Block
}

// NewTLSCrypt makes the wrap of tls-crypt. A client is Inverse.
func NewTLSCrypt(key *StaticKey, d Direction, now func() time.Time) (*TLSCrypt, error) {
	send, receive := d.halves()
	sendBlock, err := aes.NewCipher(key.Cipher(send)[:32])
	if err != nil {
		return nil, fmt.Errorf("tls-crypt: %w", err)
	}
	receiveBlock, err := aes.NewCipher(key.Cipher(receive)[:32])
	if err != nil {
		return nil, fmt.Errorf("tls-crypt: %w", err)
	}
	return &TLSCrypt{
		id:           replayID{now: now},
		sendMAC:      hmac.New(sha256.New, key.HMAC(send)[:32]),
		receiveMAC:   hmac.New(sha256.New, key.HMAC(receive)[:32]),
		sendBlock:    sendBlock,
		receiveBlock: receiveBlock,
	}, nil
}

// NewTLSCryptV2 makes the wrap of a tls-crypt-v2 client.
func NewTLSCryptV2(key *StaticKey, now func() time.Time) (*TLSCrypt, error) {
	w, err := NewTLSCrypt(key, Inverse, now)
	if err != nil {
		return nil, err
	}
	w.id.time = uint32(now().Unix())
	w.id.next = earlyNegotiation
	return w, nil
}

// Overhead is the replay id and the tag.
func (w *TLSCrypt) Overhead() int { return replayIDSize + tagSize }

// Seal signs and encrypts p.
func (w *TLSCrypt) Seal(p *Packet) []byte {
	id, body := w.id.take(), p.Body()
	b := append(outer(p, w.Overhead()), id[:]...)
	w.sendMAC.Reset()
	w.sendMAC.Write(b)
	w.sendMAC.Write(body)
	tag := w.sendMAC.Sum(nil)
	b = append(b, tag...)
	cipher.NewCTR(w.sendBlock, tag[:aes.BlockSize]).XORKeyStream(body, body)
	return append(b, body...)
}

// Open decrypts packet and checks its tag.
func (w *TLSCrypt) Open(packet []byte) ([]byte, error) {
	if len(packet) < OuterSize+w.Overhead() {
		return nil, fmt.Errorf("%w: %d bytes", ErrMalformed, len(packet))
	}
	clear, tag := packet[:OuterSize+replayIDSize], packet[OuterSize+replayIDSize:][:tagSize]
	body := make([]byte, len(packet)-OuterSize-w.Overhead())
	cipher.NewCTR(w.receiveBlock, tag[:aes.BlockSize]).XORKeyStream(body, packet[OuterSize+w.Overhead():])
	w.receiveMAC.Reset()
	w.receiveMAC.Write(clear)
	w.receiveMAC.Write(body)
	if !hmac.Equal(tag, w.receiveMAC.Sum(nil)) {
		return nil, ErrAuthentication
	}
	id := counter(packet[OuterSize:])
	if !w.id.seen.Fresh(id) {
		return nil, ErrReplay
	}
	w.id.seen.Mark(id)
	return body, nil
}
