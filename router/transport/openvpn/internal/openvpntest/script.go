package openvpntest

import (
	"slices"

	"penstock/router/transport/openvpn/internal/wire"
)

// Send writes a control message on the newest TLS connection.
func (s *Server) Send(message string) {
	s.t.Helper()
	s.mu.Lock()
	if s.session == nil || s.session.newest == nil {
		s.mu.Unlock()
		s.t.Error("no session to send a message on")
		return
	}
	conn := s.session.newest.conn
	s.mu.Unlock()
	if _, err := conn.Write(append([]byte(message), 0)); err != nil {
		s.t.Errorf("send %q: %v", message, err)
	}
}

// StopReading lets what TCP clients send pile up, without closing their connections.
func (s *Server) StopReading() { s.deaf.Store(true) }

// Renegotiate opens a renegotiation.
func (s *Server) Renegotiate() {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.session == nil || s.session.newest == nil {
		s.t.Error("no session to renegotiate")
		return
	}
	if id := s.session.newest.keyID%7 + 1; s.session.negs[id] == nil {
		s.beginLocked(s.session, id, wire.SoftReset, nil)
	}
	s.flushLocked()
}

// SendPacket gives the client a packet as it is.
func (s *Server) SendPacket(packet []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.session != nil {
		s.session.send(packet)
	}
}

// SendInner seals plain and gives it to the client.
func (s *Server) SendInner(plain []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sendLocked(plain)
}

// KeyID is the newest negotiated key id, or -1.
func (s *Server) KeyID() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.session == nil || s.session.newest == nil {
		return -1
	}
	return int(s.session.newest.keyID)
}

// Messages are the control messages the client sent so far.
func (s *Server) Messages() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.messages)
}

// Logins are the user:password pairs of every negotiation so far.
func (s *Server) Logins() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.logins)
}

// Seen are the headers of the client's packets so far.
func (s *Server) Seen() []Seen {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.seen)
}

// IDs are the session ids of the server and the client, zero without a session.
func (s *Server) IDs() (own, peer wire.SessionID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.session == nil {
		return own, peer
	}
	return s.session.id, s.session.peer
}
