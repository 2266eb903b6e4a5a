package bundle

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"penstock/cmd/internal/fleet/store"
	"penstock/cmd/internal/private"
)

// An archive is a tar file: first bundle.json, which is the Signed, and then blobs/DIGEST for each blob once, by digest. Nothing in it
// depends on when or where it was written.
const (
	signedName = "bundle.json"
	blobFolder = "blobs/"
)

// WriteArchive makes or replaces a file with a bundle and all of its bytes, whole or not at all. Only its owner can read it.
func WriteArchive(ctx context.Context, path string, s Signed, fetch Fetch) error {
	m, err := s.Manifest()
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".penstock-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // after the rename there is none
	if err := writeArchive(ctx, f, s, blobs(m), fetch); err != nil {
		f.Close()
		return err
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	return private.SyncDir(filepath.Dir(path))
}

// blobs returns one file for each digest, by digest.
func blobs(m *Manifest) []File {
	files := slices.Clone(m.Files)
	slices.SortStableFunc(files, func(a, b File) int { return bytes.Compare(a.Digest[:], b.Digest[:]) })
	return slices.CompactFunc(files, func(a, b File) bool { return a.Digest == b.Digest })
}

func writeArchive(ctx context.Context, w io.Writer, s Signed, files []File, fetch Fetch) error {
	t := tar.NewWriter(w)
	if err := t.WriteHeader(header(signedName, int64(len(s)))); err != nil {
		return err
	}
	if _, err := t.Write(s); err != nil {
		return err
	}
	for _, f := range files {
		if err := t.WriteHeader(header(blobFolder+f.Digest.String(), f.Size)); err != nil {
			return err
		}
		if err := checked(f, t, func(w io.Writer) error { return fetch(ctx, f, w) }); err != nil {
			return err
		}
	}
	return t.Close()
}

func header(name string, size int64) *tar.Header {
	return &tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o600, Size: size, Format: tar.FormatUSTAR}
}

// Archive is a file with a bundle that is open.
type Archive struct {
	signed Signed
	at     map[store.Digest]int64 // where the bytes of a blob begin
	r      io.ReaderAt
	close  func() error
}

// OpenArchive opens what WriteArchive wrote. Its signature is not looked at. The caller must call Close.
func OpenArchive(path string) (*Archive, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a file", path)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	a, err := readArchive(f, info.Size())
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	a.close = f.Close
	return a, nil
}

// readArchive reads where what is. It keeps r.
func readArchive(r io.ReaderAt, size int64) (*Archive, error) {
	whole := io.NewSectionReader(r, 0, size)
	t := tar.NewReader(whole)
	length, err := next(t, signedName)
	if err != nil {
		return nil, err
	}
	if length > MaxSigned {
		return nil, fmt.Errorf("%w: %s has %d bytes, and may have %d", ErrTooLarge, signedName, length, MaxSigned)
	}
	a := &Archive{at: make(map[store.Digest]int64), r: r, close: func() error { return nil }}
	if a.signed, err = io.ReadAll(t); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	m, err := a.signed.Manifest()
	if err != nil {
		return nil, err
	}
	for _, f := range blobs(m) {
		name := blobFolder + f.Digest.String()
		length, err := next(t, name)
		if err != nil {
			return nil, err
		}
		at, err := whole.Seek(0, io.SeekCurrent)
		switch {
		case err != nil:
			return nil, err
		case length != f.Size || at+length > size:
			return nil, fmt.Errorf("%w: %s of it has %d bytes, and the manifest says %d", ErrDamaged, name, min(length, size-at), f.Size)
		}
		a.at[f.Digest] = at
	}
	if h, err := t.Next(); !errors.Is(err, io.EOF) {
		if err == nil {
			err = fmt.Errorf("the manifest does not have %q", shortened(h.Name))
		}
		return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return a, nil
}

// next goes to the next file of a tar file, which must be of that name, and returns its length.
func next(t *tar.Reader, name string) (int64, error) {
	h, err := t.Next()
	switch {
	case errors.Is(err, io.EOF):
		return 0, fmt.Errorf("%w: it ends where %s was to come", ErrDamaged, name)
	case err != nil:
		return 0, fmt.Errorf("%w: this is not a .bundle file, or not all of one: %w", ErrDamaged, err)
	case h.Name != name || h.Typeflag != tar.TypeReg || len(h.PAXRecords) > 0 || h.Format&tar.FormatUSTAR == 0:
		return 0, fmt.Errorf("%w: it has %q where %s was to come", ErrDamaged, shortened(h.Name), name)
	}
	return h.Size, nil
}

// Signed returns the bundle, whoever has signed it.
func (a *Archive) Signed() Signed { return a.signed }

// Fetch writes the bytes of a file. It is a Fetch. The error is ErrDamaged if they are not what the manifest says.
func (a *Archive) Fetch(ctx context.Context, f File, w io.Writer) error {
	at, ok := a.at[f.Digest]
	if !ok {
		return fmt.Errorf("%s: %w", f.Name, store.ErrNone)
	}
	return checked(f, w, func(w io.Writer) error {
		return copyUntil(ctx, w, io.NewSectionReader(a.r, at, f.Size))
	})
}

// Close closes the file. Fetch does not work any more.
func (a *Archive) Close() error { return a.close() }
