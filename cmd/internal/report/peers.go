package report

import (
	"context"
	"fmt"
	"time"

	"penstock/cmd/internal/config"
	"penstock/cmd/internal/control"
	"penstock/cmd/internal/edition"
	"penstock/cmd/internal/gateway"
	"penstock/cmd/internal/peerbook"
	"penstock/cmd/internal/signin"
	"penstock/router/transport/wireguard"
)

// sessionLife is how long a session of WireGuard lasts without a new handshake (whitepaper, 6.1: Reject-After-Time).
const sessionLife = 3 * time.Minute

// Peers reports on the peers of a gateway.
type Peers struct {
	Live    *edition.Live
	Gateway *gateway.Gateway // nil if they can only use the proxy
	SignIn  *signin.Service  // nil without Gateway
	Files   peerbook.Gateway // who reads the files of peers again
}

// SetPeerAccess changes the file of a peer, and puts it in force.
func (p *Peers) SetPeerAccess(ctx context.Context, a control.PeerAccess) error {
	return peerbook.SetAccess(ctx, p.Files, a.Name, peerbook.Access{Disabled: a.Disabled, Expires: a.Expires})
}

// PeerQuotaReset lets a peer use its quota of this month anew.
func (p *Peers) PeerQuotaReset(_ context.Context, name string) error {
	return p.Gateway.ResetQuota(name)
}

// Peers returns the configured peers with their sessions.
func (p *Peers) Peers(context.Context) ([]control.PeerStatus, error) { return p.list(), nil }

func (p *Peers) list() []control.PeerStatus {
	sessions := make(map[string]wireguard.PeerStatus)
	if p.Gateway != nil {
		for _, s := range p.Gateway.Peers() {
			sessions[s.Name] = s
		}
	}
	var list []control.PeerStatus
	now, cfg, usage := time.Now(), p.Live.Config(), p.Gateway.Usage()
	for _, c := range cfg.Peers.All() {
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
		u, known := usage[c.ID()]
		if !known {
			u.Limits = config.LimitsOf(cfg, c)
		}
		s.DroppedBytes = u.Dropped
		s.Rate, s.Quota = limits(u.Limits)
		if s.Quota != nil {
			s.Quota.UsedBytes, s.Quota.Spent, s.Quota.Ends = u.Used, u.Over, u.Ends
		}
		if one, ok := p.session(c.ID()); ok {
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
func (p *Peers) session(id string) (signin.Session, bool) {
	if p.SignIn == nil {
		return signin.Session{}, false
	}
	return p.SignIn.Session(id)
}

// SignOut ends the session of whoever has signed in with a peer.
func (p *Peers) SignOut(_ context.Context, name string) error {
	for _, c := range p.Live.Config().Peers.All() {
		if c.Name != name {
			continue
		}
		if p.SignIn == nil || !p.SignIn.SignOut(c.ID(), "an operator ended it") {
			return fmt.Errorf("nobody has signed in with peer %s", name)
		}
		return nil
	}
	return fmt.Errorf("there is no peer %q: see penstock peer list", name)
}

// counts returns how many peers are in each state, and the files of peers that have faults.
func (p *Peers) counts() *control.PeerCounts {
	c, cfg, now := new(control.PeerCounts), p.Live.Config(), time.Now()
	active := make(map[string]bool) // public keys
	if p.Gateway != nil {
		for _, s := range p.Gateway.Callers() {
			if !s.LastHandshake.IsZero() && now.Sub(s.LastHandshake) < sessionLife {
				active[s.PublicKey.String()] = true
			}
		}
	}
	for _, peer := range cfg.Peers.All() {
		switch peer.State(now) {
		case "disabled":
			c.Disabled++
		case "expired":
			c.Expired++
		case "invited":
			// is none yet
		default:
			if len(active) > 0 && active[peer.PublicKey] {
				c.Active++
			} else {
				c.Idle++
			}
		}
	}
	for _, usage := range p.Gateway.Usage() {
		if usage.Over {
			c.OverQuota++
		}
	}
	for _, bad := range cfg.Bad {
		c.Bad = append(c.Bad, control.BadPeers{File: bad.File, Kept: bad.Kept, Error: bad.String()})
	}
	return c
}

// refused returns how many handshake initiations the gateway has refused, by reason.
func (p *Peers) refused() map[string]uint64 {
	if p.Gateway == nil {
		return nil
	}
	return p.Gateway.Refused()
}

// limits converts limits to the form of the control API.
func limits(l config.PeerLimits) (*control.PeerRate, *control.PeerQuota) {
	var rate *control.PeerRate
	var quota *control.PeerQuota
	if l.Rate.Up > 0 || l.Rate.Down > 0 {
		rate = &control.PeerRate{Up: int64(l.Rate.Up), Down: int64(l.Rate.Down)}
	}
	if q := l.Quota; q != nil {
		quota = &control.PeerQuota{LimitBytes: uint64(q.Monthly), Over: q.Over.String()}
	}
	return rate, quota
}
