// Package store is what the gateways of a fleet share: signed bundles, and what each says of itself and of its peers.
//
// A Store keeps small values in buckets and large ones as blobs. It is never believed: who reads a bundle checks its signature,
// and a bucket that is empty or missing means that nothing is known. Dir keeps a store in a folder. Package jetstream keeps one in
// NATS.
//
// It does not know what the values mean.
package store

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"time"
)

// Bucket is a set of values with one purpose, one lifetime, and one set of writers.
type Bucket string

const (
	// Truth has the newest signed bundle of each site, by site. Operators write it. It is durable.
	Truth Bucket = "truth"
	// Peers has signed changes of peers since that bundle, by site.peer. Who may sign them writes it. It is durable.
	Peers Bucket = "peers"
	// State has what each gateway says of itself, by site.gateway. Each gateway writes its own key. It is in memory, and values that
	// are not written again are gone after StateLife.
	State Bucket = "state"
	// Sessions has where peers have a session, in blocks by site.gateway.block. Each gateway writes its own keys. It is in memory, and
	// values that are not written again are gone after SessionLife.
	Sessions Bucket = "sessions"
	// Joins has signed joins to invitations, by site.invitation. Gateways write it. It is durable, and apart from Peers because a
	// gateway in bad hands can empty what it may write.
	Joins Bucket = "joins"
	// Leases has who holds what for how long. Gateways write it. It is durable.
	Leases Bucket = "leases"
)

const (
	// StateLife is how long a value of State lives.
	StateLife = 10 * time.Second
	// SessionLife is how long a value of Sessions lives. A WireGuard session carries for 180 s, and is renewed after 120 s.
	SessionLife = 200 * time.Second
	// MaxValue bounds a value, bytes. What is larger is a blob.
	MaxValue = 512 << 10
)

// Any is the version for Put that replaces whatever is there.
const Any = ^uint64(0)

var (
	// ErrNone is for a key, a bucket or a blob that is not there.
	ErrNone = errors.New("not in the store")
	// ErrConflict is for a value that is not at the version expected: somebody else was faster.
	ErrConflict = errors.New("somebody else has changed it")
	// ErrHeld is for a lease that somebody else holds.
	ErrHeld = errors.New("somebody else holds it")
	// ErrForbidden is for what the store's own access rules refuse.
	ErrForbidden = errors.New("the store does not allow it")
)

// Entry is a value in a bucket.
type Entry struct {
	Key   string // words of a-z, A-Z, 0-9, - and _, joined by dots
	Value []byte // nil: it was removed, or is gone because it was not written again
	// Version is larger than that of every value written to the bucket before, whatever the key. Clocks play no part in it.
	Version uint64
}

// Store is safe for concurrent use. Every method returns when ctx ends at the latest.
type Store interface {
	// Get returns the value of a key, or ErrNone.
	Get(ctx context.Context, b Bucket, key string) (Entry, error)
	// Put writes a value if that of the key is at the version after: 0 if there must be none, Any if that does not matter. Without a
	// value it removes the key. It returns the new version. The error is ErrConflict or ErrForbidden, or says why the store cannot
	// be reached.
	Put(ctx context.Context, b Bucket, key string, value []byte, after uint64) (version uint64, err error)
	// Watch calls changed with each value of a bucket whose key begins with the words of prefix, then once with an Entry without a
	// key, and then with each change. changed must not block. Watch returns when ctx ends, with its error, or when the store can no
	// longer be watched: then call it again.
	Watch(ctx context.Context, b Bucket, prefix string, changed func(Entry)) error
	// Lease takes or renews a lease for a time that the store measures. The error is ErrHeld if another holder has it. A lease with
	// no time left is given back.
	Lease(ctx context.Context, key, holder string, lasts time.Duration) error
	// PublishBlob stores what it reads until EOF. A blob that is there already is not stored twice.
	PublishBlob(ctx context.Context, r io.Reader) (Digest, error)
	// FetchBlob writes a blob to w and checks its digest. After an error, what was written is worth nothing.
	FetchBlob(ctx context.Context, d Digest, w io.Writer) error
}

// Digest is the SHA-256 of a blob.
type Digest [sha256.Size]byte

// String returns the digest in hexadecimal.
func (d Digest) String() string { return hex.EncodeToString(d[:]) }

// MarshalText writes the digest in hexadecimal.
func (d Digest) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText reads what MarshalText writes.
func (d *Digest) UnmarshalText(text []byte) error {
	if len(text) != hex.EncodedLen(len(d)) {
		return fmt.Errorf("a digest has %d hexadecimal digits, not %d characters", hex.EncodedLen(len(d)), len(text))
	}
	_, err := hex.Decode(d[:], text)
	return err
}
