package fleet

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"penstock/cmd/internal/config"
	"penstock/cmd/internal/fleet/store"
	"penstock/cmd/internal/private"
	"penstock/router/transport/wireguard"
)

// engine is a store in memory that can be cut off and wiped.
type engine struct {
	mu      sync.Mutex // guards below
	values  map[store.Bucket]map[string]store.Entry
	blobs   map[store.Digest][]byte
	version uint64
	watches map[*watched]bool
}

type watched struct {
	bucket  store.Bucket
	prefix  string
	owner   *link
	changed func(store.Entry)
	over    chan struct{}
}

// link is one gateway's way to the engine.
type link struct {
	*engine
	cut bool // guarded by engine.mu
}

var errCut = errors.New("the engine is not reached")

func newEngine() *engine {
	e := &engine{watches: make(map[*watched]bool)}
	e.wipe()
	return e
}

// wipe forgets everything and ends all watches.
func (e *engine) wipe() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.values, e.blobs = make(map[store.Bucket]map[string]store.Entry), make(map[store.Digest][]byte)
	e.endWatches(func(*watched) bool { return true })
}

// endWatches ends watches. The caller holds mu.
func (e *engine) endWatches(which func(*watched) bool) {
	for w := range e.watches {
		if which(w) {
			delete(e.watches, w)
			close(w.over)
		}
	}
}

func (l *link) set(cut bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cut = cut
	if cut {
		l.endWatches(func(w *watched) bool { return w.owner == l })
	}
}

func (l *link) Get(_ context.Context, b store.Bucket, key string) (store.Entry, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.cut {
		return store.Entry{}, errCut
	}
	entry, ok := l.values[b][key]
	if !ok {
		return entry, store.ErrNone
	}
	return entry, nil
}

func (l *link) Put(_ context.Context, b store.Bucket, key string, value []byte, after uint64) (uint64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.cut {
		return 0, errCut
	}
	if after != store.Any && l.values[b][key].Version != after {
		return 0, store.ErrConflict
	}
	l.version++
	entry := store.Entry{Key: key, Value: bytes.Clone(value), Version: l.version}
	if l.values[b] == nil {
		l.values[b] = make(map[string]store.Entry)
	}
	if value == nil {
		delete(l.values[b], key)
	} else {
		l.values[b][key] = entry
	}
	for w := range l.watches {
		if w.bucket == b && store.Below(key, w.prefix) {
			w.changed(entry)
		}
	}
	return l.version, nil
}

func (l *link) Watch(ctx context.Context, b store.Bucket, prefix string, changed func(store.Entry)) error {
	l.mu.Lock()
	if l.cut {
		l.mu.Unlock()
		return errCut
	}
	w := &watched{b, prefix, l, changed, make(chan struct{})}
	for key, entry := range l.values[b] {
		if store.Below(key, prefix) {
			changed(entry)
		}
	}
	changed(store.Entry{})
	l.watches[w] = true
	l.mu.Unlock()
	select {
	case <-ctx.Done():
		l.mu.Lock()
		delete(l.watches, w)
		l.mu.Unlock()
		return ctx.Err()
	case <-w.over:
		return errCut
	}
}

func (l *link) Lease(context.Context, string, string, time.Duration) error { return nil }

func (l *link) PublishBlob(_ context.Context, r io.Reader) (store.Digest, error) {
	text, err := io.ReadAll(r)
	if err != nil {
		return store.Digest{}, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.cut {
		return store.Digest{}, errCut
	}
	d := store.Digest(sha256.Sum256(text))
	l.blobs[d] = text
	return d, nil
}

func (l *link) FetchBlob(_ context.Context, d store.Digest, w io.Writer) error {
	l.mu.Lock()
	text, ok := l.blobs[d]
	cut := l.cut
	l.mu.Unlock()
	switch {
	case cut:
		return errCut
	case !ok:
		return store.ErrNone
	}
	_, err := w.Write(text)
	return err
}

// laptops are peers that use one gateway at a time: the one with their last handshake.
type laptops struct {
	mu sync.Mutex // guards below
	at map[wireguard.PublicKey]*machine
	// nat says that they cannot be called.
	nat bool
}

// machine is a gateway's port, without packets.
type machine struct {
	name string
	all  *laptops

	mu       sync.Mutex // guards below
	sessions map[wireguard.PublicKey]time.Time
	busy     map[wireguard.PublicKey]bool
	unfit    error
	draining bool
	dead     bool
}

// connect is a handshake of a peer.
func (m *machine) connect(peer wireguard.PublicKey) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.dead {
		return
	}
	m.sessions[peer] = time.Now()
	m.all.mu.Lock()
	defer m.all.mu.Unlock()
	m.all.at[peer] = m
}

func (m *machine) Peers() []wireguard.PeerStatus {
	m.mu.Lock()
	defer m.mu.Unlock()
	var list []wireguard.PeerStatus
	for peer, at := range m.sessions {
		list = append(list, wireguard.PeerStatus{PublicKey: peer, Endpoint: endpointOf(peer), LastHandshake: at})
	}
	return list
}

func (m *machine) Call(_ context.Context, former []wireguard.PeerStatus) error {
	m.all.mu.Lock()
	nat := m.all.nat
	m.all.mu.Unlock()
	for _, p := range former {
		if p.Endpoint == endpointOf(p.PublicKey) && !nat {
			m.connect(p.PublicKey)
		}
	}
	return nil
}

func (m *machine) Forget(peers []wireguard.PublicKey, _ bool) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, peer := range peers {
		delete(m.sessions, peer)
	}
	return nil
}

func (m *machine) Idle(peers []wireguard.PublicKey) []wireguard.PublicKey {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(peers), func(p wireguard.PublicKey) bool { return m.busy[p] })
}

func (m *machine) Fit() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.unfit
}

func (m *machine) Draining() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.draining
}

// set changes the machine under its lock.
func (m *machine) set(change func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	change()
}

func (m *machine) has(peer wireguard.PublicKey) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	_, ok := m.sessions[peer]
	return ok
}

// endpointOf is where a peer is.
func endpointOf(peer wireguard.PublicKey) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, peer[0], peer[1]}), 7000)
}

// site is a fleet on one engine.
type site struct {
	engine   *engine
	laptops  *laptops
	machines []*machine
	nodes    []*Node
	links    []*link
	stop     []context.CancelFunc
	over     []chan struct{}
	dir      string
	regions  []string // of the gateways; none: they name none
}

// names of gateways.
var names = []string{"amsterdam", "berlin", "cairo"}

// newSite starts some gateways. With pulses they can be asked whether they live.
func newSite(t *testing.T, gateways int, pulses bool, regions ...string) *site {
	t.Helper()
	s := &site{engine: newEngine(), laptops: &laptops{at: make(map[wireguard.PublicKey]*machine)}, dir: t.TempDir(), regions: regions}
	for i := range gateways {
		s.machines = append(s.machines, &machine{name: names[i], all: s.laptops, sessions: make(map[wireguard.PublicKey]time.Time), busy: make(map[wireguard.PublicKey]bool)})
		s.links = append(s.links, &link{engine: s.engine})
		s.nodes, s.stop, s.over = append(s.nodes, nil), append(s.stop, nil), append(s.over, nil)
		s.start(t, i, pulses)
	}
	eventually(t, "every gateway sees all", func() bool {
		return !slices.ContainsFunc(s.nodes, func(n *Node) bool { return !n.Connected() || len(n.see(time.Now()).takers) != gateways })
	})
	return s
}

// start starts a gateway's node.
func (s *site) start(t *testing.T, i int, pulses bool) {
	t.Helper()
	secret := filepath.Join(s.dir, "site.key")
	if err := private.Replace(secret, "the secret of the site"); err != nil {
		t.Fatal(err)
	}
	cfg := &config.Config{
		Fleet:  &config.Fleet{Site: "lab", Gateway: names[i], Folder: s.dir, DrainLimit: 4 * time.Second},
		Site:   &config.Site{Name: "lab"},
		Listen: config.Listen{WireGuard: &config.WireGuardListen{PrivateKey: config.Secret{File: secret}}},
	}
	if len(s.regions) > 0 {
		cfg.Fleet.Region = s.regions[i]
	}
	if pulses {
		cfg.Fleet.Endpoint = freePort(t)
	}
	for _, name := range names[:len(s.machines)] {
		cfg.Site.Gateways = append(cfg.Site.Gateways, config.SiteGateway{Name: name})
	}
	for i := len(cfg.Site.Gateways); i < 3; i++ {
		cfg.Site.Gateways = append(cfg.Site.Gateways, config.SiteGateway{Name: names[i]})
	}
	n, err := New(t.Context(), Config{
		Live: func() *config.Config { return cfg }, Store: s.links[i], Gateway: s.machines[i], Grace: time.Second, Reload: func(context.Context) error { return nil }, Registry: prometheus.NewRegistry(), Log: logger(t, names[i]),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	over := make(chan struct{})
	go func() {
		defer close(over)
		_ = n.Run(ctx)
	}()
	s.nodes[i], s.stop[i], s.over[i] = n, cancel, over
	t.Cleanup(func() {
		cancel()
		<-over
	})
}

// kill ends a gateway without a goodbye.
func (s *site) kill(i int) {
	s.links[i].set(true)
	s.machines[i].set(func() { s.machines[i].dead = true })
	s.stop[i]()
	<-s.over[i]
}

// where returns the gateway that a peer uses.
func (s *site) where(peer wireguard.PublicKey) *machine {
	s.laptops.mu.Lock()
	defer s.laptops.mu.Unlock()
	return s.laptops.at[peer]
}

// freePort returns a UDP port of loopback that was free a moment ago.
func freePort(t *testing.T) netip.AddrPort {
	t.Helper()
	c, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	return c.LocalAddr().(*net.UDPAddr).AddrPort()
}

// of returns the sessions that a gateway has, as far as a board knows.
func (b *board) of(gateway string) map[wireguard.PublicKey]sighting {
	b.mu.Lock()
	defer b.mu.Unlock()
	all := make(map[wireguard.PublicKey]sighting)
	if sessions := b.sessions[gateway]; sessions != nil {
		for peer, s := range sessions.all {
			if !s.Over {
				all[peer] = s
			}
		}
	}
	return all
}

// blockWith is a block with one session.
func blockWith(peer wireguard.PublicKey, r record) []byte {
	return appendRecord([]byte{blockFormat}, peer, r)
}
