package enrol

import (
	"context"
	"crypto"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"penstock/cmd/internal/config"
	"penstock/cmd/internal/control"
	"penstock/cmd/internal/door"
	"penstock/cmd/internal/handover"
	"penstock/cmd/internal/peerbook"
	"penstock/cmd/internal/renewed"
)

// The files in the folder enrol of state_dir.
const (
	invitationsName = "invitations.json"
	keyName         = "certificate.key"
	lockName        = ".lock"
)

const (
	defaultFor = 24 * time.Hour
	lockWait   = 10 * time.Second // for another penstock that is stopping, and for commands that change peers
)

// LongestFor is how long an invitation may be open: 30 days, of which one has 25 hours where summer ends.
const LongestFor = 30*24*time.Hour + time.Hour

// Authority issues certificates for the port.
type Authority interface {
	// Certificate returns the one for a host, or nil if there is none that is valid now.
	Certificate(host string) *tls.Certificate
	// Answering returns a configuration that also answers the authority's own question.
	Answering(base *tls.Config) *tls.Config
}

// Config is what an Enrolment works with.
type Config struct {
	Listen   *config.EnrolListen   // nil: nobody is invited
	Gateway  peerbook.Gateway      // whose peers they become
	Fleet    Fleet                 // that they join, if the gateway is one of several; nil: only the gateway
	Sockets  *handover.Sockets     // nil: the port is closed while penstock restarts
	ACME     Authority             // with acme: true
	Mark     uint32                // of the port's connections, on Linux; 0: none
	Registry prometheus.Registerer // nil: nothing is counted
	Log      *slog.Logger          // nil: nothing is logged
}

// Enrolment invites people and lets them join. Its methods may be called concurrently.
type Enrolment struct {
	gateway     peerbook.Gateway
	fleet       Fleet // nil: only the gateway
	log         *slog.Logger
	listen      *config.EnrolListen
	attempts    *prometheus.CounterVec
	limit       *limit
	invitations *invitations
	acme        Authority
	own         *tls.Certificate // the gateway's own; nil if files have another
	pin         Pin              // of its key, also in a certificate that an authority has issued; zero if files have another
	server      *server
	closers     []func()
	close       sync.Once
}

// Open opens the port and reads the invitations. The caller closes what it returns, whether or not Run was called.
func Open(ctx context.Context, c Config) (*Enrolment, error) {
	e := &Enrolment{gateway: c.Gateway, fleet: c.Fleet, log: c.Log, listen: c.Listen, acme: c.ACME, attempts: newMetric(c.Registry), limit: newLimit()}
	if e.log == nil {
		e.log = slog.New(slog.DiscardHandler)
	}
	if e.listen == nil {
		return e, nil
	}
	if err := e.open(ctx, c); err != nil {
		_ = e.Close()
		return nil, err
	}
	return e, nil
}

func (e *Enrolment) open(ctx context.Context, c Config) error {
	if e.fleet == nil {
		if err := e.openInvitations(ctx); err != nil {
			return err
		}
	}
	certificate, err := e.certificate()
	if err != nil {
		return err
	}
	l, err := c.Sockets.Listen(ctx, net.ListenConfig{Control: handover.Marked(c.Mark)}, "tcp", e.listen.Address)
	if err != nil {
		return e.mend("address", err, "stop the program that uses it, or choose another address")
	}
	bounds := &door.Door{Most: mostConns, MostPerSource: mostConnsPerSource}
	secure := &tls.Config{MinVersion: tls.VersionTLS13, GetCertificate: certificate, NextProtos: []string{"http/1.1"}}
	if e.listen.ACME {
		secure = e.acme.Answering(secure)
	}
	e.server = newServer(tls.NewListener(bounds.Guard(l), secure), e)
	e.closers = append(e.closers, e.server.close)
	e.log.Info("invited people can join", "url", e.listen.URL, "address", l.Addr().String())
	return nil
}

// openInvitations takes the folder, and reads the invitations in it.
func (e *Enrolment) openInvitations(ctx context.Context) error {
	folder := e.listen.Folder
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return e.unkept(err)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, lockWait, errors.New("another penstock uses it"))
	defer cancel()
	unlock, err := peerbook.LockFile(ctx, filepath.Join(folder, lockName))
	if err != nil {
		return e.unkept(err)
	}
	e.closers = append(e.closers, unlock)
	e.invitations = openInvitations(filepath.Join(folder, invitationsName))
	if e.invitations.fault != nil {
		e.log.Error("nobody can join", "err", e.invitations.fault)
	}
	return nil
}

// certificate returns what chooses the certificate of a handshake.
func (e *Enrolment) certificate() (func(*tls.ClientHelloInfo) (*tls.Certificate, error), error) {
	if e.listen.Certificate != "" || e.fleet != nil {
		f := new(renewed.Certificate)
		get := func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			listen := e.nowListening()
			return f.Get(listen, func() (tls.Certificate, error) { return keyPair(listen) }, e.log, "listen.enrol")
		}
		if _, err := get(nil); err != nil {
			return nil, e.mend("certificate", err, "name the files of a certificate and its key, or neither")
		}
		return get, nil
	}
	own, pin, err := ownCertificate(filepath.Join(e.listen.Folder, keyName), e.listen.Host(), time.Now())
	if err != nil {
		return nil, e.unkept(err)
	}
	e.own, e.pin = own, pin
	return func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
		if issued := e.issued(); issued != nil {
			return issued, nil
		}
		return own, nil
	}, nil
}

// issued returns the certificate that an authority has issued for the gateway's own key, or nil. One for another key would break the
// links that pin this one.
func (e *Enrolment) issued() *tls.Certificate {
	if !e.listen.ACME {
		return nil
	}
	if c := e.acme.Certificate(e.listen.Host()); c != nil && pinOf(c.Leaf) == e.pin {
		return c
	}
	return nil
}

// Key returns the key that a certificate by an authority has to be for, because links pin it: the one of the gateway's own certificate,
// for the page on which people join. It is nil for other pages.
func (e *Enrolment) Key(page string) crypto.Signer {
	if e.own == nil || page != "listen.enrol" {
		return nil
	}
	return e.own.PrivateKey.(crypto.Signer)
}

// mend is an error about a key of listen.enrol.
func (e *Enrolment) mend(key string, err error, mend string) error {
	return e.gateway.Config().Err("listen.enrol."+key, err.Error(), mend)
}

// unkept is an error about the folder.
func (e *Enrolment) unkept(err error) error {
	return e.gateway.Config().Err("state_dir", "listen.enrol cannot keep invitations: "+err.Error(), "give each gateway a state_dir of its own, which its user can write")
}

// Run serves those who join until ctx ends, and waits for those who are joining. It returns nil when ctx ended it.
func (e *Enrolment) Run(ctx context.Context) error {
	if e.server == nil {
		return nil
	}
	return e.server.run(ctx)
}

// Close closes the port at once. It is idempotent.
func (e *Enrolment) Close() error {
	e.close.Do(func() {
		for i := len(e.closers) - 1; i >= 0; i-- {
			e.closers[i]()
		}
	})
	return nil
}

// errNoEnrolment is for a gateway without listen.enrol.
var errNoEnrolment = errors.New("this gateway invites nobody: add listen: {enrol: {url: \"https://HOST:8443\"}} to its configuration " +
	"and restart it, or use penstock peer add")

// offers returns why nobody is invited on this gateway itself, or nil.
func (e *Enrolment) offers() error {
	switch {
	case e.listen == nil:
		return errNoEnrolment
	case e.fleet != nil:
		return errOfSite
	}
	return nil
}

// Invite makes an invitation, if the gateway could take the peer now.
func (e *Enrolment) Invite(ctx context.Context, q control.InviteQuery) (control.Invited, error) {
	if err := e.offers(); err != nil {
		return control.Invited{}, err
	}
	now := time.Now().UTC().Truncate(time.Second)
	terms := peerbook.Terms{Name: q.Name, Groups: q.Groups, Expires: q.Expires, Endpoint: q.Endpoint, AllowedIPs: q.AllowedIPs}
	if q.For == 0 {
		q.For = defaultFor
	}
	if err := e.checkTerms(ctx, terms, q.For, now); err != nil {
		return control.Invited{}, err
	}
	until := now.Add(q.For).Truncate(time.Second)
	if !terms.Expires.IsZero() && terms.Expires.Before(until) {
		until = terms.Expires
	}
	token, err := e.invitations.add(terms, now, until)
	if err != nil {
		return control.Invited{}, err
	}
	e.log.Info("invited", "peer", terms.Name, "until", until)
	link := Link{Base: e.listen.URL, Token: token, Pin: e.pin}
	return control.Invited{Name: terms.Name, Link: link.Reveal(), Until: until, Pinned: !e.pin.IsZero() && e.issued() == nil}, nil
}

// checkTerms returns why a peer could not be made, so that it is said to whoever invites and not to whoever is invited.
func (e *Enrolment) checkTerms(ctx context.Context, t peerbook.Terms, open time.Duration, now time.Time) error {
	if err := config.CheckNewPeer(t.Name); err != nil {
		return fmt.Errorf("%w: choose another", err)
	}
	for _, g := range t.Groups {
		if err := config.CheckName(g); err != nil {
			return fmt.Errorf("a group: %w: choose another", err)
		}
	}
	switch {
	case open < time.Second || open > LongestFor:
		return fmt.Errorf("an invitation is open for one second to %d days, and not for %v", LongestFor/(24*time.Hour), open)
	case !t.Expires.IsZero() && !t.Expires.After(now):
		return fmt.Errorf("the access of %s would have ended at %s", t.Name, t.Expires.Local().Format(time.DateTime))
	}
	folder, c, err := peerbook.OpenLive(ctx, e.gateway.Config(), t.Name)
	if err == nil {
		defer folder.Close()
		err = folder.Writable()
	}
	switch {
	case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.EROFS): // a service sees other folders as read-only
		return fmt.Errorf("the running gateway cannot write the files of peers, so nobody could join: give the folder to its user, and let its service write there: %w", err)
	case err != nil:
		return err
	}
	_, _, err = folder.Plan(c, t, e.inForce())
	return err
}

// inForce returns the addresses of the peers in force. If a file has a fault now, they may be in no file.
func (e *Enrolment) inForce() []peerbook.FormerAddress {
	var list []peerbook.FormerAddress
	for _, p := range e.gateway.Config().Peers.All() {
		for _, a := range p.AllowedIPs {
			list = append(list, peerbook.FormerAddress{Address: a, Peer: p.Name})
		}
	}
	return list
}

// Invitations returns the invitations, also those that are over, oldest first.
func (e *Enrolment) Invitations(context.Context) ([]control.Invitation, error) {
	if err := e.offers(); err != nil {
		return nil, err
	}
	list, err := e.invitations.all()
	var out []control.Invitation
	for _, v := range list {
		shown := control.Invitation{
			Name: v.Terms.Name, Groups: v.Terms.Groups, State: string(v.State), Made: v.Made, Until: v.Until, Ended: v.Ended, Expires: v.Terms.Expires,
		}
		if why, ok := v.live(time.Now()); !ok {
			shown.State = string(why)
		}
		out = append(out, shown)
	}
	return out, err
}

// Uninvite takes back the open invitation of a name.
func (e *Enrolment) Uninvite(_ context.Context, name string) error {
	if err := e.offers(); err != nil {
		return err
	}
	if err := e.invitations.revoke(name, time.Now().UTC().Truncate(time.Second)); err != nil {
		return err
	}
	e.log.Info("an invitation is taken back", "peer", name)
	return nil
}
