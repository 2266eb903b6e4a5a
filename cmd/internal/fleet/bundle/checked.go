package bundle

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"

	"penstock/cmd/internal/fleet/store"
)

// errLonger ends a fetch that brings more than was announced.
var errLonger = errors.New("longer than announced")

// checked lets fetch write the bytes of a file to w, and checks their number and their digest. No more than the announced number is
// written. After an error, what was written is worth nothing.
func checked(f File, w io.Writer, fetch func(io.Writer) error) error {
	c := &counted{to: w, sum: sha256.New(), left: f.Size}
	err := fetch(c)
	switch {
	case c.longer:
		return fmt.Errorf("%w: %s has more than the %d bytes that the manifest says", ErrDamaged, f.Name, f.Size)
	case c.failed != nil:
		return fmt.Errorf("write %s: %w", f.Name, c.failed)
	case err != nil:
		return fmt.Errorf("fetch %s: %w", f.Name, err)
	case c.left > 0:
		return fmt.Errorf("%w: %s has %d bytes, and the manifest says %d", ErrDamaged, f.Name, f.Size-c.left, f.Size)
	case store.Digest(c.sum.Sum(nil)) != f.Digest:
		return fmt.Errorf("%w: %s has another digest than the manifest says", ErrDamaged, f.Name)
	}
	return nil
}

// counted passes on and hashes what is written, up to a number of bytes. What goes wrong stays, also if the writer does not mind.
type counted struct {
	to     io.Writer
	sum    hash.Hash
	left   int64
	longer bool
	failed error // of to
}

func (c *counted) Write(p []byte) (int, error) {
	if c.failed != nil {
		return 0, c.failed
	}
	if c.longer = c.longer || int64(len(p)) > c.left; c.longer {
		return 0, errLonger
	}
	n, err := c.to.Write(p)
	c.sum.Write(p[:n])
	c.left -= int64(n)
	c.failed = err
	return n, err
}

// copyUntil is io.Copy that ends with ctx.
func copyUntil(ctx context.Context, w io.Writer, r io.Reader) error {
	_, err := io.Copy(w, reader(func(p []byte) (int, error) {
		if err := context.Cause(ctx); err != nil {
			return 0, err
		}
		return r.Read(p)
	}))
	return err
}

type reader func([]byte) (int, error)

func (r reader) Read(p []byte) (int, error) { return r(p) }
