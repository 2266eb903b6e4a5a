package main

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"penstock/cmd/internal/config"
	"penstock/cmd/internal/enrol"
	"penstock/cmd/internal/fleet"
	"penstock/cmd/internal/fleet/bundle"
	"penstock/cmd/internal/fleet/store"
	"penstock/router/transport/wireguard"
)

// invitingSite is a site that people can join, whose first bundle is in a folder's store.
type invitingSite struct {
	*fleetSite
	store *store.Dir
}

func newInvitingSite(t *testing.T) invitingSite {
	t.Helper()
	s := newFleetSite(t)
	if err := os.Mkdir(s.path("store"), 0o700); err != nil {
		t.Fatal(err)
	}
	_, errs := s.run(0, "fleet keygen enrolment @site/secrets/enrol.key")
	says(t, errs, `private_key: {file: "secrets/enrol.key"}`)
	s.write("site/enrol.yaml", "listen: {enrol: {url: \"https://vpn.example:8443\", private_key: {file: secrets/enrol.key}}}\n")
	s.rules("direct", "a", "b")
	site, err := os.ReadFile(s.path("site/site.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	s.write("site/site.yaml", strings.Replace(string(site), "listen_port: 51820,", "listen_port: 51820, endpoint: \"vpn.example:51820\",", 1))
	s.run(0, "fleet sign @site --key @a.key -o @1.bundle")
	s.run(0, "fleet publish @1.bundle --dir @store")
	d, err := store.OpenDir(s.path("store"))
	if err != nil {
		t.Fatal(err)
	}
	return invitingSite{s, d}
}

// invite invites somebody, and returns the link.
func (s invitingSite) invite(name, more string) enrol.Link {
	s.t.Helper()
	out, errs := s.run(0, "fleet peer invite "+name+" @site --key @a.key --dir @store "+more)
	says(s.t, errs, "penstock join '"+strings.TrimSpace(out)+"'")
	link, err := enrol.ParseLink(out)
	if err != nil {
		s.t.Fatal(err)
	}
	return link
}

// join is what a gateway writes when somebody joins.
func (s invitingSite) join(site string, by bundle.PrivateKey, at bundle.PublicKey) string {
	s.t.Helper()
	key := wireguard.GeneratePrivateKey().Public().String()
	signed, err := bundle.SignJoin(site, key, by)
	if err != nil {
		s.t.Fatal(err)
	}
	if _, err := s.store.Put(s.t.Context(), store.Joins, fleet.JoinKey("berlin", at), signed, store.Any); err != nil {
		s.t.Fatal(err)
	}
	return key
}

// peer returns a peer of the operator's folder.
func (s invitingSite) peer(name string) (config.Peer, bool) {
	s.t.Helper()
	c, err := config.LoadBundle(s.path("site"))
	if err != nil {
		s.t.Fatal(err)
	}
	for _, p := range c.Peers.All() {
		if p.Name == name {
			return p, true
		}
	}
	return config.Peer{}, false
}

func TestPeopleAreInvitedToASite(t *testing.T) {
	s := newInvitingSite(t)
	link := s.invite("ana", "--group staff --for 2h --expires 30d --allowed-ips 10.0.0.0/8")
	if link.Pin.IsZero() || link.Base != "https://vpn.example:8443" {
		t.Errorf("got %q with the pin %v", link.Base, link.Pin)
	}
	key := bundle.InvitationKey(link.Token)
	text, err := os.ReadFile(s.path("site/peers/ana.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	says(t, string(text), key.Public().String())
	token := strings.Split(strings.Split(link.Reveal(), "#")[1], ".")[0]
	entry, err := s.store.Get(t.Context(), store.Peers, fleet.PeerKey("berlin", "ana"))
	if err != nil || strings.Contains(string(entry.Value), token) || strings.Contains(string(text), token) {
		t.Errorf("the token is kept: %v", err)
	}
	c, err := bundle.VerifyChange(entry.Value, []bundle.PublicKey{s.keys["a"].Public()})
	if err != nil || c.Entry != string(text) {
		t.Errorf("got %+v, %v; want the entry %q, signed", c, err, text)
	}
	// Other addresses go to the next, and what ana sends through the tunnel is no address of hers.
	ben := s.invite("ben", "")
	a, _ := s.peer("ana")
	b, _ := s.peer("ben")
	if a.AllowedIPs[0] == b.AllowedIPs[0] || a.State(a.Invite.Until) != "invited" || a.Groups[0] != "staff" || a.Expires.IsZero() || a.Invite.AllowedIPs[0].String() != "10.0.0.0/8" {
		t.Errorf("got %+v and %+v", a, b)
	}
	_, errs := s.run(1, "fleet peer invite ana @site --key @a.key --dir @store")
	says(t, errs, "there is a peer \"ana\" already")

	out, _ := s.run(0, "fleet peer invites @site --dir @store")
	says(t, out, "ana      staff   open")
	// Somebody joins, and somebody else forges joins for ben.
	joined := s.join("berlin", key, key.Public())
	s.join("paris", bundle.InvitationKey(ben.Token), bundle.InvitationKey(ben.Token).Public())
	out, _ = s.run(0, "fleet peer invites @site --dir @store")
	says(t, out, "ana      staff   used")
	says(t, out, "ben      -       open")
	out, _ = s.run(0, "fleet peer invites @site --dir @store --json")
	says(t, out, `"state":"used"`)
	_, errs = s.run(1, "fleet peer uninvite ana @site --key @a.key --dir @store")
	says(t, errs, "the invitation for ana is used: end the access with: penstock fleet peer rm ana")
	_, errs = s.run(0, "fleet peer uninvite ben @site --key @a.key --dir @store")
	says(t, errs, "the invitation for ben is taken back, and will not be in the next bundle")
	_, errs = s.run(1, "fleet peer uninvite ben @site --key @a.key --dir @store")
	says(t, errs, "there is no invitation for ben")

	_, errs = s.run(0, "fleet peer collect @site --dir @store")
	says(t, errs, "peer ana has joined")
	if p, ok := s.peer("ana"); !ok || p.PublicKey != joined || p.Invite != nil || p.AllowedIPs[0] != a.AllowedIPs[0] || p.Groups[0] != "staff" || !p.Expires.Equal(a.Expires) {
		t.Errorf("got %+v, want ana with the key %s", p, joined)
	}
	_, errs = s.run(0, "fleet peer collect @site --dir @store")
	says(t, errs, "has all peers that the store knows of")
	s.run(0, "fleet sign @site --key @a.key -o @2.bundle --previous @1.bundle")
	s.run(0, "fleet publish @2.bundle --dir @store")
	s.run(0, "fleet peer rm ana @site --key @a.key --dir @store")
	if _, ok := s.peer("ana"); ok {
		t.Error("ana is still in the folder")
	}
}

func TestASecondOperatorHasTheInvitations(t *testing.T) {
	s := newInvitingSite(t)
	link := s.invite("ana", "")
	key := bundle.InvitationKey(link.Token)
	// The second operator's folder does not have her.
	if err := os.Rename(s.path("site/peers/ana.yaml"), s.path("ana.yaml")); err != nil {
		t.Fatal(err)
	}
	_, errs := s.run(1, "fleet peer invite ana @site --key @b.key --dir @store")
	says(t, errs, `another operator has added a peer "ana" since generation 1`)
	out, _ := s.run(0, "fleet peer invites @site --dir @store")
	says(t, out, "ana      -       open")
	joined := s.join("berlin", key, key.Public())
	out, _ = s.run(0, "fleet peer invites @site --dir @store")
	says(t, out, "ana      -       used")
	_, errs = s.run(0, "fleet peer collect @site --dir @store")
	says(t, errs, "peer ana of another operator is written to")
	if p, ok := s.peer("ana"); !ok || p.PublicKey != joined {
		t.Errorf("got %+v, want the key %s", p, joined)
	}
	s.run(0, "fleet peer rm ana @site --key @b.key --dir @store")
	if _, ok := s.peer("ana"); ok {
		t.Error("ana is still in the folder")
	}
}

func TestWhatIsEditedByHandIsNotWritten(t *testing.T) {
	s := newInvitingSite(t)
	link := s.invite("ana", "")
	key := bundle.InvitationKey(link.Token)
	text, err := os.ReadFile(s.path("site/peers/ana.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	s.write("site/peers/ana.yaml", string(text)+"    persistent_keepalive: 25s\n")
	joined := s.join("berlin", key, key.Public())
	_, errs := s.run(1, "fleet peer collect @site --dir @store")
	says(t, errs, "write public_key: "+joined+" there, in the place of invite")
	if p, ok := s.peer("ana"); !ok || !p.IsInvited() {
		t.Errorf("got %+v, want it as it was", p)
	}
}

func TestInvitationsThatCannotBeMade(t *testing.T) {
	s := newInvitingSite(t)
	for _, open := range []string{"0s", "31d", "soon", "-1h"} {
		_, errs := s.run(64, "fleet peer invite ana @site --key @a.key --dir @store --for "+open)
		says(t, errs, "write how long the link works")
	}
	s.run(64, "fleet peer invite ana @site --dir @store")
	if err := os.Remove(s.path("site/enrol.yaml")); err != nil {
		t.Fatal(err)
	}
	_, errs := s.run(1, "fleet peer invite ana @site --key @a.key --dir @store")
	says(t, errs, "does not say where people join: make a key with penstock fleet keygen enrolment")
	if _, err := os.Stat(s.path("site/peers/ana.yaml")); !errors.Is(err, os.ErrNotExist) {
		t.Error("something is written")
	}
}

func TestAGatewaySeedsWhoHasJoined(t *testing.T) {
	s := newInvitingSite(t)
	link := s.invite("ana", "")
	key := bundle.InvitationKey(link.Token)
	s.run(0, "fleet sign @site --key @a.key -o @2.bundle --previous @1.bundle")
	s.write("gateway.yaml", fmt.Sprintf("state_dir: %s\nfleet: {site: berlin, gateway: gw, key: {file: gw.key}, signers: [%q], store: {dir: store}}\n",
		s.path("state"), s.keys["a"].Public()))
	s.accept(2)
	signed, err := bundle.SignJoin("berlin", wireguard.GeneratePrivateKey().Public().String(), key)
	if err != nil {
		t.Fatal(err)
	}
	s.write("state/fleet/joins/"+key.Public().Hex()+".join", string(signed))
	for _, there := range []string{"", "garbage"} {
		at := fleet.JoinKey("berlin", key.Public())
		if there != "" {
			if _, err := s.store.Put(t.Context(), store.Joins, at, []byte(there), store.Any); err != nil {
				t.Fatal(err)
			}
		}
		out, _ := s.run(0, "fleet seed -c @gateway.yaml")
		says(t, out, "Peers that have joined by invitation: 1.")
		if entry, err := s.store.Get(t.Context(), store.Joins, at); err != nil || string(entry.Value) != string(signed) {
			t.Errorf("over %q: got %q, %v; want the join", there, entry.Value, err)
		}
	}
	second, err := bundle.SignJoin("berlin", wireguard.GeneratePrivateKey().Public().String(), key)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.store.Put(t.Context(), store.Joins, fleet.JoinKey("berlin", key.Public()), second, store.Any); err != nil {
		t.Fatal(err)
	}
	s.run(0, "fleet seed -c @gateway.yaml")
	if entry, err := s.store.Get(t.Context(), store.Joins, fleet.JoinKey("berlin", key.Public())); err != nil || string(entry.Value) != string(second) {
		t.Errorf("got %q, %v; want the join that the store has", entry.Value, err)
	}
}
