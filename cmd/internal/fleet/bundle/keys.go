package bundle

import (
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"strings"

	"filippo.io/age"
)

const (
	publicPrefix  = "ed25519:"
	privatePrefix = "ed25519-private:"
	agePrefix     = "AGE-SECRET-KEY-"
	redacted      = "(redacted)"
)

// PublicKey is an operator's Ed25519 public key. Its text is "ed25519:" and 44 characters of base64.
type PublicKey [ed25519.PublicKeySize]byte

// ParsePublicKey reads the text of a public key.
func ParsePublicKey(text string) (PublicKey, error) {
	var k PublicKey
	encoded, ok := strings.CutPrefix(text, publicPrefix)
	if !ok {
		if strings.HasPrefix(text, privatePrefix) {
			return k, errors.New("this is a private key: its public key is in a comment of its file")
		}
		return k, fmt.Errorf("%q is not an operator's public key: those begin with %s", shortened(text), publicPrefix)
	}
	raw, err := base64.StdEncoding.Strict().DecodeString(encoded)
	if err != nil || len(raw) != len(k) || strings.ContainsAny(encoded, "\r\n") {
		return k, fmt.Errorf("%q is not an operator's public key: after %s stand 44 characters of base64", shortened(text), publicPrefix)
	}
	copy(k[:], raw)
	if k == (PublicKey{}) {
		return k, errors.New("the public key is zero, so that anybody could sign with it")
	}
	return k, nil
}

// String returns the text of the key.
func (k PublicKey) String() string { return publicPrefix + base64.StdEncoding.EncodeToString(k[:]) }

// MarshalText writes the text of the key.
func (k PublicKey) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// UnmarshalText reads what MarshalText writes.
func (k *PublicKey) UnmarshalText(text []byte) error {
	parsed, err := ParsePublicKey(string(text))
	if err == nil {
		*k = parsed
	}
	return err
}

// PrivateKey is an operator's Ed25519 private key. It prints and logs as "(redacted)"; only Reveal shows it.
type PrivateKey struct{ key ed25519.PrivateKey }

// NewPrivateKey makes a private key.
func NewPrivateKey() (PrivateKey, error) {
	_, key, err := ed25519.GenerateKey(nil)
	return PrivateKey{key}, err
}

// ParsePrivateKey reads what Reveal returns. Empty lines and lines that begin with # do not count.
func ParsePrivateKey(text string) (PrivateKey, error) {
	line, err := onlyLine(text)
	if err != nil {
		return PrivateKey{}, fmt.Errorf("an operator's private key: %w", err)
	}
	encoded, ok := strings.CutPrefix(line, privatePrefix)
	switch {
	case strings.HasPrefix(line, agePrefix):
		return PrivateKey{}, errors.New("this is a gateway's key: an operator's is from penstock fleet keygen operator")
	case !ok:
		return PrivateKey{}, fmt.Errorf("this is not an operator's private key: those begin with %s", privatePrefix)
	}
	seed, err := base64.StdEncoding.Strict().DecodeString(encoded)
	if err != nil || len(seed) != ed25519.SeedSize {
		return PrivateKey{}, fmt.Errorf("this is not an operator's private key: after %s stand 44 characters of base64", privatePrefix)
	}
	return PrivateKey{ed25519.NewKeyFromSeed(seed)}, nil
}

// Public returns the public key. The zero PrivateKey has none, and returns zero.
func (k PrivateKey) Public() (p PublicKey) {
	if k.key != nil {
		copy(p[:], k.key.Public().(ed25519.PublicKey))
	}
	return p
}

// Reveal returns the key as its file has it, with the public key in a comment.
func (k PrivateKey) Reveal() string {
	return fmt.Sprintf("# An operator's key of a penstock fleet. Whoever has it can sign bundles.\n# public key: %s\n%s%s\n",
		k.Public(), privatePrefix, base64.StdEncoding.EncodeToString(k.key.Seed()))
}

func (k PrivateKey) String() string { return redacted }

// Format prints what String returns for every verb.
func (k PrivateKey) Format(f fmt.State, _ rune) { io.WriteString(f, redacted) }

// Identity is a gateway's age X25519 key, which opens the secrets that are sealed to it. It prints and logs as "(redacted)"; only
// Reveal shows it.
type Identity struct{ key *age.X25519Identity }

// NewIdentity makes the key of a gateway.
func NewIdentity() (*Identity, error) {
	key, err := age.GenerateX25519Identity()
	if err != nil {
		return nil, err
	}
	return &Identity{key}, nil
}

// ParseIdentity reads what Reveal returns. Empty lines and lines that begin with # do not count.
func ParseIdentity(text string) (*Identity, error) {
	line, err := onlyLine(text)
	if err != nil {
		return nil, fmt.Errorf("a gateway's key: %w", err)
	}
	if strings.HasPrefix(line, privatePrefix) {
		return nil, errors.New("this is an operator's key: a gateway's is from penstock fleet keygen gateway")
	}
	key, err := age.ParseX25519Identity(line)
	if err != nil { // what age says of it may quote it
		return nil, fmt.Errorf("this is not a gateway's key: those are %s1 and 58 characters", agePrefix)
	}
	return &Identity{key}, nil
}

// Recipient returns the public key, age1..., to which secrets are sealed.
func (i *Identity) Recipient() string { return i.key.Recipient().String() }

// Reveal returns the key as its file has it, with the public key in a comment.
func (i *Identity) Reveal() string {
	return fmt.Sprintf("# A gateway's key of a penstock fleet. Whoever has it can read the site's secrets.\n# public key: %s\n%s\n",
		i.Recipient(), i.key)
}

func (i *Identity) String() string { return redacted }

// Format prints what String returns for every verb.
func (i *Identity) Format(f fmt.State, _ rune) { io.WriteString(f, redacted) }

// CheckRecipient returns an error if a text is not a gateway's public key.
func CheckRecipient(text string) error {
	_, err := recipient(text)
	return err
}

// recipient reads a gateway's public key.
func recipient(text string) (age.Recipient, error) {
	if strings.HasPrefix(text, agePrefix) {
		return nil, errors.New("this is a private key: its public key, age1..., is in a comment of its file")
	}
	r, err := age.ParseX25519Recipient(text)
	if err != nil {
		return nil, fmt.Errorf("%q is not a gateway's public key: those are age1 and 58 characters, from penstock fleet keygen gateway", shortened(text))
	}
	return r, nil
}

// onlyLine returns the one line of a text that is neither empty nor a comment.
func onlyLine(text string) (string, error) {
	found := ""
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		if found != "" {
			return "", errors.New("there is more than one line")
		}
		found = line
	}
	if found == "" {
		return "", errors.New("there is none")
	}
	return found, nil
}

// shortened bounds a text that an error quotes.
func shortened(text string) string {
	const most = 80
	if len(text) > most {
		return text[:most] + "..."
	}
	return text
}
