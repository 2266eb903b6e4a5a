package ingress

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"

	"penstock/cmd/internal/ingress/socks"
	"penstock/policy"
)

// serveSOCKS serves one SOCKS5 connection until its flow is over.
func (s *Server) serveSOCKS(ctx context.Context, v *visitor) {
	defer v.Close()
	who, open := s.Users.Open()
	var login func(name, password string) bool
	if !open {
		login = func(name, password string) (ok bool) {
			who, ok = s.logIn(v, name, password)
			return ok
		}
	}
	if err := socks.Greet(v, login); err != nil {
		s.notServed(v, err)
		return
	}
	if !s.enter(v, who) {
		return
	}
	q, err := socks.ReadRequest(v)
	switch {
	case errors.Is(err, socks.ErrAddress):
		s.turnAway(v, socks.UnknownAddress)
		return
	case err != nil:
		s.notServed(v, err)
		return
	case q.Command == socks.Associate:
		s.associate(ctx, v, who, q)
		return
	case q.Command != socks.Connect:
		s.turnAway(v, socks.UnknownCommand)
		return
	}
	host := q.Host
	if host == "" {
		host = q.Addr.String()
	}
	t, err := newTarget(host, q.Port)
	if err != nil {
		s.turnAway(v, socks.HostUnreachable)
		return
	}
	v.SetDeadline(time.Time{})
	out := s.open(ctx, who, v.src, t, policy.TCP, func(netip.AddrPort) (net.Conn, error) {
		if err := socks.Reply(v, socks.Succeeded); err != nil {
			return nil, err
		}
		return s.carry(v, who, nil), nil
	})
	if code, say := codeFor(out); say {
		s.turnAway(v, code)
	}
}

// notServed counts a client that was not let in or has not spoken SOCKS5.
func (s *Server) notServed(v *visitor, err error) {
	s.metrics.refuse(refusedHandshake)
	s.Log.Debug("a client of listen.proxy was not served", "src", v.src, "err", err)
	linger(v)
}

// codeFor returns the answer for an outcome. say is false if there is none to give.
func codeFor(out outcome) (code socks.Code, say bool) {
	switch out.result {
	case notAllowed:
		return socks.NotAllowed, true
	case unknownHost:
		return socks.HostUnreachable, true
	case unreachable:
		switch {
		case errors.Is(out.err, syscall.ECONNREFUSED):
			return socks.Refused, true
		case errors.Is(out.err, syscall.ENETUNREACH):
			return socks.NetworkUnreachable, true
		case errors.Is(out.err, syscall.EHOSTUNREACH), errors.Is(out.err, syscall.EACCES):
			return socks.HostUnreachable, true
		case errors.Is(out.err, syscall.ETIMEDOUT), errors.Is(out.err, os.ErrDeadlineExceeded):
			return socks.Expired, true
		}
		return socks.Failed, true
	}
	return 0, false
}

// turnAway answers a request that was not carried.
func (s *Server) turnAway(v *visitor, code socks.Code) {
	v.SetDeadline(time.Now().Add(handshakeTime))
	if socks.Reply(v, code) == nil {
		linger(v)
	}
}

// linger waits a little for the client to close. If a connection is closed while bytes of the client's wait in it, the client gets
// a reset, and may lose the answer that came before.
func linger(v *visitor) {
	if v.CloseWrite() != nil {
		return
	}
	v.SetReadDeadline(time.Now().Add(500 * time.Millisecond))
	_, _ = io.CopyN(io.Discard, v, 64<<10) // whatever the client says
}
