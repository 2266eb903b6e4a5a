package bundle

import (
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"slices"
	"time"
)

// What a signature is of begins with one of these, so that it is never taken for one of something else.
const (
	bundleDomain = "penstock fleet bundle 1\n"
	changeDomain = "penstock fleet peer change 1\n"
)

const mostSignatures = 16

// Signed is a manifest, or a Change, with its signatures, as JSON.
type Signed []byte

// envelope is what is in a Signed.
type envelope struct {
	Signed     []byte      `json:"signed"` // the exact bytes
	Signatures []signature `json:"signatures"`
}

type signature struct {
	Key       PublicKey `json:"key"`
	Signature []byte    `json:"signature"` // Ed25519, of the domain and the exact bytes
}

// good reports whether a signature is the key's.
func (s signature) good(domain string, text []byte) bool {
	return s.Key != (PublicKey{}) && ed25519.Verify(s.Key[:], append([]byte(domain), text...), s.Signature)
}

// Sign checks a manifest and signs it. Files must have their digests and sizes; Format may be zero.
func Sign(m Manifest, key PrivateKey) (Signed, error) {
	m.Format = format
	m.Made = m.Made.UTC().Truncate(time.Second)
	if err := m.check(); err != nil {
		return nil, err
	}
	return sign(bundleDomain, m, key, MaxSigned)
}

// sign signs a value as JSON.
func sign(domain string, v any, key PrivateKey, most int) (Signed, error) {
	if key.key == nil {
		return nil, fmt.Errorf("there is no key to sign with")
	}
	text, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	signed, err := json.Marshal(envelope{text, []signature{{key.Public(), ed25519.Sign(key.key, append([]byte(domain), text...))}}})
	if err != nil {
		return nil, err
	}
	if signed = append(signed, '\n'); len(signed) > most {
		return nil, fmt.Errorf("%w: it has %d bytes with its signature, and may have %d", ErrTooLarge, len(signed), most)
	}
	return signed, nil
}

// open reads an envelope.
func (s Signed) open(most int) (*envelope, error) {
	if len(s) > most {
		return nil, fmt.Errorf("%w: it has %d bytes with its signature, and may have %d", ErrTooLarge, len(s), most)
	}
	var e envelope
	if err := strict(s, &e); err != nil {
		return nil, fmt.Errorf("%w: what is signed cannot be read: %w", ErrDamaged, err)
	}
	if len(e.Signatures) > mostSignatures {
		return nil, fmt.Errorf("%w: it has %d signatures, and at most %d are read", ErrTooLarge, len(e.Signatures), mostSignatures)
	}
	return &e, nil
}

// verify returns the exact bytes that one of the trusted keys has signed.
func (s Signed) verify(domain string, trusted []PublicKey, most int) ([]byte, error) {
	e, err := s.open(most)
	if err != nil {
		return nil, err
	}
	for _, sig := range e.Signatures {
		if slices.Contains(trusted, sig.Key) && sig.good(domain, e.Signed) {
			return e.Signed, nil
		}
	}
	if len(e.Signatures) == 0 {
		return nil, fmt.Errorf("%w: it has no signature", ErrUnsigned)
	}
	if sig := e.Signatures[0]; !slices.Contains(trusted, sig.Key) {
		return nil, fmt.Errorf("%w: %s has, which is not among the %d keys that may", ErrUnsigned, sig.Key, len(trusted))
	}
	return nil, fmt.Errorf("%w: the signature is not of these bytes", ErrUnsigned)
}

// Verify returns the manifest if one of the trusted keys has signed it and all of it is well-formed. The error is one of those of this
// package, or says that a newer penstock is needed.
func (s Signed) Verify(trusted []PublicKey) (*Manifest, error) {
	text, err := s.verify(bundleDomain, trusted, MaxSigned)
	if err != nil {
		return nil, err
	}
	return parseManifest(text)
}

// Manifest returns the manifest, whoever has signed it. It is for messages, and for bundles that were verified before.
func (s Signed) Manifest() (*Manifest, error) {
	e, err := s.open(MaxSigned)
	if err != nil {
		return nil, err
	}
	return parseManifest(e.Signed)
}

// SignedBy returns the keys whose signatures are good, trusted or not.
func (s Signed) SignedBy() ([]PublicKey, error) {
	e, err := s.open(MaxSigned)
	if err != nil {
		return nil, err
	}
	var keys []PublicKey
	for _, sig := range e.Signatures {
		if sig.good(bundleDomain, e.Signed) && !slices.Contains(keys, sig.Key) {
			keys = append(keys, sig.Key)
		}
	}
	return keys, nil
}
