package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"penstock/cmd/internal/config"
	"penstock/cmd/internal/fleet"
	"penstock/cmd/internal/fleet/bundle"
	"penstock/cmd/internal/fleet/engine"
	"penstock/cmd/internal/fleet/store"
)

// fleetSite is an operator's folder, with the keys of two operators and a gateway.
type fleetSite struct {
	t       *testing.T
	dir     string // in it are site, the keys a.key and b.key, gw.key, and the bundles
	keys    map[string]bundle.PrivateKey
	gateway *bundle.Identity
}

func newFleetSite(t *testing.T) *fleetSite {
	t.Helper()
	s := &fleetSite{t: t, dir: t.TempDir(), keys: make(map[string]bundle.PrivateKey)}
	for _, name := range []string{"a", "b"} {
		key, err := bundle.NewPrivateKey()
		if err != nil {
			t.Fatal(err)
		}
		s.keys[name] = key
		s.write(name+".key", key.Reveal())
	}
	var err error
	if s.gateway, err = bundle.NewIdentity(); err != nil {
		t.Fatal(err)
	}
	s.write("gw.key", s.gateway.Reveal())
	s.write("site/secrets/wg.key", "2Bo5n4y4CRcCcX2HMRSL1fBDMhgT1Z4x0AMkYmZ9DGA=\n")
	s.rules("direct", "a")
	return s
}

// rules writes the site's file, with the operators who may sign the next bundle.
func (s *fleetSite) rules(do string, signers ...string) {
	var texts []string
	for _, name := range signers {
		texts = append(texts, fmt.Sprintf("%q", s.keys[name].Public()))
	}
	s.write("site/site.yaml", fmt.Sprintf(`site: {name: berlin, signers: [%s], gateways: [{name: gw, key: %s}]}
listen: {wireguard: {listen_port: 51820, address: [10.99.0.1/24], private_key: {file: secrets/wg.key}}}
rules: [{name: rest, do: %s}]
`, strings.Join(texts, ", "), s.gateway.Recipient(), do))
}

func (s *fleetSite) path(name string) string { return filepath.Join(s.dir, filepath.FromSlash(name)) }

func (s *fleetSite) write(name, text string) {
	s.t.Helper()
	if err := os.MkdirAll(filepath.Dir(s.path(name)), 0o700); err != nil {
		s.t.Fatal(err)
	}
	if err := os.WriteFile(s.path(name), []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
}

// run runs a command line in which @ stands for the site's folder, and returns what it prints.
func (s *fleetSite) run(code int, line string) (stdout, stderr string) {
	s.t.Helper()
	var out, errs bytes.Buffer
	e := &env{stdin: strings.NewReader(""), stdout: &out, stderr: &errs, getenv: func(string) string { return "" }}
	args := strings.Fields(strings.ReplaceAll(line, "@", s.dir+string(filepath.Separator)))
	if got := execute(s.t.Context(), e, args); got != code {
		s.t.Errorf("%s: got exit code %d, %s%s; want %d", line, got, out.String(), errs.String(), code)
	}
	return out.String(), errs.String()
}

// says wants a text in another.
func says(t *testing.T, text, want string) {
	t.Helper()
	if !strings.Contains(text, want) {
		t.Errorf("got %q, want it to say %q", text, want)
	}
}

func TestBundlesArePublishedInTheirOrder(t *testing.T) {
	s := newFleetSite(t)
	if err := os.Mkdir(s.path("store"), 0o700); err != nil {
		t.Fatal(err)
	}
	s.run(0, "fleet sign @site --key @a.key -o @1.bundle")
	s.rules("block", "b")
	s.run(0, "fleet sign @site --key @a.key -o @2.bundle --previous @1.bundle")
	s.rules("direct", "b")
	s.run(0, "fleet sign @site --key @a.key -o @2too.bundle --previous @1.bundle")
	s.run(0, "fleet sign @site --key @a.key -o @3wrong.bundle --generation 3")
	s.run(0, "fleet sign @site --key @b.key -o @3.bundle --previous @2.bundle")

	out, _ := s.run(0, "fleet publish @1.bundle --dir @store")
	says(t, out, "Generation 1 of site berlin is published: 2 files, 1 of them sealed")
	out, _ = s.run(0, "fleet publish @2.bundle --dir @store")
	says(t, out, "Generation 2")
	out, _ = s.run(0, "fleet publish @2.bundle --dir @store")
	says(t, out, "has generation 2 of site berlin already, and all of its files")
	for _, old := range []string{"1", "2too"} {
		_, errs := s.run(1, "fleet publish @"+old+".bundle --dir @store")
		says(t, errs, "the store has generation 2 of site berlin, made ")
		says(t, errs, s.keys["a"].Public().String())
	}
	out, errs := s.run(0, "fleet publish @3wrong.bundle --dir @store")
	says(t, out, "Generation 3")
	says(t, errs, "gateways that have that one refuse this one")
}

func TestAGatewaySeedsAnEmptyStore(t *testing.T) {
	s := newFleetSite(t)
	s.write("gateway.yaml", fmt.Sprintf("state_dir: %s\nfleet: {site: berlin, gateway: gw, key: {file: gw.key}, signers: [%q], store: {dir: store}}\n",
		s.path("state"), s.keys["a"].Public()))
	if err := os.MkdirAll(s.path("store"), 0o700); err != nil {
		t.Fatal(err)
	}
	_, errs := s.run(1, "fleet seed -c @gateway.yaml")
	says(t, errs, "this gateway has no bundle in "+s.path("state"))

	for g := uint64(1); g <= 2; g++ {
		s.run(0, fmt.Sprintf("fleet sign @site --key @a.key -o @%d.bundle --generation %[1]d", g))
		s.accept(g)
	}
	for _, line := range []string{"peer add ana", "peer rm ana", "peer disable ana"} { // it would be written where the bundle is, or be refused
		_, errs = s.run(1, line+" -c @gateway.yaml")
		says(t, errs, "this is a gateway of site berlin, and its peers are those of the site: use penstock fleet peer")
	}
	out, _ := s.run(0, "fleet seed -c @gateway.yaml")
	says(t, out, "Generation 2 of site berlin is published")
	out, _ = s.run(0, "fleet seed -c @gateway.yaml")
	says(t, out, "already")
	s.run(0, "fleet sign @site --key @a.key -o @3.bundle --previous @2.bundle")
	s.run(0, "fleet publish @3.bundle -c @gateway.yaml")
	_, errs = s.run(1, "fleet seed -c @gateway.yaml")
	says(t, errs, "the store has generation 3")

	// What was published is what another gateway unpacks.
	d, err := store.OpenDir(s.path("store"))
	if err != nil {
		t.Fatal(err)
	}
	entry, err := d.Get(t.Context(), store.Truth, "berlin")
	if err != nil {
		t.Fatal(err)
	}
	m, err := bundle.Signed(entry.Value).Verify([]bundle.PublicKey{s.keys["a"].Public()})
	if err != nil {
		t.Fatal(err)
	}
	fetch := func(ctx context.Context, f bundle.File, w io.Writer) error { return d.FetchBlob(ctx, f.Digest, w) }
	dir, err := bundle.Disk{Dir: t.TempDir()}.Unpack(t.Context(), entry.Value, m, s.gateway, fetch)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"site.yaml", "secrets/wg.key"} {
		got, err := os.ReadFile(filepath.Join(dir, filepath.FromSlash(name)))
		want, _ := os.ReadFile(s.path("site/" + name))
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: got %q, %v; want %q", name, got, err, want)
		}
	}

	// A newer one that is damaged on this gateway is said.
	s.accept(3)
	if err := os.WriteFile(filepath.Join(s.path("state"), "fleet", "3", "files", "site.yaml"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(s.path("store")); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(s.path("store"), 0o700); err != nil {
		t.Fatal(err)
	}
	out, errs = s.run(0, "fleet seed -c @gateway.yaml")
	says(t, out, "Generation 2")
	says(t, errs, "because a newer one cannot be read: generation 3")
}

// accept puts a bundle in force on the gateway.
func (s *fleetSite) accept(g uint64) {
	s.t.Helper()
	a, err := bundle.OpenArchive(s.path(fmt.Sprintf("%d.bundle", g)))
	if err != nil {
		s.t.Fatal(err)
	}
	defer a.Close()
	m, err := a.Signed().Manifest()
	if err != nil {
		s.t.Fatal(err)
	}
	d := bundle.Disk{Dir: filepath.Join(s.path("state"), "fleet")}
	if _, err := d.Unpack(s.t.Context(), a.Signed(), m, s.gateway, a.Fetch); err != nil {
		s.t.Fatal(err)
	}
	if err := d.Accept(s.t.Context(), g); err != nil {
		s.t.Fatal(err)
	}
}

// memoryStore is a store in memory. Each field that is set goes wrong.
type memoryStore struct {
	mu      sync.Mutex // guards below
	values  map[string]store.Entry
	blobs   map[store.Digest][]byte
	version uint64
	calls   []string

	before     func() // Put, without the lock
	get, put   error
	blob       error
	digestZero bool
}

var _ store.Store = (*memoryStore)(nil)

func newMemoryStore() *memoryStore {
	return &memoryStore{values: make(map[string]store.Entry), blobs: make(map[store.Digest][]byte)}
}

func (m *memoryStore) Get(_ context.Context, b store.Bucket, key string) (store.Entry, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.calls = append(m.calls, "get")
	e, ok := m.values[string(b)+"/"+key]
	if !ok {
		return e, errors.Join(m.get, store.ErrNone)
	}
	return e, m.get
}

func (m *memoryStore) Put(_ context.Context, b store.Bucket, key string, value []byte, after uint64) (uint64, error) {
	if before := m.before; before != nil {
		m.before = nil
		before()
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.calls = append(m.calls, "put")
	at := string(b) + "/" + key
	switch {
	case m.put != nil:
		return 0, m.put
	case after != store.Any && m.values[at].Version != after:
		return 0, store.ErrConflict
	}
	m.version++
	m.values[at] = store.Entry{Key: key, Value: value, Version: m.version}
	return m.version, nil
}

func (m *memoryStore) PublishBlob(_ context.Context, r io.Reader) (store.Digest, error) {
	if m.blob != nil { // before anything is read
		return store.Digest{}, m.blob
	}
	text, err := io.ReadAll(r)
	if err != nil {
		return store.Digest{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.calls = append(m.calls, "blob")
	d := store.Digest(sha256.Sum256(text))
	m.blobs[d] = text
	if m.digestZero {
		d = store.Digest{}
	}
	return d, nil
}

func (m *memoryStore) Watch(context.Context, store.Bucket, string, func(store.Entry)) error {
	return errors.ErrUnsupported
}

func (m *memoryStore) Lease(context.Context, string, string, time.Duration) error {
	return errors.ErrUnsupported
}

func (m *memoryStore) FetchBlob(context.Context, store.Digest, io.Writer) error {
	return errors.ErrUnsupported
}

func TestPublishingThatGoesWrong(t *testing.T) {
	s := newFleetSite(t)
	s.run(0, "fleet sign @site --key @a.key -o @1.bundle")
	s.run(0, "fleet sign @site --key @a.key -o @2.bundle --previous @1.bundle")
	open := func(name string) *bundle.Archive {
		a, err := bundle.OpenArchive(s.path(name))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { a.Close() })
		return a
	}
	one, two := open("1.bundle"), open("2.bundle")
	errDown := errors.New("it is down")
	damaged := func(context.Context, bundle.File, io.Writer) error { return bundle.ErrDamaged }
	publish := func(m *memoryStore, a *bundle.Archive, fetch bundle.Fetch) (string, error) {
		e := &env{stderr: io.Discard}
		return e.publish(t.Context(), m, a.Signed(), fetch)
	}
	tests := []struct {
		name  string
		fault func(*memoryStore)
		fetch bundle.Fetch
		want  error
		says  string
	}{
		{"a store that cannot be asked", func(m *memoryStore) { m.get = errDown; m.values["truth/berlin"] = store.Entry{} }, one.Fetch, errDown, "read what the store has"},
		{"a store that takes no files", func(m *memoryStore) { m.blob = errDown }, one.Fetch, errDown, "publish secrets/wg.key"},
		{"a store that has other files", func(m *memoryStore) { m.digestZero = true }, one.Fetch, nil, "another digest"},
		{"a file that is damaged", func(*memoryStore) {}, damaged, bundle.ErrDamaged, "publish secrets/wg.key"},
		{"credentials of a gateway", func(m *memoryStore) { m.put = store.ErrForbidden }, one.Fetch, store.ErrForbidden, "use an operator's"},
		{"a store that goes away", func(m *memoryStore) { m.put = errDown }, one.Fetch, errDown, "prepare the bucket"},
		{"another operator at the same time", func(m *memoryStore) {
			m.before = func() {
				if _, err := publish(m, two, two.Fetch); err != nil {
					t.Error(err)
				}
			}
		}, one.Fetch, store.ErrConflict, "somebody else has published a bundle of site berlin meanwhile"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := newMemoryStore()
			tt.fault(m)
			done, err := publish(m, one, tt.fetch)
			if err == nil || tt.want != nil && !errors.Is(err, tt.want) || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("got %q, %v; want %v that says %q", done, err, tt.want, tt.says)
			}
			if e, ok := m.values["truth/berlin"]; ok && bytes.Equal(e.Value, one.Signed()) {
				t.Error("the manifest is in the store")
			}
		})
	}
	m := newMemoryStore()
	m.values["truth/berlin"] = store.Entry{Key: "berlin", Value: []byte("nonsense"), Version: 7}
	if _, err := publish(m, one, one.Fetch); err != nil {
		t.Errorf("over nonsense: %v", err)
	}
	m.calls = slices.Compact(m.calls) // five buckets are prepared before the manifest
	if want := []string{"get", "blob", "put"}; !slices.Equal(m.calls, want) {
		t.Errorf("got the calls %v, want %v", m.calls, want)
	}
}

func TestBundlesArePublishedToNATS(t *testing.T) {
	e, err := engine.Start(engine.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	}()
	s := newFleetSite(t)
	s.run(0, "fleet sign @site --key @a.key -o @1.bundle")
	s.run(0, "fleet sign @site --key @a.key -o @2.bundle --previous @1.bundle")
	out, _ := s.run(0, "fleet publish @2.bundle --replicas 1 --nats "+e.URL())
	says(t, out, "Generation 2 of site berlin is published")
	// A gateway that cannot make a bucket, here because there are no three servers, finds all of them.
	gateway, closing, err := fleet.OpenStore(t.Context(), config.FleetStore{NATS: &config.NATS{Servers: e.URLs(), Replicas: 3}}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer closing()
	for _, b := range []store.Bucket{store.Peers, store.Joins, store.State, store.Sessions, store.Leases} {
		if _, err := gateway.Put(t.Context(), b, "berlin.gw", []byte("x"), store.Any); err != nil {
			t.Errorf("after a bundle was published: %s: %v", b, err)
		}
	}
	out, _ = s.run(0, "fleet publish @2.bundle --replicas 1 --nats "+e.URL())
	says(t, out, "already")
	_, errs := s.run(1, "fleet publish @1.bundle --replicas 1 --nats "+e.URL())
	says(t, errs, "the store has generation 2")
}
