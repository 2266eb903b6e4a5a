package enrol

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"penstock/cmd/internal/config"
	"penstock/cmd/internal/fleet/bundle"
	"penstock/cmd/internal/peerbook"
	"penstock/router/transport/wireguard"
)

// Fleet is the site that this gateway is one of. Its operators sign the invitations, and all of its gateways take whoever joins one.
type Fleet interface {
	// Join makes whoever has the key of an invitation a peer of the site. The error is bundle.ErrJoined if somebody was faster,
	// bundle.ErrAway if nothing can be written now, and anything else if the gateway is at fault.
	Join(ctx context.Context, invitation bundle.PrivateKey, peer wireguard.PublicKey) error
}

// errOfSite is for a gateway of a fleet.
var errOfSite = errors.New("this is a gateway of a site, and its operators invite people to all of its gateways: use penstock fleet peer invite")

// redeemInFleet is redeem for a gateway of a fleet: the invitation is one that an operator has signed, and the join that uses it up is
// one for all gateways.
func (e *Enrolment) redeemInFleet(ctx context.Context, token Token, key wireguard.PublicKey) (name string, file *wireguard.Config, no *refusal) {
	c, now := e.gateway.Config(), time.Now()
	invitation := bundle.InvitationKey(token)
	peer, invited := config.Invited(c, invitation.Public())
	invalid := func(why reason) *refusal { return &refusal{why: why, said: errNotValid.Error()} }
	switch {
	case !invited:
		return "", nil, invalid(isUnknown)
	case !peer.IsInvited():
		return peer.Name, nil, invalid(isUsed)
	case !now.Before(peer.Invite.Until), !peer.Expires.IsZero() && !now.Before(peer.Expires):
		return peer.Name, nil, invalid(isLate)
	case peer.Disabled:
		return peer.Name, nil, invalid(isRevoked)
	}
	own, err := peerbook.GatewayKey(c)
	if err == nil {
		file, err = peerbook.InvitedFile(c, peer)
	}
	if err != nil {
		return peer.Name, nil, failure(err)
	}
	if i := c.Peers.Index(func(p config.Peer) bool { return p.PublicKey == key.String() }); i >= 0 || key == own {
		err := errors.New("it is the site's own key")
		if i >= 0 {
			err = fmt.Errorf("it is the key of peer %s, at %s", c.Peers.At(i).Name, c.Peers.At(i).Pos)
		}
		return peer.Name, nil, &refusal{why: isClash, said: "the gateway knows this key already: make another one", err: err}
	}
	switch err := e.fleet.Join(ctx, invitation, key); {
	case errors.Is(err, bundle.ErrJoined):
		return peer.Name, nil, invalid(isUsed)
	case errors.Is(err, bundle.ErrAway):
		return peer.Name, nil, &refusal{why: isAway, err: err,
			said: "the gateway cannot let anybody in now, and nothing has changed: try again later; if the invitation is refused then, ask for a new one"}
	case err != nil:
		return peer.Name, nil, failure(err)
	}
	return peer.Name, file, nil
}

// nowListening returns listen.enrol as it is in force: in a fleet, each bundle brings it anew.
func (e *Enrolment) nowListening() *config.EnrolListen {
	if now := e.gateway.Config().Listen.Enrol; e.fleet != nil && now != nil {
		return now
	}
	return e.listen
}

// keyPair reads the certificate of listen.enrol, or makes one with the key that is the same on all gateways of a site.
func keyPair(listen *config.EnrolListen) (tls.Certificate, error) {
	if listen.Certificate != "" {
		return listen.KeyPair()
	}
	key, err := listen.OwnKey()
	if err != nil {
		return tls.Certificate{}, err
	}
	own, err := selfSigned(key, listen.Host(), time.Now())
	if err != nil {
		return tls.Certificate{}, err
	}
	return *own, nil
}

// SitePin returns the pin for the links of a site: of the key that its gateways make their certificates with. It is zero if they have a
// certificate.
func SitePin(listen *config.EnrolListen) (Pin, error) {
	if listen.Certificate != "" {
		return Pin{}, nil
	}
	key, err := listen.OwnKey()
	if err != nil {
		return Pin{}, err
	}
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	return sha256.Sum256(der), err
}

// NewKeyFile makes the key of a site's certificates, in a new file that only its owner can read.
func NewKeyFile(path string) error {
	_, err := newKey(path)
	return err
}
