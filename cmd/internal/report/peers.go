package report

import (
	"context"

	"penstock/cmd/internal/control"
	"penstock/cmd/internal/edition"
	"penstock/cmd/internal/gateway"
)

// Peers reports on the peers of a gateway.
type Peers struct {
	Live    *edition.Live
	Gateway *gateway.Gateway
}

// Peers returns the configured peers with their sessions.
func (p *Peers) Peers(context.Context) ([]control.PeerStatus, error) {
	var list []control.PeerStatus
	live := p.Gateway.Peers()
	for _, c := range p.Live.Config().Peers {
		s := control.PeerStatus{Name: c.Name, Groups: c.Groups, Disabled: c.Disabled}
		for _, a := range c.AllowedIPs {
			s.Addresses = append(s.Addresses, a.String())
		}
		for _, session := range live {
			if session.Name != c.Name {
				continue
			}
			s.LastHandshake, s.RxBytes, s.TxBytes = session.LastHandshake, session.RxBytes, session.TxBytes
			if session.Endpoint.IsValid() {
				s.Endpoint = session.Endpoint.String()
			}
		}
		list = append(list, s)
	}
	return list, nil
}
