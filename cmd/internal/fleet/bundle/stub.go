package bundle

import (
	"errors"

	"penstock/cmd/internal/fleet/store"
)

// PublicKey is an operator's Ed25519 public key.
type PublicKey [32]byte

// ParsePublicKey reads ed25519: and the key in base64.
func ParsePublicKey(text string) (PublicKey, error) { return PublicKey{}, errors.New("not yet") }

// ParseRecipient reads a gateway's public key, age1...
func ParseRecipient(text string) (string, error) { return text, nil }

// Disk is a folder with bundles.
type Disk struct{ Dir string }

// Accepted is a bundle in force.
type Accepted struct {
	Signed   []byte
	Manifest *Manifest
	Dir      string // where its files are
}

// Current returns the bundle in force.
func (d Disk) Current() (*Accepted, error) { return nil, store.ErrNone }
