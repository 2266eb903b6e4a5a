// Package bundle makes, signs, checks and unpacks the bundles that a fleet of gateways runs on.
//
// A bundle is a set of files with a manifest: part of a configuration, peers, lists, and secrets that only the gateways can read.
// An operator signs the manifest, which has the digest of every file. Each bundle of a site has a larger generation than those
// before. Where a bundle has been does not matter: it is believed because of its signature alone.
//
// It does not know what the files mean, and neither fetches nor publishes anything.
package bundle

import (
	"context"
	"errors"
	"io"
	"time"

	"penstock/cmd/internal/fleet/store"
)

// Limits of a bundle.
const (
	MaxFiles = 4096
	MaxFile  = 256 << 20 // bytes
	MaxTotal = 1 << 30   // bytes

	MaxSealed = 16 << 20 // bytes of a sealed file
	MaxSigned = 2 << 20  // bytes of a Signed
)

// Manifest says what is in a bundle.
type Manifest struct {
	Format     int       `json:"format"` // 1
	Site       string    `json:"site"`
	Generation uint64    `json:"generation"` // from 1
	Made       time.Time `json:"made"`       // for people; nothing depends on it
	// Signers are who may sign the next bundle, in the place of those who could sign this one.
	Signers []PublicKey `json:"signers"`
	// Gateways are the gateways of the site. What others write is not believed.
	Gateways []Gateway `json:"gateways"`
	Files    []File    `json:"files"` // by name
}

// Gateway is a gateway of a site.
type Gateway struct {
	Name      string `json:"name"`
	Recipient string `json:"recipient"` // its age public key, age1...: secrets are sealed to it
}

// File is a file of a bundle.
type File struct {
	Name   string       `json:"name"` // slash-separated, below the bundle's folder
	Digest store.Digest `json:"digest"`
	Size   int64        `json:"size"`   // bytes, as it is stored
	Sealed bool         `json:"sealed"` // encrypted to the gateways, with age
}

// Errors of bundles that are refused.
var (
	ErrUnsigned = errors.New("no key that is trusted has signed the bundle")
	ErrOld      = errors.New("the bundle is not newer than the one in force")
	ErrSite     = errors.New("the bundle is for another site")
	ErrTooLarge = errors.New("the bundle is too large")
	ErrDamaged  = errors.New("the bundle is damaged")
)

// Fetch writes the bytes of a file as they are stored: sealed, if it is sealed.
type Fetch func(ctx context.Context, f File, w io.Writer) error
