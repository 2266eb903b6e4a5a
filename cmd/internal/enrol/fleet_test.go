package enrol

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"penstock/cmd/internal/config"
	"penstock/cmd/internal/control"
	"penstock/cmd/internal/fleet/bundle"
	"penstock/cmd/internal/logtest"
	"penstock/router/transport/wireguard"
)

// fakeFleet is a site whose store is a map.
type fakeFleet struct {
	mu     sync.Mutex // guards below
	joined map[bundle.PublicKey]wireguard.PublicKey
	fault  error
}

func (f *fakeFleet) Join(_ context.Context, invitation bundle.PrivateKey, peer wireguard.PublicKey) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, used := f.joined[invitation.Public()]; used {
		return bundle.ErrJoined
	}
	if f.fault == nil {
		f.joined[invitation.Public()] = peer
	}
	return f.fault
}

func (f *fakeFleet) fails(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fault = err
}

// newFleetWorld runs the enrolment of a gateway of a fleet whose bundle invites ana. It returns the link for her.
func newFleetWorld(t *testing.T, invite func(token Token) string) (*world, *fakeFleet, Link) {
	t.Helper()
	w, fleet := &world{dir: t.TempDir(), log: new(logtest.Log)}, &fakeFleet{joined: make(map[bundle.PublicKey]wireguard.PublicKey)}
	signer, err := bundle.NewPrivateKey()
	if err != nil {
		t.Fatal(err)
	}
	id, err := bundle.NewIdentity()
	if err != nil {
		t.Fatal(err)
	}
	const files = "state/fleet/1/files/"
	for _, dir := range []string{files + "secrets", files + "peers"} {
		if err := os.MkdirAll(filepath.Join(w.dir, dir), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	token := NewToken()
	if err := NewKeyFile(filepath.Join(w.dir, files+"secrets/enrol.key")); err != nil {
		t.Fatal(err)
	}
	w.write(t, "own.yaml", fmt.Sprintf("state_dir: %s\nfleet: {site: muc, gateway: a, signers: [%q], store: {dir: store}}\n", filepath.Join(w.dir, "state"), signer.Public()))
	w.write(t, files+"site.yaml", fmt.Sprintf(`site: {name: muc, signers: [%q], gateways: [{name: a, key: %s}]}
listen:
  wireguard: {address: 10.99.0.1/24, private_key: {file: secrets/wg.key}, endpoint: "a.example:51820,b.example:51820"}
  enrol: {url: "https://localhost:8443", private_key: {file: secrets/enrol.key}}
rules: {name: rest, do: direct}
`, signer.Public(), id.Recipient()))
	w.write(t, files+"secrets/wg.key", gatewayPrivate+"\n")
	w.write(t, files+"peers/ana.yaml", invite(token))
	c, err := config.LoadWithBundle(filepath.Join(w.dir, "own.yaml"), filepath.Join(w.dir, filepath.FromSlash(files)), 1)
	if err != nil {
		t.Fatal(err)
	}
	c.Listen.Enrol.Address = "127.0.0.1:0"
	w.current.Store(c)
	w.openWith(t, Config{Listen: c.Listen.Enrol, Gateway: w, Fleet: fleet, Registry: prometheus.NewRegistry(), Log: slog.New(slog.NewTextHandler(w.log, nil))})
	pin, err := SitePin(c.Listen.Enrol)
	if err != nil {
		t.Fatal(err)
	}
	return w, fleet, Link{Base: w.listen.URL, Token: token, Pin: pin}
}

// anaUntil is the entry of ana, invited until a time.
func anaUntil(until time.Time, more string) func(Token) string {
	return func(token Token) string {
		return fmt.Sprintf("peers:\n  - name: ana\n    allowed_ips: [10.99.0.2/32]\n    invite: {key: %q, until: %s}\n%s", bundle.InvitationKey(token).Public(), until.UTC().Format(time.RFC3339), more)
	}
}

func TestPeopleJoinAFleet(t *testing.T) {
	w, fleet, link := newFleetWorld(t, anaUntil(time.Now().Add(time.Hour), ""))
	key := wireguard.GeneratePrivateKey()

	// The store is away, and then it is back.
	fleet.fails(fmt.Errorf("%w: three servers are silent", bundle.ErrAway))
	if _, err := Join(t.Context(), link, key); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "nothing has changed: try again later") {
		t.Errorf("without the store: got %v", err)
	}
	fleet.fails(errors.New("the disk is full"))
	if _, err := Join(t.Context(), link, key); !errors.Is(err, ErrRefused) || strings.Contains(err.Error(), "disk") {
		t.Errorf("a fault of the gateway: got %v", err)
	}
	fleet.fails(nil)
	wrong := link
	wrong.Pin[0]++
	if _, err := Join(t.Context(), wrong, key); !errors.Is(err, ErrNotTheGateway) {
		t.Errorf("with another pin: got %v", err)
	}
	own, err := wireguard.ParsePrivateKey(gatewayPrivate)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Join(t.Context(), link, own); err == nil || !strings.Contains(err.Error(), "make another one") {
		t.Errorf("with the site's own key: got %v", err)
	}
	got, err := Join(t.Context(), link, key)
	if err != nil {
		t.Fatal(err)
	}
	if got.Name != "ana" || len(got.Config.Peers) != 1 || len(got.Config.Peers[0].Endpoints) != 2 || got.Config.Addresses[0].String() != "10.99.0.2/32" ||
		got.Config.Peers[0].PublicKey.String() != gatewayPublic || fleet.joined[bundle.InvitationKey(link.Token).Public()] != key.Public() {
		t.Errorf("got %+v, want the configuration of ana with both endpoints", got)
	}
	for _, again := range []Link{link, {Base: link.Base, Token: NewToken(), Pin: link.Pin}} {
		if _, err := Join(t.Context(), again, wireguard.GeneratePrivateKey()); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), errNotValid.Error()) {
			t.Errorf("a second use, or a guess: got %v", err)
		}
	}
	for why, want := range map[reason]int{isAccepted: 1, isUsed: 1, isUnknown: 1, isAway: 1, isFailed: 1, isClash: 1} {
		if n := w.count(why); n != want {
			t.Errorf("%d attempts count as %s, want %d", n, why, want)
		}
	}
}

func TestWhoIsTooLateForAFleet(t *testing.T) {
	tests := []struct {
		name   string
		invite func(Token) string
		want   reason
	}{
		{"after the time of the link", anaUntil(time.Now().Add(-time.Second), ""), isLate},
		{"after the access has ended", anaUntil(time.Now().Add(time.Hour), "    expires: 2001-01-01T00:00:00Z\n"), isLate},
		{"after the peer was disabled", anaUntil(time.Now().Add(time.Hour), "    disabled: true\n"), isRevoked},
		{"after somebody has joined", anaUntil(time.Now().Add(time.Hour), "    public_key: YmVuIGhhcyBhIGtleSBvZiAzMiBieXRlcywgYW5kIHU=\n"), isUsed},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w, fleet, link := newFleetWorld(t, tt.invite)
			if _, err := Join(t.Context(), link, wireguard.GeneratePrivateKey()); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), errNotValid.Error()) {
				t.Errorf("got %v, want that it is not valid", err)
			}
			if w.count(tt.want) != 1 || len(fleet.joined) > 0 {
				t.Errorf("got %d attempts that count as %s, and %v who have joined", w.count(tt.want), tt.want, fleet.joined)
			}
		})
	}
}

// TestGuessesOfAFleet makes many guesses from one address: they are bounded as on a gateway alone, and ask nobody.
func TestGuessesOfAFleet(t *testing.T) {
	w, fleet, link := newFleetWorld(t, anaUntil(time.Now().Add(time.Hour), ""))
	for range 3 * sourceBurst {
		guess := Link{Base: link.Base, Token: NewToken(), Pin: link.Pin}
		if _, err := Join(t.Context(), guess, wireguard.GeneratePrivateKey()); !errors.Is(err, ErrRefused) {
			t.Fatalf("a guess: got %v", err)
		}
	}
	if w.count(isLimited) == 0 || w.count(isUnknown)+w.count(isLimited) != 3*sourceBurst || len(fleet.joined) > 0 {
		t.Errorf("%d guesses were looked at and %d were not", w.count(isUnknown), w.count(isLimited))
	}
}

func TestOperatorsInviteToAFleet(t *testing.T) {
	w, _, _ := newFleetWorld(t, anaUntil(time.Now().Add(time.Hour), ""))
	_, err := w.Invite(t.Context(), control.InviteQuery{Name: "ben"})
	_, listed := w.Invitations(t.Context())
	for _, err := range []error{err, listed, w.Uninvite(t.Context(), "ana")} {
		if !errors.Is(err, errOfSite) {
			t.Errorf("got %v, want %v", err, errOfSite)
		}
	}
	// The page is the same, and what is away says when to come again.
	r, err := w.client(t).Get(w.listen.URL + joinPath)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	if r.StatusCode != http.StatusOK {
		t.Errorf("the page: got %s", r.Status)
	}
}

// client returns a client that trusts the site's own key.
func (w *world) client(t *testing.T) *http.Client {
	t.Helper()
	pin, err := SitePin(w.listen)
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{TLSClientConfig: trust(pin), DisableKeepAlives: true}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

// TestABundleBringsAnotherKey puts another bundle in force: links pin the new key, so it has to be served at once.
func TestABundleBringsAnotherKey(t *testing.T) {
	w, _, link := newFleetWorld(t, anaUntil(time.Now().Add(time.Hour), ""))
	next := *w.Config()
	listen := *next.Listen.Enrol
	listen.PrivateKey = config.Secret{File: filepath.Join(w.dir, "state/fleet/1/files/secrets/next.key")}
	if err := NewKeyFile(listen.PrivateKey.File); err != nil {
		t.Fatal(err)
	}
	next.Listen.Enrol = &listen
	w.current.Store(&next)
	if _, err := Join(t.Context(), link, wireguard.GeneratePrivateKey()); !errors.Is(err, ErrNotTheGateway) {
		t.Errorf("with the pin of the former key: got %v", err)
	}
	pin, err := SitePin(&listen)
	if err != nil {
		t.Fatal(err)
	}
	link.Pin = pin
	if _, err := Join(t.Context(), link, wireguard.GeneratePrivateKey()); err != nil {
		t.Errorf("with the pin of the new one: %v", err)
	}
}
