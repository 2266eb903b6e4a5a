package jetstream_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"

	"penstock/cmd/internal/config"
	"penstock/cmd/internal/fleet/engine"
	"penstock/cmd/internal/fleet/jetstream"
	"penstock/cmd/internal/fleet/store"
	"penstock/cmd/internal/fleet/store/storetest"
)

const patience = time.Minute

func TestServersThatComeBack(t *testing.T) {
	t.Parallel()
	e := start(t, engine.Options{SyncAlways: true})
	log := &lines{}
	s := openWith(t, jetstream.Config{NATS: config.NATS{Servers: e.URLs(), Replicas: 1}, Log: slog.New(slog.NewTextHandler(log, nil))})
	put(t, s, store.Truth, "site", "bundle")
	put(t, s, store.Truth, "site", "bundle")
	put(t, s, store.State, "site.g", "beat")

	t.Run("killed and restarted", func(t *testing.T) {
		truth, state := storetest.WatchOnce(t, s, store.Truth, "site"), storetest.WatchOnce(t, s, store.State, "site")
		truth.Await(t, "the bundle", func() bool { return truth.Value("site") == "bundle" })
		state.Await(t, "the marker", state.Complete)
		e.Kill()
		truth.Await(t, "the end of both watches", func() bool { return truth.Ended() && state.Ended() })
		await(t, "a lost connection", func() bool { return !s.Connected() })
		if err := e.Restart(); err != nil {
			t.Fatal(err)
		}
		again := storetest.Watch(t, s, store.Truth, "site")
		again.Await(t, "the bundle again", func() bool { return again.Value("site") == "bundle" && again.Complete() })
		put(t, s, store.State, "site.g", "beat") // what was in memory is gone, and is made again
		put(t, s, store.State, "site.g", "beat")
	})
	t.Run("wiped and restarted", func(t *testing.T) {
		truth := storetest.WatchOnce(t, s, store.Truth, "site")
		truth.Await(t, "the bundle", func() bool { return truth.Value("site") == "bundle" })
		if err := e.Wipe(); err != nil {
			t.Fatal(err)
		}
		truth.Await(t, "the end of the watch", truth.Ended)
		if err := e.Restart(); err != nil {
			t.Fatal(err)
		}
		again := storetest.Watch(t, s, store.Truth, "site")
		again.Await(t, "the marker", again.Complete)
		if got := again.Keys(); got != "" {
			t.Errorf("a bucket that was wiped has %s, want nothing", got)
		}
		put(t, s, store.Truth, "site", "seeded")
		again.Await(t, "the bundle that was seeded", func() bool { return again.Value("site") == "seeded" })
	})
	t.Run("a bucket removed and made again under a watch", func(t *testing.T) {
		truth := storetest.WatchOnce(t, s, store.Truth, "site")
		truth.Await(t, "the bundle", func() bool { return truth.Value("site") == "seeded" })
		remove(t, e, "KV_truth")
		truth.Await(t, "the end of the watch", truth.Ended)
		put(t, s, store.Truth, "site", "once more")
		again := storetest.Watch(t, s, store.Truth, "site")
		again.Await(t, "the bundle", func() bool { return again.Value("site") == "once more" })
	})
	t.Run("the log has a line for each change", func(t *testing.T) {
		lost, back := log.count("no connection to NATS"), log.count("is back")
		if lost != 2 || back != 2 {
			t.Errorf("the log says %d times that the connection is lost and %d times that it is back, want 2 and 2:\n%s", lost, back, log)
		}
	})
	t.Run("killed for good", func(t *testing.T) {
		e.Kill()
		await(t, "a lost connection", func() bool { return !s.Connected() })
		callsEnd(t, s)
	})
}

func remove(t *testing.T, e *engine.Engine, stream string) {
	t.Helper()
	nc, err := nats.Connect(e.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	js, err := natsjs.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	if err := js.DeleteStream(t.Context(), stream); err != nil {
		t.Fatal(err)
	}
}

// callsEnd checks that every call ends with its context at the latest, with an error.
func callsEnd(t *testing.T, s *jetstream.Store) {
	t.Helper()
	calls := map[string]func(context.Context) error{
		"Get": func(ctx context.Context) error { _, err := s.Get(ctx, store.Truth, "site"); return err },
		"Put": func(ctx context.Context) error {
			_, err := s.Put(ctx, store.Truth, "site", []byte("x"), store.Any)
			return err
		},
		"Watch": func(ctx context.Context) error { return s.Watch(ctx, store.Truth, "", func(store.Entry) {}) },
		"Lease": func(ctx context.Context) error { return s.Lease(ctx, "l", "ana", time.Hour) },
		"PublishBlob": func(ctx context.Context) error {
			_, err := s.PublishBlob(ctx, strings.NewReader("x"))
			return err
		},
		"FetchBlob": func(ctx context.Context) error { return s.FetchBlob(ctx, store.Digest{}, io.Discard) },
	}
	var wg sync.WaitGroup
	for name, call := range calls {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
			defer cancel()
			ended := make(chan error, 1)
			go func() { ended <- call(ctx) }()
			select {
			case err := <-ended:
				if err == nil || errors.Is(err, store.ErrNone) || errors.Is(err, store.ErrForbidden) {
					t.Errorf("%s without a server: got %v, want an error that says so", name, err)
				}
			case <-time.After(patience):
				t.Errorf("%s does not end with its context", name)
			}
		})
	}
	wg.Wait()
}

func TestServerThatIsNotThereYet(t *testing.T) {
	t.Parallel()
	e := start(t, engine.Options{})
	e.Kill()
	s := open(t, e, 1)
	if s.Connected() {
		t.Error("connected to nothing")
	}
	wrote := make(chan error, 1)
	go func() {
		_, err := s.Put(t.Context(), store.Truth, "site", []byte("x"), 0)
		wrote <- err
	}()
	if err := e.Restart(); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-wrote:
		if err != nil {
			t.Errorf("a call that waited for the server: %v", err)
		}
	case <-time.After(patience):
		t.Error("a call that waited for the server does not end")
	}
}

func TestCloseEndsCalls(t *testing.T) {
	t.Parallel()
	e := start(t, engine.Options{})
	s := open(t, e, 1)
	w := storetest.WatchOnce(t, s, store.Truth, "")
	w.Await(t, "the marker", w.Complete)
	for range 2 {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
	w.Await(t, "the end of the watch", w.Ended)
	if _, err := s.Get(t.Context(), store.Truth, "site"); err == nil || errors.Is(err, store.ErrNone) {
		t.Errorf("Get after Close: got %v, want that the store is closed", err)
	}
}

func TestServersThatMakeNoSense(t *testing.T) {
	t.Parallel()
	const info = `INFO {"server_id":"x","version":"2.15.2","proto":1,"max_payload":1048576,"headers":true}` + "\r\n"
	for name, answer := range map[string]func(net.Conn){
		"garbage":         func(c net.Conn) { _, _ = c.Write(storetest.Random(4096)) },
		"endless garbage": func(c net.Conn) { _, _ = io.Copy(c, zeros{}) },
		"nothing":         func(c net.Conn) { _, _ = io.Copy(io.Discard, c) },
		"a greeting only": func(c net.Conn) { _, _ = io.WriteString(c, info); _, _ = io.Copy(io.Discard, c) },
		"garbage after a greeting": func(c net.Conn) {
			_, _ = io.WriteString(c, info+"PONG\r\nMSG _INBOX.x 1 -5\r\n")
			_, _ = io.Copy(io.Discard, c)
		},
		"an unknown error": func(c net.Conn) {
			_, _ = io.WriteString(c, info+"PONG\r\n-ERR 'what'\r\n")
			_, _ = io.Copy(io.Discard, c)
		},
		"no JetStream": noJetStream(info),
	} {
		t.Run(name, func(t *testing.T) {
			server := serve(t, answer)
			s := openWith(t, jetstream.Config{NATS: config.NATS{Servers: []string{"nats://" + server}, Replicas: 1}})
			callsEnd(t, s)
		})
	}
}

// noJetStream is a server that answers pings and nothing else.
func noJetStream(info string) func(net.Conn) {
	return func(c net.Conn) {
		_, _ = io.WriteString(c, info)
		buffer := make([]byte, 4096)
		for {
			n, err := c.Read(buffer)
			if err != nil {
				return
			}
			if bytes.Contains(buffer[:n], []byte("PING\r\n")) {
				_, _ = io.WriteString(c, "PONG\r\n")
			}
		}
	}
}

func TestSlowPath(t *testing.T) {
	t.Parallel()
	e := start(t, engine.Options{})
	fast := open(t, e, 1)
	put(t, fast, store.Truth, "site", "bundle")
	var delay atomic.Int64
	s := openWith(t, jetstream.Config{NATS: config.NATS{Servers: []string{"nats://" + proxy(t, strings.TrimPrefix(e.URL(), "nats://"), &delay)}, Replicas: 1}})
	storetest.AwaitValue(t, s, store.Truth, "site", "bundle", 1)
	delay.Store(int64(5 * time.Second))
	e1, err := s.Get(t.Context(), store.Truth, "site") // it takes ten seconds, and comes
	if err != nil || string(e1.Value) != "bundle" {
		t.Errorf("over a path with seconds of delay: got %q, %v, want the value", e1.Value, err)
	}
	callsEnd(t, s)
}

func TestThreeServers(t *testing.T) {
	t.Parallel()
	e := start(t, engine.Options{Cluster: 3, SyncAlways: true})
	s := open(t, e, 3)
	blob := storetest.Random(20 << 20)
	d, err := s.PublishBlob(t.Context(), bytes.NewReader(blob))
	if err != nil {
		t.Fatal(err)
	}
	put(t, s, store.Truth, "site", "bundle")
	put(t, s, store.Sessions, "site.g.p", "session")
	for i := range 3 {
		await(t, "all servers up to date", func() bool { return current(t, e) })
		e.Kill(i)
		await(t, "all values with a server less", func() bool {
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			truth, err1 := s.Get(ctx, store.Truth, "site")
			session, err2 := s.Get(ctx, store.Sessions, "site.g.p")
			if err := errors.Join(err1, err2); err != nil {
				t.Log(err)
				return false
			}
			return string(truth.Value) == "bundle" && string(session.Value) == "session"
		})
		await(t, "a write with a server less", func() bool {
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			_, err1 := s.Put(ctx, store.Sessions, "site.g.p", []byte("session"), store.Any)
			err2 := s.Lease(ctx, "lease", "ana", time.Hour)
			if err := errors.Join(err1, err2); err != nil {
				t.Log(err)
				return false
			}
			return true
		})
		await(t, "the blob with a server less", func() bool {
			var got bytes.Buffer
			if err := s.FetchBlob(t.Context(), d, &got); err != nil {
				t.Log(err)
				return false
			}
			return bytes.Equal(got.Bytes(), blob)
		})
		if err := e.Restart(i); err != nil {
			t.Fatal(err)
		}
	}
	await(t, "all servers up to date", func() bool { return current(t, e) })
	e.Kill()
	if err := e.Restart(); err != nil {
		t.Fatal(err)
	}
	await(t, "the value on disk, after all servers were down", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		truth, err := s.Get(ctx, store.Truth, "site")
		return err == nil && string(truth.Value) == "bundle"
	})
	put(t, s, store.Sessions, "site.g.p", "session")
	put(t, s, store.State, "site.g", "beat")
}

// current tells whether each server of a cluster has all that the others have. Before that, none of them may fail.
func current(t *testing.T, e *engine.Engine) bool {
	t.Helper()
	nc, err := nats.Connect(e.URL())
	if err != nil {
		return false
	}
	defer nc.Close()
	js, err := natsjs.New(nc)
	if err != nil {
		return false
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	streams := js.ListStreams(ctx)
	n := 0
	for info := range streams.Info() {
		n++
		if info.Cluster == nil || info.Cluster.Leader == "" || len(info.Cluster.Replicas) != 2 {
			return false
		}
		for _, r := range info.Cluster.Replicas {
			if !r.Current || r.Offline || r.Lag > 0 {
				return false
			}
		}
	}
	return n > 0 && streams.Err() == nil
}

func TestBlobThatIsDamaged(t *testing.T) {
	t.Parallel()
	e := start(t, engine.Options{})
	s := open(t, e, 1)
	good := []byte("what was published")
	d, err := s.PublishBlob(t.Context(), bytes.NewReader(good))
	if err != nil {
		t.Fatal(err)
	}
	nc, err := nats.Connect(e.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	js, err := natsjs.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	objects, err := js.ObjectStore(t.Context(), "blobs")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := objects.PutBytes(t.Context(), d.String(), []byte("something else")); err != nil {
		t.Fatal(err)
	}
	if err := s.FetchBlob(t.Context(), d, io.Discard); err == nil || errors.Is(err, store.ErrNone) || !strings.Contains(err.Error(), d.String()) {
		t.Errorf("a blob with another content: got %v, want an error that names it", err)
	}
	if _, err := s.PublishBlob(t.Context(), bytes.NewReader(good)); err != nil {
		t.Fatal(err)
	}
	var got bytes.Buffer
	if err := s.FetchBlob(t.Context(), d, &got); err != nil || got.String() != string(good) {
		t.Errorf("after it was published again: got %q, %v", got.String(), err)
	}
}

func TestTooManyReplicas(t *testing.T) {
	t.Parallel()
	e := start(t, engine.Options{})
	s := open(t, e, 3)
	if _, err := s.Put(t.Context(), store.Truth, "site", []byte("x"), 0); err == nil || !strings.Contains(err.Error(), "replicas") {
		t.Errorf("three replicas on one server: got %v, want an error that names the setting", err)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

// serve answers connections until the test ends.
func serve(t *testing.T, answer func(net.Conn)) (address string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	ctx, cancel := context.WithCancel(t.Context())
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			stop := context.AfterFunc(ctx, func() { c.Close() })
			wg.Go(func() {
				defer stop()
				defer c.Close()
				answer(c)
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		cancel()
		wg.Wait()
	})
	return l.Addr().String()
}

// proxy passes connections on to a server, each part of them after a delay.
func proxy(t *testing.T, server string, delay *atomic.Int64) (address string) {
	return serve(t, func(c net.Conn) {
		up, err := net.Dial("tcp", server)
		if err != nil {
			return
		}
		var wg sync.WaitGroup
		wg.Go(func() { late(c, up, delay) })
		late(up, c, delay)
		wg.Wait()
	})
}

// late copies from src to dst.
func late(dst, src net.Conn, delay *atomic.Int64) {
	type part struct {
		data []byte
		due  time.Time
	}
	parts := make(chan part, 1<<16)
	go func() {
		defer close(parts)
		for {
			buffer := make([]byte, 32<<10)
			n, err := src.Read(buffer)
			if err != nil {
				return
			}
			parts <- part{buffer[:n], time.Now().Add(time.Duration(delay.Load()))}
		}
	}()
	defer dst.Close()
	for p := range parts {
		time.Sleep(time.Until(p.due))
		if _, err := dst.Write(p.data); err != nil {
			src.Close()
		}
	}
}

func put(t *testing.T, s store.Store, b store.Bucket, key, value string) {
	t.Helper()
	await(t, "a write of "+key, func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		_, err := s.Put(ctx, b, key, []byte(value), store.Any)
		if err != nil {
			t.Log(err)
		}
		return err == nil
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

// lines is a log.
type lines struct {
	mu   sync.Mutex // guards below
	text strings.Builder
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func (l *lines) count(what string) int { return strings.Count(l.String(), what) }
