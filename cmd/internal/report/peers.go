package report

import (
	"context"
	"fmt"
	"time"

	"penstock/cmd/internal/control"
	"penstock/cmd/internal/edition"
	"penstock/cmd/internal/gateway"
	"penstock/cmd/internal/signin"
	"penstock/router/transport/wireguard"
)

// sessionLife is how long a session of WireGuard lasts without a new handshake (whitepaper, 6.1: Reject-After-Time).
const sessionLife = 3 * time.Minute

// Peers reports on the peers of a gateway.
type Peers struct {
	Live    *edition.Live
	Gateway *gateway.Gateway
	SignIn  *signin.Service
}

// Peers returns the configured peers with their sessions.
func (p *Peers) Peers(context.Context) ([]control.PeerStatus, error) { return p.list(), nil }

func (p *Peers) list() []control.PeerStatus {
	sessions := make(map[string]wireguard.PeerStatus)
	for _, s := range p.Gateway.Peers() {
		sessions[s.Name] = s
	}
	var list []control.PeerStatus
	now := time.Now()
	for _, c := range p.Live.Config().Peers {
		s := control.PeerStatus{
			Name: c.Name, Groups: c.Groups, State: c.State(now), PublicKey: c.PublicKey, Position: c.Pos.String(),
			Disabled: c.Disabled, Expires: c.Expires,
		}
		for _, a := range c.AllowedIPs {
			s.Addresses = append(s.Addresses, a.String())
		}
		if session, ok := sessions[c.Name]; ok {
			s.LastHandshake, s.RxBytes, s.TxBytes = session.LastHandshake, session.RxBytes, session.TxBytes
			if session.Endpoint.IsValid() {
				s.Endpoint = session.Endpoint.String()
			}
		}
		if one, ok := p.session(c.PublicKey); ok {
			s.User, s.SignedIn, s.SignedInUntil = one.User, one.Since, one.Until
		}
		if s.State == "" {
			s.State = "idle"
			if !s.LastHandshake.IsZero() && now.Sub(s.LastHandshake) < sessionLife {
				s.State = "active"
			}
		}
		list = append(list, s)
	}
	return list
}

// session returns who has signed in with a peer.
func (p *Peers) session(publicKey string) (signin.Session, bool) {
	if p.SignIn == nil {
		return signin.Session{}, false
	}
	return p.SignIn.Session(publicKey)
}

// SignOut ends the session of whoever has signed in with a peer.
func (p *Peers) SignOut(_ context.Context, name string) error {
	for _, c := range p.Live.Config().Peers {
		if c.Name != name {
			continue
		}
		if !p.SignIn.SignOut(c.PublicKey, "an operator ended it") {
			return fmt.Errorf("nobody has signed in with peer %s", name)
		}
		return nil
	}
	return fmt.Errorf("there is no peer %q: see penstock peer list", name)
}

// counts returns how many peers of a list are in each state, and the files of peers that have faults.
func (p *Peers) counts(list []control.PeerStatus) *control.PeerCounts {
	c := new(control.PeerCounts)
	for _, peer := range list {
		switch peer.State {
		case "active":
			c.Active++
		case "idle":
			c.Idle++
		case "disabled":
			c.Disabled++
		case "expired":
			c.Expired++
		}
	}
	for _, bad := range p.Live.Config().Bad {
		c.Bad = append(c.Bad, control.BadPeers{File: bad.File, Kept: bad.Kept, Error: bad.String()})
	}
	return c
}
