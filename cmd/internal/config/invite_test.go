package config

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"penstock/cmd/internal/fleet/bundle"
)

// ownKey makes a key as penstock fleet keygen enrolment does.
func ownKey(t *testing.T) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

// bundlePath is where the bundle is unpacked.
const bundlePath = "state/fleet/1/files"

// invitedSite is a gateway of a fleet with a bundle that invites ana.
type invitedSite struct {
	t   *testing.T
	dir string
	key bundle.PrivateKey // of the invitation
}

func newInvitedSite(t *testing.T) *invitedSite {
	t.Helper()
	s := &invitedSite{t: t, dir: t.TempDir(), key: bundle.InvitationKey([16]byte{7})}
	signer, err := bundle.NewPrivateKey()
	if err != nil {
		t.Fatal(err)
	}
	id, err := bundle.NewIdentity()
	if err != nil {
		t.Fatal(err)
	}
	s.write("own.yaml", fmt.Sprintf("state_dir: %s\nfleet: {site: muc, gateway: a, signers: [%q], store: {dir: store}}\n", s.path("state"), signer.Public()))
	s.write(bundlePath+"/site.yaml", fmt.Sprintf("site: {name: muc, signers: [%q], gateways: [{name: a, key: %s}]}\nlisten:\n  wireguard: {address: 10.99.0.1/24, private_key: {file: secrets/wg.key}}\n"+
		"  enrol: {url: \"https://vpn.example:8443\", private_key: {file: secrets/enrol.key}}\nrules: {name: rest, do: direct}\n", signer.Public(), id.Recipient()))
	s.write(bundlePath+"/secrets/wg.key", "2Bo5n4y4CRcCcX2HMRSL1fBDMhgT1Z4x0AMkYmZ9DGA=\n")
	s.write(bundlePath+"/secrets/enrol.key", ownKey(t))
	s.write(bundlePath+"/peers/ana.yaml", s.entry("ana", "10.99.0.2/32"))
	return s
}

// entry is an invited peer.
func (s *invitedSite) entry(name, address string) string {
	return fmt.Sprintf("peers:\n  - name: %s\n    allowed_ips: [%s]\n    groups: [staff]\n    invite: {key: %q, until: 2030-01-02T03:04:05Z, allowed_ips: [0.0.0.0/0]}\n", name, address, s.key.Public())
}

func (s *invitedSite) path(name string) string { return filepath.Join(s.dir, filepath.FromSlash(name)) }

func (s *invitedSite) write(name, text string) {
	s.t.Helper()
	if err := os.MkdirAll(filepath.Dir(s.path(name)), 0o700); err != nil {
		s.t.Fatal(err)
	}
	if err := os.WriteFile(s.path(name), []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
}

func (s *invitedSite) load() (*Config, error) {
	return LoadWithBundle(s.path("own.yaml"), s.path(bundlePath), 1)
}

func TestAnInvitedPeerHasNoKeyUntilSomebodyJoins(t *testing.T) {
	const key = "YmVuIGhhcyBhIGtleSBvZiAzMiBieXRlcywgYW5kIHU="
	s := newInvitedSite(t)
	c, err := s.load()
	if err != nil {
		t.Fatal(err)
	}
	p, ok := Invited(c, s.key.Public())
	if !ok || p.Name != "ana" || !p.IsInvited() || p.HasTunnel() || p.State(time.Now()) != "invited" || len(p.Invite.AllowedIPs) != 1 || p.Invite.Until.Year() != 2030 {
		t.Errorf("got %+v, %v; want ana, invited", p, ok)
	}
	if _, ok := Invited(c, bundle.InvitationKey([16]byte{8}).Public()); ok {
		t.Error("somebody is invited with a token that was never made")
	}
	if operator, err := LoadBundle(s.path(bundlePath)); err != nil {
		t.Error(err)
	} else if p, ok := Invited(operator, s.key.Public()); !ok || !p.IsInvited() {
		t.Errorf("in the operator's folder: got %+v, %v; want ana, invited", p, ok)
	}

	join, err := bundle.SignJoin("muc", key, s.key)
	if err != nil {
		t.Fatal(err)
	}
	file := "state/fleet/joins/" + s.key.Public().Hex() + ".join"
	s.write(file, string(join))
	next, err := c.Reload()
	if err != nil {
		t.Fatal(err)
	}
	if p, ok := Invited(next, s.key.Public()); !ok || p.PublicKey != key || p.IsInvited() || p.State(time.Now()) != "" {
		t.Errorf("after somebody has joined: got %+v, %v", p, ok)
	}
	if p, _ := Invited(c, s.key.Public()); p.PublicKey != "" {
		t.Error("the configuration before has changed")
	}

	for name, text := range map[string]func() (bundle.Signed, error){
		"of another site":    func() (bundle.Signed, error) { return bundle.SignJoin("paris", key, s.key) },
		"with another token": func() (bundle.Signed, error) { return bundle.SignJoin("muc", key, bundle.InvitationKey([16]byte{8})) },
		"garbage":            func() (bundle.Signed, error) { return bundle.Signed("garbage"), nil },
	} {
		signed, err := text()
		if err != nil {
			t.Fatal(err)
		}
		s.write(file, string(signed))
		if _, err := s.load(); err == nil || !strings.Contains(err.Error(), "remove the file: the store has the join") {
			t.Errorf("a join %s: got %v, want an error", name, err)
		}
	}
}

func TestFaultsOfInvitations(t *testing.T) {
	tests := []struct {
		name   string
		change func(*invitedSite)
		want   string
	}{
		{"two with one token", func(s *invitedSite) { s.write(bundlePath+"/peers/ben.yaml", s.entry("ben", "10.99.0.3/32")) }, "peer ben has the invite of peer ana"},
		{"one without an address", func(s *invitedSite) {
			s.write(bundlePath+"/peers/ana.yaml", strings.Replace(s.entry("ana", "10.99.0.2/32"), "allowed_ips: [10.99.0.2/32]", "disabled: false", 1))
		}, "peer ana has no addresses"},
		{"one without a key", func(s *invitedSite) {
			s.write(bundlePath+"/peers/ana.yaml", strings.Replace(s.entry("ana", "10.99.0.2/32"), "ed25519:", "", 1))
		}, "make the invitation with penstock fleet peer invite"},
		{"one with an endpoint that is none", func(s *invitedSite) {
			s.write(bundlePath+"/peers/ana.yaml", strings.Replace(s.entry("ana", "10.99.0.2/32"), "until:", "endpoint: nowhere, until:", 1))
		}, "invite.endpoint"},
		{"in a gateway's own file", func(s *invitedSite) {
			s.write("own.yaml", "listen: {wireguard: {address: 10.99.0.1/24, private_key: {file: "+bundlePath+"/secrets/wg.key}}}\nrules: {name: rest, do: direct}\n"+s.entry("ana", "10.99.0.2/32"))
		}, "use penstock peer invite"},
		{"a port of one gateway alone", func(s *invitedSite) {
			text, err := os.ReadFile(s.path("own.yaml"))
			if err != nil {
				s.t.Fatal(err)
			}
			site, err := os.ReadFile(s.path(bundlePath + "/site.yaml"))
			if err != nil {
				s.t.Fatal(err)
			}
			s.write(bundlePath+"/site.yaml", strings.Replace(string(site), "  enrol:", "  # enrol:", 1))
			s.write("own.yaml", string(text)+"listen: {enrol: {url: \"https://vpn.example:8443\"}}\n")
		}, "people join the gateways of a fleet together"},
		{"a port without a key", func(s *invitedSite) {
			site, err := os.ReadFile(s.path(bundlePath + "/site.yaml"))
			if err != nil {
				s.t.Fatal(err)
			}
			s.write(bundlePath+"/site.yaml", strings.Replace(string(site), ", private_key: {file: secrets/enrol.key}", "", 1))
		}, "penstock fleet keygen enrolment"},
		{"a port with another kind of key", func(s *invitedSite) {
			s.write(bundlePath+"/secrets/enrol.key", "2Bo5n4y4CRcCcX2HMRSL1fBDMhgT1Z4x0AMkYmZ9DGA=\n")
		}, "an ECDSA key in PEM"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newInvitedSite(t)
			tt.change(s)
			if _, err := s.load(); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want an error that says %q", err, tt.want)
			}
		})
	}
}
