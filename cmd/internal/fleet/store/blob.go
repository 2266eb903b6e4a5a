package store

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// blobs is the folder of a Dir that has them.
const blobs = "blobs"

// chunk is how much of a blob is read or written at once, bytes.
const chunk = 256 << 10

// removeLimit is how long PublishBlob waits, after its context has ended, until what it has written is removed.
const removeLimit = time.Second

// PublishBlob stores what it reads in a file that is named by its digest.
func (d *Dir) PublishBlob(ctx context.Context, r io.Reader) (Digest, error) {
	opened := make(chan *os.File, 1)
	folder := filepath.Join(d.root, blobs)
	err := d.within(ctx, func() error {
		if err := os.Mkdir(folder, 0o770); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		f, err := makeTemp(folder)
		opened <- f
		return err
	})
	if err != nil {
		return Digest{}, forbidden(err)
	}
	f := <-opened
	hash := sha256.New()
	_, err = io.CopyBuffer(io.MultiWriter(file{ctx, d, f}, hash), reader{ctx, r}, make([]byte, chunk))
	digest := Digest(hash.Sum(nil))
	end := ctx
	if err != nil { // what was written is removed, also if ctx has ended
		var cancel context.CancelFunc
		end, cancel = context.WithTimeout(context.WithoutCancel(ctx), removeLimit)
		defer cancel()
	}
	// An equal file that is there is replaced: it may be damaged.
	if err := d.within(end, func() error { return commit(f, filepath.Join(folder, digest.String()), true, err) }); err != nil {
		return Digest{}, forbidden(err)
	}
	return digest, nil
}

// FetchBlob reads the file of a blob.
func (d *Dir) FetchBlob(ctx context.Context, digest Digest, w io.Writer) error {
	path := filepath.Join(d.root, blobs, digest.String())
	opened := make(chan *os.File, 1)
	err := d.within(ctx, func() error {
		info, err := os.Stat(path)
		if err == nil && !info.Mode().IsRegular() {
			return fmt.Errorf("%s is not a file", path)
		}
		f, err := os.Open(path)
		opened <- f
		return err
	})
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("blob %s: %w", digest, ErrNone)
	} else if err != nil {
		return err
	}
	f := <-opened
	defer f.Close()
	hash := sha256.New()
	if _, err := io.CopyBuffer(io.MultiWriter(w, hash), file{ctx, d, f}, make([]byte, chunk)); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if Digest(hash.Sum(nil)) != digest {
		return fmt.Errorf("%s: its content is not what its name says: publish it again", path)
	}
	return nil
}

// reader reads until its context ends.
type reader struct {
	ctx context.Context
	r   io.Reader
}

func (r reader) Read(p []byte) (int, error) {
	if r.ctx.Err() != nil {
		return 0, context.Cause(r.ctx)
	}
	return r.r.Read(p)
}

// file is a file of a Dir whose file system may not answer.
type file struct {
	ctx context.Context
	dir *Dir
	f   *os.File
}

func (f file) Read(p []byte) (n int, err error) {
	read, buffer := make(chan int, 1), make([]byte, len(p))
	err = f.dir.within(f.ctx, func() error {
		n, err := f.f.Read(buffer)
		read <- n
		return err
	})
	select {
	case n = <-read:
		copy(p, buffer[:n])
	default: // the context has ended
	}
	return n, err
}

func (f file) Write(p []byte) (int, error) {
	buffer := bytes.Clone(p)
	if err := f.dir.within(f.ctx, func() error { _, err := f.f.Write(buffer); return err }); err != nil {
		return 0, err
	}
	return len(p), nil
}
