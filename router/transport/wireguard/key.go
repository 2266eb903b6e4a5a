package wireguard

import (
	"crypto/ecdh"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"

	"golang.org/x/crypto/curve25519"
)

// keySize is the length of every WireGuard key, in bytes: Curve25519 points and scalars, and the symmetric preshared key.
const keySize = 32

// PrivateKey is the Curve25519 secret of one side. It prints, logs and marshals as "(redacted)"; only Reveal shows it.
// The zero value is no key. Comparing keys with == does not take constant time.
type PrivateKey struct{ secret }

// PresharedKey is a symmetric secret that two peers mix into their handshake. It is redacted like a PrivateKey. The zero
// value means that they share none.
type PresharedKey struct{ secret }

// PublicKey identifies a peer. The zero value is no key.
type PublicKey [keySize]byte

// GeneratePrivateKey makes a new private key, as wg genkey does.
func GeneratePrivateKey() PrivateKey {
	var k PrivateKey
	rand.Read(k.secret[:]) // never fails: crypto/rand, Go 1.24
	// Clamped (RFC 7748, 5), so that other programs print the same key as we do.
	k.secret[0] &= 248
	k.secret[31] = k.secret[31]&127 | 64
	return k
}

// GeneratePresharedKey makes a new preshared key, as wg genpsk does.
func GeneratePresharedKey() PresharedKey {
	var k PresharedKey
	rand.Read(k.secret[:])
	return k
}

// ParsePrivateKey reads the base64 form that files use. Its errors do not repeat the key.
func ParsePrivateKey(s string) (PrivateKey, error) {
	b, err := parseKey(s)
	return PrivateKey{secret(b)}, err
}

// ParsePresharedKey reads the base64 form that files use. Its errors do not repeat the key.
func ParsePresharedKey(s string) (PresharedKey, error) {
	b, err := parseKey(s)
	return PresharedKey{secret(b)}, err
}

// ParsePublicKey reads the base64 form that files use.
func ParsePublicKey(s string) (PublicKey, error) {
	b, err := parseKey(s)
	return PublicKey(b), err
}

// Public returns the public key of k.
func (k PrivateKey) Public() PublicKey {
	var public, private [keySize]byte = [keySize]byte{}, k.secret
	curve25519.ScalarBaseMult(&public, &private)
	return public
}

// IsZero reports whether k is no key.
func (k PublicKey) IsZero() bool { return k == PublicKey{} }

// Check returns what is wrong with a key that comes from somebody who is not trusted. A key of low order would make a session without a
// secret, and one that is not written in the only way that WireGuard writes it could pass for another's.
func (k PublicKey) Check() error {
	if k[31]&0x80 != 0 || k[31] == 0x7f && k[0] >= 0xed && !slices.ContainsFunc(k[1:31], func(b byte) bool { return b != 0xff }) {
		return errors.New("the key is not a number below 2^255-19")
	}
	public, err := ecdh.X25519().NewPublicKey(k[:])
	if err != nil {
		return err
	}
	probe, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	_, err = probe.ECDH(public) // an error for a key of low order (RFC 7748, 6.1)
	return err
}

// String returns the base64 form that files use.
func (k PublicKey) String() string { return base64.StdEncoding.EncodeToString(k[:]) }

// MarshalText returns what String does.
func (k PublicKey) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// UnmarshalText does what ParsePublicKey does.
func (k *PublicKey) UnmarshalText(text []byte) error {
	parsed, err := ParsePublicKey(string(text))
	if err != nil {
		return err
	}
	*k = parsed
	return nil
}

// secret is the common part of private and preshared keys: only Reveal shows it.
type secret [keySize]byte

// Reveal returns the key in the base64 form that files use.
func (s secret) Reveal() string { return base64.StdEncoding.EncodeToString(s[:]) }

// IsZero reports whether there is no key.
func (s secret) IsZero() bool { return s == secret{} }

// String says whether there is a key, but not which.
func (s secret) String() string {
	if s.IsZero() {
		return "(none)"
	}
	return "(redacted)"
}

// GoString returns what String does.
func (s secret) GoString() string { return s.String() }

// Format prints what String returns for every verb: %x and %d would print the bytes otherwise.
func (s secret) Format(f fmt.State, _ rune) { io.WriteString(f, s.String()) }

// LogValue returns what String does.
func (s secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// MarshalText returns what String does, so a struct with a key can be dumped but not read back.
func (s secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// hex returns the key in the form that the device reads.
func (s secret) hex() string { return hex.EncodeToString(s[:]) }

// parseKey decodes 32 bytes of strict base64. Its errors contain no part of s.
func parseKey(s string) ([keySize]byte, error) {
	const encoded = 44 // characters of 32 bytes in base64
	if len(s) != encoded {
		return [keySize]byte{}, fmt.Errorf("key has %d characters, want %d of base64", len(s), encoded)
	}
	b, err := base64.StdEncoding.Strict().DecodeString(s)
	if err != nil || len(b) != keySize {
		return [keySize]byte{}, errors.New("key is not base64 of 32 bytes")
	}
	if [keySize]byte(b) == [keySize]byte{} {
		return [keySize]byte{}, errors.New("key is all zeros, which is not a key")
	}
	return [keySize]byte(b), nil
}
