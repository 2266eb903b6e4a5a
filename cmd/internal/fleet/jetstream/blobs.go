package jetstream

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"penstock/cmd/internal/fleet/store"
)

// quiet is how long a chunk of an object may take. Some may be missing.
const quiet = 20 * time.Second

// infoPatience bounds the pauses before it is asked again for an object that a server does not know.
const infoPatience = 500 * time.Millisecond

const (
	blobs       = "blobs"        // the object store
	blobsStream = "OBJ_" + blobs // its stream
	blobsMeta   = "$O.blobs.M."  // subjects that say what an object is
	blobsChunks = "$O.blobs.C."  // subjects of the content of objects
	blobsGet    = "$JS.API.DIRECT.GET." + blobsStream + "." + blobsMeta + "*"
)

// objects runs f with the object store for blobs, which it makes if it is missing.
func (s *Store) objects(ctx context.Context, f func(*link, jetstream.Stream, jetstream.ObjectStore) error) error {
	l, err := s.connection(ctx)
	if err != nil {
		return err
	}
	create := func(ctx context.Context) error {
		_, err := l.js.CreateObjectStore(ctx, jetstream.ObjectStoreConfig{Bucket: blobs, Replicas: s.config.NATS.Replicas})
		return err
	}
	return l.withStream(ctx, blobsStream, create, func(stream jetstream.Stream) error {
		var o jetstream.ObjectStore
		err := l.askAPI(ctx, "$JS.API.STREAM.INFO."+blobsStream, func(ctx context.Context) (err error) {
			o, err = l.js.ObjectStore(ctx, blobs)
			return err
		})
		if err != nil {
			return err
		}
		return f(l, stream, o)
	})
}

// PublishBlob stores what it reads as an object that is named by its digest. It keeps it in a temporary file meanwhile, because the
// digest is known only at the end.
func (s *Store) PublishBlob(ctx context.Context, r io.Reader) (store.Digest, error) {
	f, err := os.CreateTemp("", "penstock-blob-*")
	if err != nil {
		return store.Digest{}, err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	sum := sha256.New()
	if _, err := io.Copy(io.MultiWriter(f, sum), reader{ctx, r}); err != nil {
		return store.Digest{}, err
	}
	d := store.Digest(sum.Sum(nil))
	switch err := s.fetchBlob(ctx, d, io.Discard, 0); { // mostly it is not there, and publishing it twice does no harm
	case err == nil: // it is there
		return d, nil
	case !errors.Is(err, store.ErrNone) && !errors.Is(err, errDamaged):
		return store.Digest{}, err
	}
	err = s.objects(ctx, func(l *link, _ jetstream.Stream, o jetstream.ObjectStore) error {
		if _, err := f.Seek(0, io.SeekStart); err != nil {
			return err
		}
		return l.ask(ctx, "$O.blobs.*", func(ctx context.Context) error {
			_, err := o.Put(ctx, jetstream.ObjectMeta{Name: d.String()}, f)
			return err
		})
	})
	if err != nil {
		return store.Digest{}, fmt.Errorf("publish blob %s: %w", d, err)
	}
	return d, nil
}

var errDamaged = errors.New("its content is not what its digest says: publish it again")

// FetchBlob writes an object to w. If a server or the connection is lost meanwhile, it goes on where it was.
func (s *Store) FetchBlob(ctx context.Context, d store.Digest, w io.Writer) error {
	return s.fetchBlob(ctx, d, w, infoPatience)
}

// fetchBlob is FetchBlob that waits some time for an object that is not known yet.
func (s *Store) fetchBlob(ctx context.Context, d store.Digest, w io.Writer, patience time.Duration) error {
	c := content{sum: sha256.New(), w: w}
	for failures := 0; ; {
		before := c.last
		err := s.objects(ctx, func(l *link, stream jetstream.Stream, o jetstream.ObjectStore) error {
			info, err := l.info(ctx, o, d, patience)
			if err != nil {
				return err
			}
			return l.fetch(ctx, stream, info, &c)
		})
		switch {
		case err == nil && store.Digest(c.sum.Sum(nil)) != d:
			err = errDamaged
		case err == nil:
			return nil
		case c.last > before && ctx.Err() == nil && c.fault == nil:
			failures = 0
			continue
		case c.last > 0 && failures < mostTries && ctx.Err() == nil && c.fault == nil && !errors.Is(err, store.ErrNone):
			failures++
			continue
		}
		return fmt.Errorf("blob %s: %w", d, err)
	}
}

// fetch reads an object from where c is on. The object store's own Get could do so, but a server could send it what it likes without
// being asked, and it needs more rights than to read.
func (l *link) fetch(ctx context.Context, stream jetstream.Stream, info *jetstream.ObjectInfo, c *content) error {
	if c.object == "" {
		c.object, c.waiting = info.NUID, info.Chunks
	}
	if c.object != info.NUID {
		return errors.New("somebody has published it again meanwhile")
	}
	if c.waiting == 0 {
		return nil
	}
	chunks := blobsChunks + info.NUID
	if info.Chunks == 1 {
		// A consumer would stay for some time, and a stream may have a thousand. A gateway may be forbidden to read without one.
		err := l.ask(ctx, "$JS.API.DIRECT.GET."+blobsStream+"."+chunks, func(ctx context.Context) error {
			m, err := stream.GetLastMsgForSubject(ctx, chunks)
			if err != nil {
				return err
			}
			return c.add(m.Data, m.Sequence)
		})
		// A server that is behind may not have it yet. A consumer is served by the one that has all.
		if !errors.Is(err, store.ErrForbidden) && !errors.Is(err, jetstream.ErrMsgNotFound) {
			return err
		}
	}
	from := jetstream.ConsumerConfig{DeliverPolicy: jetstream.DeliverAllPolicy}
	if c.last > 0 {
		from = jetstream.ConsumerConfig{DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: c.last + 1}
	}
	return l.read(ctx, blobsStream, []string{chunks}, from, reading{start: func(uint64) {}, take: c.take, longest: quiet})
}

// info returns what is known of an object. A server that is behind does not know the newest ones, so it asks some times.
func (l *link) info(ctx context.Context, o jetstream.ObjectStore, d store.Digest, patience time.Duration) (info *jetstream.ObjectInfo, err error) {
	for pause := 50 * time.Millisecond; ; pause *= 2 {
		err := l.ask(ctx, blobsGet, func(ctx context.Context) (err error) {
			info, err = o.GetInfo(ctx, d.String())
			return err
		})
		switch {
		case !errors.Is(err, jetstream.ErrObjectNotFound):
			return info, err
		case pause > patience:
			return nil, store.ErrNone
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(pause):
		}
	}
}

// content puts an object together.
type content struct {
	sum     hash.Hash
	w       io.Writer
	object  string // the name of its chunks
	waiting uint32 // chunks
	last    uint64 // the sequence number of the last chunk
	fault   error  // of w
}

func (c *content) take(m jetstream.Msg, about *jetstream.MsgMetadata) (more bool, err error) {
	err = c.add(m.Data(), about.Sequence.Stream)
	return c.waiting > 0 && err == nil, err
}

// add adds the next chunk.
func (c *content) add(chunk []byte, sequence uint64) error {
	c.last = sequence
	c.sum.Write(chunk)
	if _, c.fault = c.w.Write(chunk); c.fault != nil {
		return c.fault
	}
	c.waiting--
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
