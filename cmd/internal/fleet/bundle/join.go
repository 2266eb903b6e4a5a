package bundle

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
)

const (
	invitationDomain = "penstock fleet invitation 1\n"
	joinDomain       = "penstock fleet join 1\n"

	maxJoin = 1 << 10 // bytes of a signed join
)

// Join says which WireGuard key an invited peer has. The key of the invitation signs it, so only who has the invitation's token can.
type Join struct {
	Site       string    `json:"site"`
	Invitation PublicKey `json:"invitation"` // of the token, as the peer's entry has it
	PublicKey  string    `json:"public_key"` // of WireGuard, base64
}

var (
	// ErrJoined says that somebody has joined with an invitation before.
	ErrJoined = errors.New("somebody has joined with this invitation")
	// ErrAway says that joins cannot be written anywhere now. Nothing has changed.
	ErrAway = errors.New("the store of the fleet cannot be reached")
)

// InvitationKey is the key that the token of an invitation stands for. Whoever knows the public key does not know the token.
func InvitationKey(token [16]byte) PrivateKey {
	seed := sha256.Sum256(append([]byte(invitationDomain), token[:]...))
	return PrivateKey{ed25519.NewKeyFromSeed(seed[:])}
}

// Hex is the key in hexadecimal, for a part of another name.
func (k PublicKey) Hex() string { return hex.EncodeToString(k[:]) }

// ParseHex reads what Hex returns.
func ParseHex(text string) (k PublicKey, ok bool) {
	if len(text) != hex.EncodedLen(len(k)) {
		return k, false
	}
	_, err := hex.Decode(k[:], []byte(text))
	return k, err == nil && k.Hex() == text && k != PublicKey{}
}

// check returns what is wrong with a join.
func (j *Join) check() error {
	if err := checkWord("site", j.Site); err != nil {
		return fmt.Errorf("a join: %w", err)
	}
	raw, err := base64.StdEncoding.Strict().DecodeString(j.PublicKey)
	if err != nil || base64.StdEncoding.EncodeToString(raw) != j.PublicKey || len(raw) != 32 {
		return fmt.Errorf("a join: %q is no public key of WireGuard", shortened(j.PublicKey))
	}
	return nil
}

// SignJoin signs that a WireGuard key is the one of whom the invitation was for.
func SignJoin(site, publicKey string, invitation PrivateKey) (Signed, error) {
	j := Join{Site: site, Invitation: invitation.Public(), PublicKey: publicKey}
	if err := j.check(); err != nil {
		return nil, err
	}
	return sign(joinDomain, j, invitation, maxJoin)
}

// VerifyJoin returns a join if it is one to an invitation of a site, and the invitation's key has signed it. Whether there is such an
// invitation is for the caller to see.
func VerifyJoin(s Signed, site string, invitation PublicKey) (*Join, error) {
	text, err := s.verify(joinDomain, []PublicKey{invitation}, maxJoin)
	if err != nil {
		return nil, fmt.Errorf("a join: %w", err)
	}
	var j Join
	if err := strict(text, &j); err != nil {
		return nil, fmt.Errorf("a join: %w: %w", ErrDamaged, err)
	}
	switch err := j.check(); {
	case err != nil:
		return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	case j.Site != site:
		return nil, fmt.Errorf("%w: a join: it is for site %s, and this is %s", ErrUnsigned, j.Site, site)
	case j.Invitation != invitation:
		return nil, fmt.Errorf("%w: a join: it is for another invitation", ErrUnsigned)
	}
	return &j, nil
}
