// Package storetest holds what every store.Store must do, for the tests of each.
package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"penstock/cmd/internal/fleet/store"
)

// patience bounds what should happen soon. It is far longer than that.
const patience = time.Minute

// Run checks a store. open returns a new handle on the same store each time; the store is empty at first. settled tells that what one
// handle has written, another reads at once.
func Run(t *testing.T, open func(t *testing.T) store.Store) {
	s := open(t)
	tests := []struct {
		name string
		run  func(*testing.T, store.Store, func(*testing.T) store.Store)
	}{
		{"what is not there is none", testNone},
		{"versions grow over all keys of a bucket", testVersions},
		{"a value is replaced only if nobody was faster", testConflicts},
		{"one of many that race to write wins", testRace},
		{"a key is words, and a value is bounded", testBounds},
		{"a watch has what is there, a marker, and what changes", testWatch},
		{"a watch has the keys below its words only", testPrefix},
		{"a watch of an empty bucket has its marker", testEmpty},
		{"a value that is not written again is gone", testLife},
		{"a lease has one holder", testLease},
		{"one of many that race for a lease wins", testLeaseRace},
		{"a lease that is not renewed is free", testLeaseEnds},
		{"blobs come back as they were", testBlobs},
		{"a call ends with its context", testContext},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) { tt.run(t, s, open) })
	}
}

func testNone(t *testing.T, s store.Store, _ func(*testing.T) store.Store) {
	if e, err := s.Get(t.Context(), store.Truth, "nowhere"); !errors.Is(err, store.ErrNone) {
		t.Errorf("Get of a key that nobody wrote: got %v, %v, want ErrNone", e, err)
	}
	var out bytes.Buffer
	if err := s.FetchBlob(t.Context(), store.Digest{1}, &out); !errors.Is(err, store.ErrNone) {
		t.Errorf("FetchBlob of a blob that nobody published: got %v, want ErrNone", err)
	}
}

func testVersions(t *testing.T, s store.Store, _ func(*testing.T) store.Store) {
	for _, b := range []store.Bucket{store.Truth, store.Peers, store.Joins, store.State, store.Sessions, store.Leases} {
		last := uint64(0)
		for i := range 4 {
			key := key(b, fmt.Sprint("v", i%2))
			version := put(t, s, b, key, fmt.Sprint("value", i), store.Any)
			if version <= last {
				t.Errorf("%s: version %d follows %d, want a larger one", b, version, last)
			}
			last = version
			AwaitValue(t, s, b, key, fmt.Sprint("value", i), version)
		}
		removed := put(t, s, b, key(b, "v0"), "", store.Any)
		if removed <= last {
			t.Errorf("%s: the version of a removal is %d, after %d", b, removed, last)
		}
		AwaitNone(t, s, b, key(b, "v0"))
		if again := put(t, s, b, key(b, "v0"), "new", 0); again <= removed {
			t.Errorf("%s: the version of a key that was removed before is %d, after %d", b, again, removed)
		}
	}
}

func testConflicts(t *testing.T, s store.Store, _ func(*testing.T) store.Store) {
	first := put(t, s, store.Peers, "s.c", "one", 0)
	refused(t, s, store.Peers, "s.c", "two", 0)
	second := put(t, s, store.Peers, "s.c", "two", first)
	refused(t, s, store.Peers, "s.c", "three", first)
	refused(t, s, store.Peers, "s.c", "", first)
	AwaitValue(t, s, store.Peers, "s.c", "two", second)
	put(t, s, store.Peers, "s.c", "", second)
	AwaitNone(t, s, store.Peers, "s.c")
	refused(t, s, store.Peers, "s.c", "three", second)
	put(t, s, store.Peers, "s.c", "three", 0)
}

func testRace(t *testing.T, _ store.Store, open func(*testing.T) store.Store) {
	stores := []store.Store{open(t), open(t)}
	for _, after := range []uint64{0, 1} {
		if after == 1 {
			after = put(t, stores[0], store.Leases, "race", "start", store.Any)
		}
		won := race(6, func(i int) error {
			_, err := stores[i%2].Put(t.Context(), store.Leases, "race", []byte(fmt.Sprint(i)), after)
			if err != nil && !errors.Is(err, store.ErrConflict) {
				t.Errorf("got %v, want ErrConflict", err)
			}
			return err
		})
		if won != 1 {
			t.Errorf("after version %d: %d of 6 wrote, want one", after, won)
		}
	}
}

func testBounds(t *testing.T, s store.Store, _ func(*testing.T) store.Store) {
	for _, key := range []string{"", ".", "a.", ".a", "a..b", "a b", "a/b", "../a", "a*", ">", "ä", "a\x00", strings.Repeat("a", 1000)} {
		if _, err := s.Put(t.Context(), store.Truth, key, []byte("x"), store.Any); err == nil {
			t.Errorf("the key %q is written, want an error", key)
		}
		if _, err := s.Get(t.Context(), store.Truth, key); err == nil || errors.Is(err, store.ErrNone) {
			t.Errorf("Get of the key %q: got %v, want an error that it is no key", key, err)
		}
	}
	most := bytes.Repeat([]byte{0, '\n', 0xff, 'x'}, store.MaxValue/4)
	version, err := s.Put(t.Context(), store.Truth, "large", most, store.Any)
	if err != nil {
		t.Fatalf("a value of MaxValue: %v", err)
	}
	AwaitValue(t, s, store.Truth, "large", string(most), version)
	if _, err := s.Put(t.Context(), store.Truth, "large", append(most, 'x'), store.Any); err == nil {
		t.Error("a value larger than MaxValue is written, want an error")
	}
}

func testWatch(t *testing.T, s store.Store, open func(*testing.T) store.Store) {
	put(t, s, store.Truth, "w1", "one", store.Any)
	put(t, s, store.Truth, "w2", "two", store.Any)
	put(t, s, store.Truth, "w2", "", store.Any)
	w := Watch(t, s, store.Truth, "")
	w.Await(t, "the marker", func() bool { return w.Complete() })
	if got := w.Value("w1"); got != "one" {
		t.Errorf("at the marker w1 is %q, want %q", got, "one")
	}
	if got := w.Value("w2"); got != "" {
		t.Errorf("at the marker w2, which was removed, is %q", got)
	}
	other := open(t)
	version := put(t, other, store.Truth, "w1", "changed", store.Any)
	w.Await(t, "a change of another", func() bool { return w.Value("w1") == "changed" })
	if got := w.Version("w1"); got != version {
		t.Errorf("a change has version %d, want %d", got, version)
	}
	removed := put(t, other, store.Truth, "w1", "", store.Any)
	w.Await(t, "a removal", func() bool { return w.Value("w1") == "" })
	if got := w.Version("w1"); got != removed {
		t.Errorf("a removal has version %d, want %d", got, removed)
	}
	put(t, other, store.Truth, "w1", "again", 0)
	w.Await(t, "a value after a removal", func() bool { return w.Value("w1") == "again" })
	if err := w.End(t); !errors.Is(err, context.Canceled) {
		t.Errorf("Watch ends with %v, want its context's error", err)
	}
}

func testPrefix(t *testing.T, s store.Store, _ func(*testing.T) store.Store) {
	for _, key := range []string{"here.g1.p", "here.g2.p", "here2.g1.p", "her.g1.p"} {
		put(t, s, store.Sessions, key, "x", store.Any)
	}
	site, gateway, exact := Watch(t, s, store.Sessions, "here"), Watch(t, s, store.Sessions, "here.g1"), Watch(t, s, store.Sessions, "here.g1.p")
	for _, w := range []*Watched{site, gateway, exact} {
		w.Await(t, "the marker", w.Complete)
	}
	for _, key := range []string{"here2.g1.q", "here.g2.q", "here.g1.q", "here.g1.p"} {
		put(t, s, store.Sessions, key, "y", store.Any)
	}
	site.Await(t, "changes below a site", func() bool { return site.Value("here.g1.p") == "y" })
	gateway.Await(t, "changes below a gateway", func() bool { return gateway.Value("here.g1.p") == "y" })
	exact.Await(t, "changes of a key", func() bool { return exact.Value("here.g1.p") == "y" })
	for _, tt := range []struct {
		w    *Watched
		want string
	}{{site, "here.g1.p here.g1.q here.g2.p here.g2.q"}, {gateway, "here.g1.p here.g1.q"}, {exact, "here.g1.p"}} {
		if got := tt.w.Keys(); got != tt.want {
			t.Errorf("the watch of %s has %s, want %s", tt.w.prefix, got, tt.want)
		}
	}
}

func testEmpty(t *testing.T, s store.Store, _ func(*testing.T) store.Store) {
	w := Watch(t, s, store.State, "nobody")
	w.Await(t, "the marker", w.Complete)
	put(t, s, store.State, "nobody.g", "x", store.Any)
	w.Await(t, "the first value", func() bool { return w.Value("nobody.g") == "x" })
}

// testLife asserts order, not time: what is written again outlives what is not.
func testLife(t *testing.T, s store.Store, _ func(*testing.T) store.Store) {
	w := Watch(t, s, store.State, "life")
	put(t, s, store.State, "life.gone", "x", store.Any)
	put(t, s, store.State, "life.stays", "x", store.Any)
	w.Await(t, "both values", func() bool { return w.Value("life.gone") == "x" && w.Value("life.stays") == "x" })
	before := w.Version("life.gone")
	w.Await(t, "the end of the value", func() bool {
		put(t, s, store.State, "life.stays", fmt.Sprint("x", rand.N(1000000)), store.Any)
		return w.Value("life.gone") == ""
	})
	if w.Value("life.stays") == "" {
		t.Error("the value that is written again is gone, too")
	}
	if got := w.Version("life.gone"); got <= before {
		t.Errorf("the end of a value has version %d, want more than its own, %d", got, before)
	}
	AwaitNone(t, s, store.State, "life.gone")
	put(t, s, store.State, "life.gone", "back", 0)
	w.Await(t, "a value where one has ended", func() bool { return w.Value("life.gone") == "back" })
}

func testLease(t *testing.T, s store.Store, open func(*testing.T) store.Store) {
	other := open(t)
	for range 2 {
		if err := s.Lease(t.Context(), "lease", "ana", time.Hour); err != nil {
			t.Fatalf("take and renew: %v", err)
		}
	}
	for _, lasts := range []time.Duration{time.Hour, 0} {
		if err := other.Lease(t.Context(), "lease", "bob", lasts); !errors.Is(err, store.ErrHeld) {
			t.Errorf("a lease of %v of another's: got %v, want ErrHeld", lasts, err)
		}
	}
	if err := s.Lease(t.Context(), "lease", "ana", 0); err != nil {
		t.Fatalf("give back: %v", err)
	}
	await(t, "a lease that was given back", func() bool {
		err := other.Lease(t.Context(), "lease", "bob", time.Hour)
		if err != nil && !errors.Is(err, store.ErrHeld) {
			t.Fatal(err)
		}
		return err == nil
	})
	if err := s.Lease(t.Context(), "free", "ana", 0); err != nil {
		t.Errorf("give back what nobody has: %v", err)
	}
}

func testLeaseRace(t *testing.T, _ store.Store, open func(*testing.T) store.Store) {
	stores := []store.Store{open(t), open(t)}
	won := race(6, func(i int) error {
		err := stores[i%2].Lease(t.Context(), "leaserace", fmt.Sprint("holder", i), time.Hour)
		if err != nil && !errors.Is(err, store.ErrHeld) {
			t.Errorf("got %v, want ErrHeld", err)
		}
		return err
	})
	if won != 1 {
		t.Errorf("%d of 6 have the lease, want one", won)
	}
}

func testLeaseEnds(t *testing.T, s store.Store, open func(*testing.T) store.Store) {
	other := open(t)
	if err := s.Lease(t.Context(), "ends", "ana", 2*time.Second); err != nil {
		t.Fatal(err)
	}
	await(t, "the end of a lease", func() bool {
		err := other.Lease(t.Context(), "ends", "bob", time.Hour)
		if err != nil && !errors.Is(err, store.ErrHeld) {
			t.Fatal(err)
		}
		return err == nil
	})
	if err := s.Lease(t.Context(), "ends", "ana", time.Hour); !errors.Is(err, store.ErrHeld) {
		t.Errorf("the former holder renews: got %v, want ErrHeld", err)
	}
}

func testBlobs(t *testing.T, s store.Store, open func(*testing.T) store.Store) {
	other := open(t)
	for _, size := range []int{0, 1, 20 << 20} {
		blob := Random(size)
		var digests [2]store.Digest
		for i := range digests { // the second time it is there already
			d, err := s.PublishBlob(t.Context(), bytes.NewReader(blob))
			if err != nil {
				t.Fatalf("publish %d bytes: %v", size, err)
			}
			digests[i] = d
		}
		if digests[0] != digests[1] {
			t.Errorf("%d bytes have the digests %v", size, digests)
		}
		var got bytes.Buffer
		if err := other.FetchBlob(t.Context(), digests[0], &got); err != nil {
			t.Fatalf("fetch %d bytes: %v", size, err)
		}
		if !bytes.Equal(got.Bytes(), blob) {
			t.Errorf("%d bytes come back as %d others", size, got.Len())
		}
	}
	errRead := errors.New("a reader that fails")
	if _, err := s.PublishBlob(t.Context(), failing{errRead}); !errors.Is(err, errRead) {
		t.Errorf("publish what cannot be read: got %v, want the reader's error", err)
	}
}

func testContext(t *testing.T, s store.Store, _ func(*testing.T) store.Store) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Put(ctx, store.Truth, "late", []byte("x"), store.Any); !errors.Is(err, context.Canceled) {
		t.Errorf("Put after the end of its context: got %v, want that error", err)
	}
	if err := s.Watch(ctx, store.Truth, "", func(store.Entry) {}); !errors.Is(err, context.Canceled) {
		t.Errorf("Watch after the end of its context: got %v, want that error", err)
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

// Random returns bytes that do not compress.
func Random(size int) []byte {
	b := make([]byte, size)
	r := rand.NewChaCha8([32]byte{byte(size)})
	_, _ = r.Read(b)
	return b
}

// key returns a key with as many words as the bucket's keys have.
func key(b store.Bucket, last string) string {
	switch b {
	case store.Truth:
		return last
	case store.Sessions:
		return "site.gateway." + last
	}
	return "site." + last
}

func put(t *testing.T, s store.Store, b store.Bucket, key, value string, after uint64) uint64 {
	t.Helper()
	version, err := s.Put(t.Context(), b, key, []byte(value), after)
	if err != nil {
		t.Fatalf("put %s/%s after %d: %v", b, key, after, err)
	}
	return version
}

func refused(t *testing.T, s store.Store, b store.Bucket, key, value string, after uint64) {
	t.Helper()
	if version, err := s.Put(t.Context(), b, key, []byte(value), after); !errors.Is(err, store.ErrConflict) {
		t.Errorf("put %s/%s %q after %d: got version %d, %v, want ErrConflict", b, key, value, after, version, err)
	}
}

// race calls f n times at once, and returns how many calls had no error.
func race(n int, f func(i int) error) int {
	var (
		wg    sync.WaitGroup
		mu    sync.Mutex
		won   int
		start = make(chan struct{})
	)
	for i := range n {
		wg.Go(func() {
			<-start
			if f(i) == nil {
				mu.Lock()
				won++
				mu.Unlock()
			}
		})
	}
	close(start)
	wg.Wait()
	return won
}

// AwaitValue waits until a key has a value and a version.
func AwaitValue(t *testing.T, s store.Store, b store.Bucket, key, value string, version uint64) {
	t.Helper()
	await(t, fmt.Sprintf("%s/%s at version %d", b, key, version), func() bool {
		e, err := s.Get(t.Context(), b, key)
		return err == nil && string(e.Value) == value && e.Version == version && e.Key == key
	})
}

// AwaitNone waits until a key has no value.
func AwaitNone(t *testing.T, s store.Store, b store.Bucket, key string) {
	t.Helper()
	await(t, fmt.Sprintf("no %s/%s", b, key), func() bool {
		_, err := s.Get(t.Context(), b, key)
		return errors.Is(err, store.ErrNone)
	})
}

func await(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !is(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("after %v there is not: %s", patience, what)
		}
	}
}
