package ingress

import (
	"crypto/sha256"
	"crypto/subtle"
	"fmt"

	"penstock/cmd/internal/config"
	"penstock/router/clients"
)

// Plan says who may come in: the passwords of a configuration. It is immutable, and does not know who has expired.
type Plan struct {
	open      bool // this machine's programs need no login
	passwords map[string]digest
}

// digest stands for a password, so that comparing two takes as long whatever they are.
type digest [sha256.Size]byte

// NewPlan reads the passwords of the peers that are not disabled. The error has the position of the first that cannot be read.
func NewPlan(cfg *config.Config) (*Plan, error) {
	p := &Plan{open: !config.NeedsLogin(cfg), passwords: make(map[string]digest)}
	for i, peer := range cfg.Peers.All() {
		if peer.Disabled || peer.ProxyPassword.IsZero() {
			continue
		}
		password, err := peer.ProxyPassword.Read()
		if err != nil {
			return nil, cfg.Err(fmt.Sprintf("peers[%d].proxy_password", i), err.Error(), "")
		}
		p.passwords[peer.Name] = sha256.Sum256([]byte(password))
	}
	return p, nil
}

// After returns the plan that can follow old in a running penstock. What has asked for logins goes on to do so until a restart, so
// that removing the last peer lets nobody in.
func (p *Plan) After(old *Plan) *Plan {
	next := *p
	next.open = p.open && old.open
	return &next
}

// Login is who came in, and by which password. The zero Login is nobody.
type Login struct {
	Client   uint64
	name     string
	password digest
}

// Open returns the login of this machine's programs, if they need no password.
func (p *Plan) Open() (Login, bool) { return Login{Client: clients.Machine}, p.open }

// Login returns the login of the peer in the book that has this name and password.
func (p *Plan) Login(book *clients.Book, name, password string) (Login, bool) {
	given := digest(sha256.Sum256([]byte(password)))
	want, known := p.passwords[name] // if not known, all zero, which is the digest of no password that anybody can find
	equal := subtle.ConstantTimeCompare(given[:], want[:]) == 1
	client, _, present := book.Named(name)
	if !known || !equal || !present {
		return Login{}, false
	}
	return Login{client, name, given}, true
}

// Holds reports whether a login is still as good as it was.
func (p *Plan) Holds(book *clients.Book, l Login) bool {
	if l.name == "" {
		return p.open && l.Client == clients.Machine
	}
	client, _, present := book.Named(l.name)
	return present && client == l.Client && p.passwords[l.name] == l.password
}
