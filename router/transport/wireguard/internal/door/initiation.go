package door

import (
	"bytes"
	"encoding/binary"
	"errors"

	"golang.org/x/crypto/blake2s"
	"golang.org/x/crypto/chacha20poly1305"
	"golang.org/x/crypto/curve25519"
	"golang.zx2c4.com/wireguard/device"
)

// Where the fields of a handshake initiation are (WireGuard whitepaper, 5.4.2), bytes.
const (
	ephemeralAt = 8
	staticAt    = ephemeralAt + device.NoisePublicKeySize
	stampAt     = staticAt + device.NoisePublicKeySize + chacha20poly1305.Overhead
	stampSize   = 12 // TAI64N
	mac1At      = stampAt + stampSize + chacha20poly1305.Overhead
	mac2At      = mac1At + blake2s.Size128
)

// Moment is the time in a handshake initiation, as TAI64N, which compares like bytes. The zero value is before all others.
type Moment [stampSize]byte

// After reports whether m is later than other.
func (m Moment) After(other Moment) bool { return bytes.Compare(m[:], other[:]) > 0 }

// isInitiation reports whether a datagram looks like a handshake initiation.
func isInitiation(packet []byte) bool {
	return len(packet) == device.MessageInitiationSize && binary.LittleEndian.Uint32(packet) == device.MessageInitiationType
}

// hasMAC2 reports whether the sender of an initiation has a cookie, or wants it to look so.
func hasMAC2(packet []byte) bool {
	return binary.LittleEndian.Uint64(packet[mac2At:])|binary.LittleEndian.Uint64(packet[mac2At+8:]) != 0
}

// isAnswer reports whether a datagram answers a handshake initiation.
func isAnswer(packet []byte) bool {
	return isResponse(packet) || len(packet) == device.MessageCookieReplySize && binary.LittleEndian.Uint32(packet) == device.MessageCookieReplyType
}

// sender returns the index that the sender of an initiation or a response has given to its side of the session.
func sender(packet []byte) uint32 { return binary.LittleEndian.Uint32(packet[4:]) }

// receiver returns the index in an answer that its receiver has given.
func receiver(answer []byte) uint32 {
	if len(answer) == device.MessageCookieReplySize {
		return binary.LittleEndian.Uint32(answer[4:])
	}
	return binary.LittleEndian.Uint32(answer[8:])
}

// isResponse reports whether a datagram ends a handshake that a peer has begun.
func isResponse(packet []byte) bool {
	return len(packet) == device.MessageResponseSize && binary.LittleEndian.Uint32(packet) == device.MessageResponseType
}

var errUnreadable = errors.New("not a handshake initiation for this key")

// reader reads handshake initiations as the one that they are for does (Noise IKpsk2, first message). It answers none.
type reader struct {
	private device.NoisePrivateKey
	hash    [blake2s.Size]byte // of the protocol's name and our public key
}

func newReader(private device.NoisePrivateKey, public device.NoisePublicKey) *reader {
	return &reader{private: private, hash: mixHash(device.InitialHash[:], public[:])}
}

// opened is an initiation of which the caller's key is read.
type opened struct {
	caller device.NoisePublicKey // claimed: anybody who knows it can claim it, until the time is read
	chain  [blake2s.Size]byte
	hash   [blake2s.Size]byte
}

// open reads who has sent an initiation. It takes one X25519.
func (r *reader) open(packet []byte) (o opened, err error) {
	ephemeral, static := packet[ephemeralAt:staticAt], packet[staticAt:stampAt]
	o.hash = mixHash(r.hash[:], ephemeral)
	device.KDF1(&o.chain, device.InitialChainKey[:], ephemeral)
	text, err := r.decrypt(&o, ephemeral, static)
	if err != nil {
		return opened{}, err
	}
	copy(o.caller[:], text)
	return o, nil
}

// moment reads the time in the same packet. Only who has the caller's private key can have written it. It takes one X25519.
func (r *reader) moment(o opened, packet []byte) (m Moment, err error) {
	text, err := r.decrypt(&o, o.caller[:], packet[stampAt:mac1At])
	copy(m[:], text)
	return m, err
}

// decrypt mixes the secret that we share with a public key into o, and decrypts with it.
func (r *reader) decrypt(o *opened, public, sealed []byte) ([]byte, error) {
	shared, err := curve25519.X25519(r.private[:], public)
	if err != nil {
		return nil, errUnreadable
	}
	var key [chacha20poly1305.KeySize]byte
	device.KDF2(&o.chain, &key, o.chain[:], shared)
	aead, err := chacha20poly1305.New(key[:])
	if err != nil {
		return nil, err
	}
	text, err := aead.Open(nil, device.ZeroNonce[:], sealed, o.hash[:])
	if err != nil {
		return nil, errUnreadable
	}
	o.hash = mixHash(o.hash[:], sealed)
	return text, nil
}

func mixHash(hash, data []byte) (sum [blake2s.Size]byte) {
	h, _ := blake2s.New256(nil) // fails only for a key that is too long
	h.Write(hash)
	h.Write(data)
	h.Sum(sum[:0])
	return sum
}
