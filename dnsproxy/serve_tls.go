package dnsproxy

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/netip"
	"time"

	"penstock/policy"
)

const (
	handshakeTime  = 5 * time.Second
	privateIdle    = 30 * time.Second // between two queries: a TLS handshake costs more than a connection
	privateStreams = 1024             // connections over TLS, a quarter of it for one client
)

// errNobody says that a client over TLS is not known, or no longer.
var errNobody = errors.New("dnsproxy: the client is not known")

// Who says who asks over TLS, by what only that client can know: said is the server name that its TLS library asks for. The flow
// has Client, Peer and Groups as from [Clients]; one without a Peer is a stranger, who is answered only if [Settings.Clients] has
// src, and not about zones. False means nobody. It must be fast and must not block.
type Who func(said string, src netip.AddrPort) (policy.Flow, bool)

// Private answers those who ask a server over TLS, or over HTTPS: DNS that nobody else can read.
type Private struct {
	*Server
	conns *limits
}

// NewPrivate returns the encrypted ways in to a server.
func NewPrivate(s *Server) *Private { return &Private{s, newLimits()} }

// ServeTLS serves DNS over TLS (RFC 7858) on the connections of ln until ctx is done, closes ln, waits for them, and returns nil. It
// returns an error when accepting fails for good. Config has the certificate. Who is asked in the handshake, which fails for
// nobody before any certificate is shown, and again before each query.
func (p *Private) ServeTLS(ctx context.Context, ln net.Listener, config *tls.Config, who Who) error {
	config = config.Clone()
	config.NextProtos = []string{"dot"} // RFC 7858 has none; the IANA registry has this one
	config.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		if _, ok := p.whose(who, hello.ServerName, addrPort(hello.Conn.RemoteAddr())); !ok {
			return nil, errNobody
		}
		return nil, nil
	}
	return acceptAll(ctx, ln, func(src netip.AddrPort, conn net.Conn) {
		if err := p.serveTLS(ctx, src, tls.Server(conn, config), who); err != nil && !errors.Is(err, errNobody) {
			p.cfg.Log.Debug("dns connection over TLS ended", "src", src, "err", err)
		}
	})
}

func (p *Private) serveTLS(ctx context.Context, src netip.AddrPort, conn *tls.Conn, who Who) error {
	if err := shake(ctx, conn); err != nil {
		conn.NetConn().Close()
		if !errors.Is(err, errNobody) {
			p.cfg.Metrics.PrivateRefused(RefusedHandshake)
		}
		return err
	}
	again := func() (policy.Flow, bool) { return p.whose(who, conn.ConnectionState().ServerName, src) }
	flow, ok := again()
	if !ok {
		conn.NetConn().Close()
		return errNobody
	}
	return p.serveQueries(ctx, flow, stream{Conn: conn, idle: privateIdle, limits: p.conns, conns: privateStreams, again: again, asked: func(ex *exchange) {
		ex.overTLS(p.cfg.Metrics, protocolTLS)
	}})
}

// shake does the handshake, for which a client has a short time.
func shake(ctx context.Context, conn *tls.Conn) error {
	ctx, cancel := context.WithTimeout(ctx, handshakeTime)
	defer cancel()
	return conn.HandshakeContext(ctx)
}

// whose completes the facts of who.
func (p *Private) whose(who Who, said string, src netip.AddrPort) (policy.Flow, bool) {
	f, ok := who(said, src)
	if f.Src = src; !ok || !p.welcomes(f) {
		return policy.Flow{}, false
	}
	return f, true
}

// welcomes reports whether a client over TLS is a peer, or a stranger who may ask.
func (p *Private) welcomes(f policy.Flow) bool {
	return f.Peer != "" || p.state.Load().serves(f.Src.Addr())
}

// overTLS notes that a question came over TLS.
func (ex *exchange) overTLS(m *Metrics, by protocol) {
	ex.stream, ex.private, ex.outside = true, true, ex.flow.Peer == ""
	m.privately(by)
}
