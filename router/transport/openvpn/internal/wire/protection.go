package wire

import (
	"hash"
	"time"
)

// ProtectionKind is how the control channel is protected.
type ProtectionKind uint8

// Kinds of protection.
const (
	NoProtection ProtectionKind = iota
	TLSAuthKey
	TLSCryptKey
	TLSCryptV2Key
)

// Protection is what a profile says about the protection of the control channel.
type Protection struct {
	Kind      ProtectionKind
	Key       *StaticKey       // nil: none
	Direction Direction        // of tls-auth
	Digest    func() hash.Hash // of tls-auth
	WKC       []byte           // of tls-crypt-v2: the key as the server sealed it for itself
}

// New makes a fresh Wrap for one session.
func (p *Protection) New(now func() time.Time) (Wrap, error) {
	switch p.Kind {
	case TLSAuthKey:
		return NewTLSAuth(p.Key, p.Direction, p.Digest, now), nil
	case TLSCryptKey:
		return NewTLSCrypt(p.Key, Inverse, now)
	case TLSCryptV2Key:
		return NewTLSCryptV2(p.Key, now)
	}
	return Plain{}, nil
}
