package datakey

import (
	"crypto/aes"
	"crypto/cipher"
	"errors"
	"fmt"

	"golang.org/x/crypto/chacha20poly1305"

	"penstock/router/transport/openvpn/internal/wire"
)

// Errors of a Key. None of them ends a session: the packet is dropped.
var (
	ErrShort          = errors.New("data packet is too short, or has no room behind it")
	ErrAuthentication = errors.New("data packet does not authenticate")
	ErrReplay         = errors.New("data packet was seen before")
	ErrExhausted      = errors.New("data key is used up")
)

// Cipher is the name of a data cipher as it is negotiated.
type Cipher string

// The data ciphers, all AEAD.
const (
	AES128GCM Cipher = "AES-128-GCM"
	AES192GCM Cipher = "AES-192-GCM"
	AES256GCM Cipher = "AES-256-GCM"
	ChaCha20  Cipher = "CHACHA20-POLY1305"
)

// Known reports whether c is one of the ciphers.
func (c Cipher) Known() bool { return c.keySize() > 0 }

func (c Cipher) keySize() int {
	switch c {
	case AES128GCM:
		return 16
	case AES192GCM:
		return 24
	case AES256GCM, ChaCha20:
		return 32
	}
	return 0
}

func (c Cipher) aead(key []byte) (cipher.AEAD, error) {
	if c == ChaCha20 {
		return chacha20poly1305.New(key)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

const (
	tagSize   = 16
	nonceSize = 12

	// MaxHead is the most that stands in front of a plaintext, in bytes.
	MaxHead = 4 + 4 + tagSize
	// Tail is how many bytes must be free behind a plaintext while it is sealed or opened.
	Tail = tagSize

	// AEAD limits, by the reference's crypto.c: GCM counts packets and blocks, and nonces must not run out.
	maxGCMUse     = 1<<36 - 1
	softGCMUse    = maxGCMUse / 8 * 7
	softCounter   = 0xFF000000
	maxCounter    = 0xFFFFFFFF
	maxOpenErrors = 1 << 36
)

// Key protects the data packets of one key id. Seal must not run twice at the same time, nor Open; the two may overlap.
type Key interface {
	// Head is how many bytes of a packet stand in front of its plaintext.
	Head() int
	// Seal turns packet, Head() free bytes and the plaintext, into the packet to send, in the same memory: its capacity
	// must reach Tail bytes beyond its length.
	Seal(packet []byte) ([]byte, error)
	// Open returns the plaintext of packet, in its memory and Head() bytes into it. Packet's capacity must reach Tail
	// bytes beyond its length; what lies there is kept.
	Open(packet []byte) ([]byte, error)
	// Spent reports that the limits are near: renegotiate.
	Spent() bool
}

// Params describe a Key.
type Params struct {
	Cipher Cipher
	Epoch  bool // the epoch data format
	KeyID  uint8
	PeerID uint32 // 24 bits
	V2     bool   // the peer id travels in the header
	Server bool   // the server's side
}

// New makes a key from 256 bytes of material.
func New(material *wire.StaticKey, p Params) (Key, error) {
	if !p.Cipher.Known() {
		return nil, fmt.Errorf("unknown data cipher %q", p.Cipher)
	}
	direction := wire.Normal
	if p.Server {
		direction = direction.Reverse()
	}
	if p.Epoch {
		return newEpochKey(material, direction, p)
	}
	return newClassicKey(material, direction, p)
}

// head makes the clear bytes in front of the packet id.
func (p Params) head() []byte {
	if !p.V2 {
		return []byte{wire.Header(wire.DataV1, p.KeyID)}
	}
	return []byte{wire.Header(wire.DataV2, p.KeyID), byte(p.PeerID >> 16), byte(p.PeerID >> 8), byte(p.PeerID)}
}

// use counts what one direction of a key has protected.
type use struct {
	gcm bool
	n   uint64 // packets and 16-byte blocks
}

func (u *use) add(plaintext int) {
	if u.gcm {
		u.n += 1 + uint64(plaintext+15)/16
	}
}
