package enrol

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"penstock/cmd/internal/config"
	"penstock/cmd/internal/peerbook"
	"penstock/router/transport/wireguard"
)

// errNotValid is all that is said outside about a token that nobody can join with.
var errNotValid = errors.New("this invitation is not valid: ask for a new one")

// refusal is an attempt that ended: why, what is said outside, and what only the log knows.
type refusal struct {
	why  reason
	said string
	err  error // may be nil
}

// redeem makes the owner of a token and a key a peer, and returns its name and its file without the private key.
//
// The token is used up before anything else happens, so that however many come with it at once, one joins. If nothing comes of
// it, it is open again.
func (e *Enrolment) redeem(ctx context.Context, token Token, key wireguard.PublicKey) (name string, file *wireguard.Config, no *refusal) {
	if e.fleet != nil {
		return e.redeemInFleet(ctx, token, key)
	}
	terms, why, err := e.invitations.claim(token, time.Now().UTC().Truncate(time.Second))
	switch {
	case errors.Is(err, errNotValid):
		return terms.Name, nil, &refusal{why: why, said: errNotValid.Error()}
	case err != nil:
		return "", nil, failure(err)
	}
	folder, c, err := peerbook.OpenLive(ctx, e.gateway.Config(), terms.Name)
	if err != nil {
		return terms.Name, nil, e.giveBack(token, failure(err))
	}
	defer folder.Close()
	if no := e.clash(c, terms.Name, key); no != nil {
		return terms.Name, nil, e.giveBack(token, no)
	}
	peer, file, err := folder.Plan(c, terms, e.inForce())
	if err != nil {
		return terms.Name, nil, e.giveBack(token, failure(err))
	}
	peer.PublicKey = key.String()
	path, err := folder.Add(c, peer)
	if err != nil {
		return terms.Name, nil, e.giveBack(token, failure(err))
	}
	if err := e.putInForce(ctx, peer); err != nil {
		return terms.Name, nil, e.giveBack(token, failure(folder.Undo(err, path)))
	}
	return terms.Name, file, nil
}

// clash returns a refusal if the name or the key is taken by now, in a file or in force.
func (e *Enrolment) clash(c *config.Config, name string, key wireguard.PublicKey) *refusal {
	own, err := peerbook.GatewayKey(c)
	if err != nil {
		return failure(err)
	}
	if key == own {
		return &refusal{why: isClash, said: "this is the gateway's own key: make another one"}
	}
	for _, p := range slices.Concat(c.Peers.Slice(), e.gateway.Config().Peers.Slice()) {
		switch {
		case peerbook.SameName(c, p.Name, name):
			return &refusal{why: isClash, said: "the gateway has a peer of this name by now: tell whoever invited you", err: fmt.Errorf("peer %s is at %s", p.Name, p.Pos)}
		case p.PublicKey == key.String():
			return &refusal{why: isClash, said: "the gateway knows this key already: make another one", err: fmt.Errorf("it is the key of peer %s, at %s", p.Name, p.Pos)}
		}
	}
	return nil
}

// putInForce makes the gateway take a peer that is in a file.
func (e *Enrolment) putInForce(ctx context.Context, peer config.Peer) error {
	if err := e.gateway.Read(ctx); err != nil {
		return err
	}
	c := e.gateway.Config()
	if !c.Peers.Any(func(p config.Peer) bool { return p.Name == peer.Name && p.PublicKey == peer.PublicKey }) {
		return errors.Join(fmt.Errorf("the gateway does not take peer %s", peer.Name), badFiles(c))
	}
	return nil
}

// badFiles says which files of peers are not in force.
func badFiles(c *config.Config) error {
	var errs []error
	for _, bad := range c.Bad {
		errs = append(errs, fmt.Errorf("%s: %s", bad.File, bad))
	}
	return errors.Join(errs...)
}

// failure is for what the gateway could not do.
func failure(err error) *refusal {
	return &refusal{why: isFailed, said: "the gateway cannot let you in now: try again in a minute, or tell whoever invited you", err: err}
}

// giveBack opens an invitation again.
func (e *Enrolment) giveBack(token Token, no *refusal) *refusal {
	if err := e.invitations.release(token); err != nil {
		no.err = errors.Join(no.err, err)
	}
	return no
}

// checkKey reads a public key that somebody sends.
func checkKey(text string) (wireguard.PublicKey, error) {
	key, err := wireguard.ParsePublicKey(text)
	if err != nil {
		return key, err
	}
	return key, key.Check()
}
