package openvpn

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"penstock/router/transport"
	"penstock/router/transport/openvpn/internal/datakey"
)

// pushReply takes the server's options: those that establish the session, or later ones that bring a new token.
func (s *session) pushReply(n *negotiation, text string) error {
	if s.push != nil {
		var later optionList
		if _, err := later.add(text); err != nil {
			return s.client.failed(transport.ReasonError, err)
		}
		p, err := parsePush(later.options)
		if err != nil {
			return s.client.blocked(transport.ReasonError, err)
		}
		s.keepToken(p)
		return nil
	}
	if n != s.pending || !n.exchanged {
		return nil
	}
	complete, err := s.options.add(text)
	if err != nil {
		return s.client.failed(transport.ReasonHandshakeFailed, err)
	}
	if !complete {
		return nil
	}
	return s.establish(n)
}

// establish turns the options into a session that carries data.
func (s *session) establish(n *negotiation) error {
	now := time.Now()
	p, err := s.interpret()
	if err != nil {
		return err
	}
	if p.cipher == "" {
		p.cipher = s.client.cfg.Profile.fallback
	}
	switch {
	case p.cipher == "":
		return s.client.blocked(transport.ReasonError, errors.New("the server does not negotiate a cipher: the profile needs data-ciphers-fallback"))
	case !p.cipher.Known(), p.cipher != s.client.cfg.Profile.fallback && !slices.Contains(s.client.cfg.Profile.ciphers, p.cipher):
		return s.client.blocked(transport.ReasonError, fmt.Errorf("the server chose cipher %q, which was not offered", printable(string(p.cipher))))
	case p.epoch && !p.exporter:
		return s.client.failed(transport.ReasonHandshakeFailed, errors.New("the server wants epoch keys without the TLS exporter"))
	}
	s.finishSettings(p)
	s.liveness = newLiveness(p, s.client.cfg.Profile.timers)
	if p.dynamicWrap {
		if err := s.deriveDynamic(n); err != nil {
			return s.client.failed(transport.ReasonHandshakeFailed, err)
		}
	}
	s.keepToken(p)
	if err := s.configure(p); err != nil {
		return err
	}
	s.push = p
	s.heard.set(s.start, time.Now())
	s.spoke.set(s.start, time.Now())
	if err := s.install(n, now); err != nil {
		return err
	}
	close(s.ready)
	return nil
}

// interpret reads all options together: the profile's own, then the server's that it lets through.
func (s *session) interpret() (*pushed, error) {
	profile := s.client.cfg.Profile
	options, err := profile.filter(s.options.options)
	if err != nil {
		return nil, s.client.failed(transport.ReasonError, err)
	}
	p, err := parsePush(append(slices.Clone(profile.options), options...))
	if err != nil {
		return nil, s.client.blocked(transport.ReasonError, err)
	}
	for _, problem := range p.problems {
		s.log.Debug("option left out", "err", problem)
	}
	return p, nil
}

func (s *session) configure(p *pushed) error {
	if s.client.cfg.Configure == nil {
		return nil
	}
	if err := s.client.cfg.Configure(p.Settings); err != nil {
		return s.client.failed(transport.ReasonError, fmt.Errorf("configure: %w", err))
	}
	return nil
}

// pushUpdate changes options of a running session: addresses, routes and DNS, never keys.
func (s *session) pushUpdate(text string) error {
	if s.push == nil {
		return nil
	}
	complete, err := s.options.change(text)
	if err != nil {
		return s.client.failed(transport.ReasonError, err)
	}
	if !complete {
		return nil
	}
	p, err := s.interpret()
	if err != nil {
		return err
	}
	p.cipher, p.epoch, p.v2, p.peerID, p.exporter = s.push.cipher, s.push.epoch, s.push.v2, s.push.peerID, s.push.exporter
	s.finishSettings(p)
	if err := s.configure(p); err != nil {
		return err
	}
	s.push.Settings = p.Settings
	return nil
}

// keepToken stores what stands in for the password from now on, in this session's renegotiations and in the next session.
func (s *session) keepToken(p *pushed) {
	if p.token == "" {
		return
	}
	l := &s.client.login
	l.token = p.token
	if p.tokenUser != "" {
		l.tokenUser = p.tokenUser
	}
	if l.user == "" {
		l.user = s.sent.user
	}
	s.sent.password, s.sent.token = p.token, true
	if l.tokenUser != "" {
		s.sent.user = l.tokenUser
	}
}

// finishSettings adds what the server does not know: its outer address, and what fits into a packet of the path.
func (s *session) finishSettings(p *pushed) {
	p.Server = s.outer().remote()
	p.finishMTU(s.network, p.Server, s.client.cfg.Profile.tunMTU)
}

func (p *pushed) finishMTU(network string, server netip.AddrPort, fromProfile int) {
	if p.MTU == 0 {
		p.MTU = fromProfile
	}
	if p.MTU == 0 {
		p.MTU = defaultMTU
	}
	p.MTU = min(p.MTU, announcedMTU)
	if !isTCP(network) {
		p.MTU = min(p.MTU, pathMTU-udpOverhead(server.Addr().Is6(), p.epoch))
	}
}

// pathMTU is what most access lines carry: Ethernet less PPPoE.
const pathMTU = 1492

// udpOverhead is what stands around an inner packet on the path, in bytes.
func udpOverhead(ipv6, epoch bool) int {
	n := 20 + 8 + datakey.MaxHead
	if ipv6 {
		n += 20
	}
	if epoch {
		n += 4
	}
	return n
}
