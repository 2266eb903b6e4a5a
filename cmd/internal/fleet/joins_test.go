package fleet

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"penstock/cmd/internal/config"
	"penstock/cmd/internal/fleet/bundle"
	"penstock/cmd/internal/fleet/store"
	"penstock/cmd/internal/logtest"
	"penstock/router/transport/wireguard"
)

// inviting is a site whose gateways read real bundles from their disks. Its bundle invites ana and ben, with the tokens 1 and 2.
type inviting struct {
	engine   *engine
	signer   bundle.PrivateKey
	gateways []*joinable
}

// joinable is a gateway that people can join.
type joinable struct {
	*Node
	link *link
	live atomic.Pointer[config.Config]
	said *logtest.Log
	dir  string
	stop func()
}

func token(n byte) bundle.PrivateKey { return bundle.InvitationKey([16]byte{n}) }

// entry is an invited peer, as the operator's folder has it.
func entry(name string, n byte) string {
	return fmt.Sprintf("peers:\n  - name: %s\n    allowed_ips: [10.99.0.%d/32]\n    invite: {key: %q, until: 2100-01-01T00:00:00Z}\n", name, n+1, token(n).Public())
}

// newInviting starts gateways.
func newInviting(t *testing.T, gateways int) *inviting {
	t.Helper()
	signer, err := bundle.NewPrivateKey()
	if err != nil {
		t.Fatal(err)
	}
	s := &inviting{engine: newEngine(), signer: signer}
	for i := range gateways {
		g := &joinable{link: &link{engine: s.engine}, said: new(logtest.Log), dir: t.TempDir()}
		s.gateways = append(s.gateways, g)
		s.write(t, g, "own.yaml", fmt.Sprintf("state_dir: %s\nfleet: {site: lab, gateway: %s, signers: [%q], store: {dir: unused}}\n", g.path("state"), names[i], signer.Public()))
	}
	s.publish(t, 1, map[string]string{"ana": entry("ana", 1), "ben": entry("ben", 2)})
	for i := range s.gateways {
		s.start(t, i)
	}
	return s
}

// publish puts a bundle on the disks of all gateways and into the store.
func (s *inviting) publish(t *testing.T, generation uint64, peers map[string]string) {
	t.Helper()
	dir := t.TempDir()
	gateways, listed := "", []bundle.Gateway(nil)
	var ids []*bundle.Identity
	for i := range s.gateways {
		id, err := bundle.NewIdentity()
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, id)
		gateways += fmt.Sprintf("{name: %s, key: %s}, ", names[i], id.Recipient())
		listed = append(listed, bundle.Gateway{Name: names[i], Recipient: id.Recipient()})
	}
	files := map[string]string{
		"site.yaml": fmt.Sprintf("site: {name: lab, signers: [%q], gateways: [%s]}\nlisten: {wireguard: {address: 10.99.0.1/24, private_key: {file: wg.key}}}\nrules: {name: rest, do: direct}\n", s.signer.Public(), gateways),
		"wg.key":    "2Bo5n4y4CRcCcX2HMRSL1fBDMhgT1Z4x0AMkYmZ9DGA=\n",
	}
	for name, text := range peers {
		files["peers/"+name+".yaml"] = text
	}
	for name, text := range files {
		write(t, filepath.Join(dir, name), text)
	}
	built, err := bundle.Build(dir, bundle.Manifest{Site: "lab", Generation: generation, Signers: []bundle.PublicKey{s.signer.Public()}, Gateways: listed})
	if err != nil {
		t.Fatal(err)
	}
	signed, err := bundle.Sign(built.Manifest, s.signer)
	if err != nil {
		t.Fatal(err)
	}
	for i, g := range s.gateways {
		disk := bundle.Disk{Dir: g.path("state/fleet")}
		if _, err := disk.Unpack(t.Context(), signed, &built.Manifest, ids[i], built.Fetch); err != nil {
			t.Fatal(err)
		}
		if err := disk.Accept(t.Context(), generation); err != nil {
			t.Fatal(err)
		}
		g.read(t.Context())
	}
	if _, err := (&link{engine: s.engine}).Put(t.Context(), store.Truth, "lab", signed, store.Any); err != nil {
		t.Fatal(err)
	}
}

func (g *joinable) path(name string) string { return filepath.Join(g.dir, filepath.FromSlash(name)) }

func (s *inviting) write(t *testing.T, g *joinable, name, text string) {
	t.Helper()
	write(t, g.path(name), text)
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// read is a reload.
func (g *joinable) read(context.Context) error {
	c, err := config.LoadServing(g.path("own.yaml"), nil)
	if err == nil {
		g.live.Store(c)
	}
	return err
}

// start starts a gateway, as after a restart.
func (s *inviting) start(t *testing.T, i int) {
	t.Helper()
	g := s.gateways[i]
	if err := g.read(t.Context()); err != nil {
		t.Fatal(err)
	}
	m := &machine{name: names[i], all: &laptops{at: make(map[wireguard.PublicKey]*machine)}, sessions: make(map[wireguard.PublicKey]time.Time)}
	n, err := New(t.Context(), Config{
		Live: g.live.Load, Store: g.link, Gateway: m, Grace: time.Second, Reload: g.read, Registry: prometheus.NewRegistry(), Log: slog.New(slog.NewTextHandler(g.said, nil)),
		Use: func(context.Context, string, uint64, func() error) error {
			return errors.New("all bundles are on disk before")
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	n.bundles.again = 50 * time.Millisecond
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	over := make(chan struct{})
	go func() {
		defer close(over)
		_ = n.Run(ctx)
	}()
	g.Node, g.stop = n, func() { cancel(); <-over }
	t.Cleanup(g.stop)
	eventually(t, names[i]+" uses the store", n.Connected)
}

// key returns the key that a gateway has of an invited peer.
func (g *joinable) key(n byte) string {
	p, _ := config.Invited(g.live.Load(), token(n).Public())
	return p.PublicKey
}

// joins joins. On a slow machine the gateway may be late with its beats, and take the store for away.
func (g *joinable) joins(t *testing.T, invitation bundle.PrivateKey, key wireguard.PublicKey) {
	t.Helper()
	eventually(t, "somebody joins", func() bool {
		err := g.Join(t.Context(), invitation, key)
		if err != nil && !errors.Is(err, bundle.ErrAway) {
			t.Fatalf("joins: %v", err)
		}
		return err == nil
	})
}

// all reports whether all gateways have a key of a peer.
func (s *inviting) all(n byte, want wireguard.PublicKey) func() bool {
	return func() bool {
		for _, g := range s.gateways {
			if g.key(n) != want.String() {
				return false
			}
		}
		return true
	}
}

func newKey() wireguard.PublicKey { return wireguard.GeneratePrivateKey().Public() }

// put writes into the store as a gateway in bad hands does.
func (s *inviting) put(t *testing.T, n byte, value []byte) {
	t.Helper()
	if _, err := (&link{engine: s.engine}).Put(t.Context(), store.Joins, JoinKey("lab", token(n).Public()), value, store.Any); err != nil {
		t.Fatal(err)
	}
}

func signedJoin(t *testing.T, site string, peer wireguard.PublicKey, by bundle.PrivateKey) bundle.Signed {
	t.Helper()
	signed, err := bundle.SignJoin(site, peer.String(), by)
	if err != nil {
		t.Fatal(err)
	}
	return signed
}

func TestWhoJoinsOneGatewayIsAPeerOfAll(t *testing.T) {
	s := newInviting(t, 3)
	ana, ben := newKey(), newKey()
	s.gateways[0].joins(t, token(1), ana)
	if got := s.gateways[0].key(1); got != ana.String() {
		t.Errorf("when Join has returned, the gateway has %q, want %s", got, ana)
	}
	eventually(t, "all gateways have ana", s.all(1, ana))
	for _, g := range s.gateways {
		if err := g.Join(t.Context(), token(1), newKey()); !errors.Is(err, bundle.ErrJoined) {
			t.Errorf("a second time: got %v, want ErrJoined", err)
		}
		if err := g.Join(t.Context(), token(9), newKey()); err == nil {
			t.Error("with a token that nobody made: got no error")
		}
	}

	// The engine is wiped, and everything starts anew.
	s.engine.wipe()
	for i, g := range s.gateways {
		g.stop()
		s.start(t, i)
	}
	if !s.all(1, ana)() {
		t.Error("after a restart without the store's contents, ana is gone")
	}
	eventually(t, "a second join is refused where the first is known", func() bool {
		return errors.Is(s.gateways[1].Join(t.Context(), token(1), newKey()), bundle.ErrJoined)
	})
	s.gateways[1].joins(t, token(2), ben)
	eventually(t, "all gateways have ben", s.all(2, ben))

	// The next bundle still has the invitation of ana, has ben as a peer, and no longer the invitation.
	s.publish(t, 2, map[string]string{
		"ana": entry("ana", 1), "ben": fmt.Sprintf("peers:\n  - {name: ben, public_key: %q, allowed_ips: [10.99.0.3/32]}\n", ben),
	})
	if !s.all(1, ana)() {
		t.Error("with the next bundle, ana is gone")
	}
	// And the one after that does not have ana.
	s.publish(t, 3, nil)
	for _, g := range s.gateways {
		if g.live.Load().Peers.Len() > 0 {
			t.Errorf("%s has %v, want nobody", g.self, g.live.Load().Peers)
		}
		if err := g.Join(t.Context(), token(1), newKey()); !errors.Is(err, bundle.ErrJoined) {
			t.Errorf("an invitation that is in no bundle: got %v, want ErrJoined", err)
		}
	}
}

func TestOfAThousandAtOnceOneJoins(t *testing.T) {
	s := newInviting(t, 2)
	var wg sync.WaitGroup
	var joined atomic.Int32
	var who atomic.Pointer[wireguard.PublicKey]
	for i := range 1000 {
		wg.Go(func() {
			key := newKey()
			switch err := s.gateways[i%2].Join(t.Context(), token(1), key); {
			case err == nil:
				joined.Add(1)
				who.Store(&key)
			case !errors.Is(err, bundle.ErrJoined) && !errors.Is(err, bundle.ErrAway): // a slow machine is late with its beats
				t.Errorf("got %v, want ErrJoined", err)
			}
		})
	}
	wg.Wait()
	if got := joined.Load(); got != 1 {
		t.Fatalf("%d have joined with one invitation, want 1", got)
	}
	eventually(t, "both gateways have the same one", s.all(1, *who.Load()))
	for _, g := range s.gateways {
		if n := testutil.ToFloat64(g.metrics.forged); n != 0 {
			t.Errorf("%v joins count as forged, want 0", n)
		}
	}
}

func TestNobodyJoinsWithoutTheStore(t *testing.T) {
	s := newInviting(t, 2)
	s.gateways[0].link.set(true)
	eventually(t, "the gateway says that the store is away", func() bool {
		return errors.Is(s.gateways[0].Join(t.Context(), token(1), newKey()), bundle.ErrAway)
	})
	if got := s.gateways[0].key(1); got != "" {
		t.Errorf("got the key %s, want none: nothing has changed", got)
	}
	ana := newKey()
	s.gateways[1].joins(t, token(1), ana) // the invitation is not used up
	s.gateways[0].link.set(false)
	eventually(t, "all have ana when the store is back", s.all(1, ana))
}

func TestForgedJoinsAreRefused(t *testing.T) {
	s := newInviting(t, 2)
	ana := newKey()
	counted := func(want float64) {
		t.Helper()
		for _, g := range s.gateways {
			eventually(t, fmt.Sprintf("%s has counted %v forged joins", g.self, want), func() bool { return testutil.ToFloat64(g.metrics.forged) >= want })
			if got := testutil.ToFloat64(g.metrics.forged); got != want {
				t.Errorf("%s has counted %v, want %v", g.self, got, want)
			}
		}
	}
	for i, forged := range []bundle.Signed{
		bundle.Signed("garbage"),
		make([]byte, store.MaxValue),
		signedJoin(t, "lab", newKey(), token(3)),
		signedJoin(t, "paris", newKey(), token(1)),
		signedJoin(t, "lab", wireguard.PublicKey{1}, token(1)), // of low order
	} {
		s.put(t, 1, forged)
		counted(float64(i + 1))
	}
	// Whom nobody has invited, and keys that are no key of a join, are no matter for anybody.
	s.put(t, 9, signedJoin(t, "lab", newKey(), token(9)))
	for _, key := range []string{"lab", "lab.00", "lab." + strings.Repeat("zz", 32), "lab." + token(1).Public().Hex() + ".x"} {
		if _, err := (&link{engine: s.engine}).Put(t.Context(), store.Joins, key, []byte("garbage"), store.Any); err != nil {
			t.Fatal(err)
		}
	}
	// What is there keeps nobody out.
	s.gateways[0].joins(t, token(1), ana)
	eventually(t, "all gateways have ana", s.all(1, ana))
	counted(5)
	// Another key over it, signed by somebody who has the token.
	s.put(t, 1, signedJoin(t, "lab", newKey(), token(1)))
	counted(6)
	// And ana's own for ben.
	s.put(t, 2, signedJoin(t, "lab", ana, token(2)))
	counted(7)
	s.put(t, 1, nil)
	s.put(t, 1, []byte("garbage"))
	counted(8)
	if !s.all(1, ana)() || s.gateways[0].key(2) != "" || s.gateways[1].key(2) != "" {
		t.Error("somebody else has come in")
	}
	for _, g := range s.gateways {
		if got := g.said.Count("a join to an invitation is refused"); got != 2 {
			t.Errorf("%s: the log says it %d times, want once for each of two invitations", g.self, got)
		}
	}
}

// TestJoinsThatNobodyWasInvitedToAreBounded lets a gateway in bad hands fill the store.
func TestJoinsThatNobodyWasInvitedToAreBounded(t *testing.T) {
	j := newJoins()
	key := func(i int) bundle.PublicKey { return bundle.PublicKey{byte(i), byte(i >> 8), 1} }
	value := make([]byte, store.MaxValue)
	for i := range mostJoins {
		if room, _ := j.told(key(i), store.Entry{Value: value[:3*mostOfJoin]}); !room {
			t.Fatalf("no room for join %d", i)
		}
	}
	for i, news := range []bool{true, false} {
		if room, before := j.told(key(mostJoins+i), store.Entry{Value: value}); room || before != news {
			t.Errorf("more than the bound: got %v, %v; want no room, and that it is new: %v", room, before, news)
		}
	}
	j.by[key(7)].foreign = true
	if room, _ := j.told(key(mostJoins), store.Entry{Value: value}); !room || j.by[key(7)] != nil || len(j.by) != mostJoins {
		t.Error("a join that nobody was invited to keeps another one out")
	}
	for _, one := range j.by {
		if cap(one.signed) > 2*mostOfJoin {
			t.Fatalf("a join takes %d bytes", cap(one.signed))
		}
	}
}

func TestAJoinThatCannotBePutInForceIsTriedAgain(t *testing.T) {
	s := newInviting(t, 1)
	g := s.gateways[0]
	if err := os.MkdirAll(g.path("state/fleet"), 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, g.path("state/fleet/joins"), "in the way of the folder")
	ana := newKey()
	g.joins(t, token(1), ana) // the store has the join
	eventually(t, "a second one is refused", func() bool { return errors.Is(g.Join(t.Context(), token(1), newKey()), bundle.ErrJoined) })
	if err := os.Remove(g.path("state/fleet/joins")); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the disk is mended", s.all(1, ana))
}

func TestJoinsOfOldInvitationsAreForgottenLate(t *testing.T) {
	s := newInviting(t, 1)
	g := s.gateways[0]
	g.joins(t, token(1), newKey())
	file := g.live.Load().Fleet.JoinOf(token(1).Public())
	s.publish(t, 2, nil)
	_ = g.bundles.join(t.Context())
	if _, err := os.Stat(file); err != nil {
		t.Errorf("the join is gone with the bundle: %v", err)
	}
	long := time.Now().Add(-joinKept - time.Hour)
	if err := os.Chtimes(file, long, long); err != nil {
		t.Fatal(err)
	}
	_ = g.bundles.join(t.Context())
	if _, err := os.Stat(file); !os.IsNotExist(err) {
		t.Errorf("got %v, want that the join is gone", err)
	}
}

func TestOnlyInvitationsOfOperatorsCount(t *testing.T) {
	s := newInviting(t, 2)
	stranger, err := bundle.NewPrivateKey()
	if err != nil {
		t.Fatal(err)
	}
	invite := func(name string, n byte, signer bundle.PrivateKey, generation uint64) {
		t.Helper()
		signed, err := bundle.SignChange(bundle.Change{Site: "lab", Generation: generation, Number: 1, Peer: name, Entry: entry(name, n)}, signer)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := (&link{engine: s.engine}).Put(t.Context(), store.Peers, PeerKey("lab", name), signed, store.Any); err != nil {
			t.Fatal(err)
		}
	}
	invite("eve", 3, stranger, 1)
	invite("old", 4, s.signer, 7) // of another bundle
	s.put(t, 3, signedJoin(t, "lab", newKey(), token(3)))
	s.put(t, 4, signedJoin(t, "lab", newKey(), token(4)))
	carl := newKey()
	s.put(t, 5, signedJoin(t, "lab", carl, token(5))) // it is faster than its invitation
	invite("carl", 5, s.signer, 1)
	eventually(t, "who was invited between bundles has joined", s.all(5, carl))
	for _, g := range s.gateways {
		for _, p := range g.live.Load().Peers.All() {
			if p.Name == "eve" || p.Name == "old" {
				t.Errorf("%s has %s", g.self, p.Name)
			}
		}
		if err := g.Join(t.Context(), token(3), newKey()); err == nil {
			t.Error("somebody has joined whom only a stranger has invited")
		}
	}
}
