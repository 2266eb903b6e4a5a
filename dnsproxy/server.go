package dnsproxy

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"time"

	"penstock/policy"
)

// Server answers DNS queries. Its methods may be called by any number of goroutines.
type Server struct {
	names *Names
}

// New returns a server for cfg. It does no I/O and starts nothing.
func New(cfg Config) (*Server, error) { return &Server{names: newNames(cfg.MaxNames, cfg.Clock)}, nil }

// SetConfig replaces upstreams, zones, Decide and all else that is not a size or a sink. The cache and the names are kept.
func (s *Server) SetConfig(cfg Config) error { return nil }

// Run does the background work until ctx is done, then ends all queries in flight, waits for them, and returns nil.
func (s *Server) Run(ctx context.Context) error { <-ctx.Done(); return nil }

// ServePacket answers one query datagram through reply.
func (s *Server) ServePacket(ctx context.Context, client netip.AddrPort, query []byte, reply func([]byte) error) {
}

// ServeConn answers queries in the TCP framing on conn until the client closes it, is idle for too long, or ctx is done.
func (s *Server) ServeConn(ctx context.Context, client netip.AddrPort, conn net.Conn) error {
	return errors.ErrUnsupported
}

// ServePacketConn answers on pc until ctx is done.
func (s *Server) ServePacketConn(ctx context.Context, pc net.PacketConn) error {
	return errors.ErrUnsupported
}

// ServeListener answers on the connections of ln until ctx is done.
func (s *Server) ServeListener(ctx context.Context, ln net.Listener) error {
	return errors.ErrUnsupported
}

// DialFlow makes the server an egress.
func (s *Server) DialFlow(ctx context.Context, f policy.Flow) (net.Conn, error) {
	return nil, errors.ErrUnsupported
}

// Names returns the table of the names that clients asked for.
func (s *Server) Names() *Names { return s.names }

// Answer is what [Server.Query] found out.
type Answer struct {
	Name, Type string
	Rcode      string         // "NOERROR", "NXDOMAIN", ...
	Records    []string       // answer section in zone file format
	Verdict    policy.Verdict // of the name that decided
	Decided    string         // the name that decided: the question or a target in its chain
	Result     string         // as in penstock_dns_queries_total
	Upstream   string         // name of the upstream that answered; empty if none was asked
	Cache      string         // "hit", "miss", "stale" or "" if the cache was not asked
	Duration   time.Duration
}

// Query resolves name as client would have it, for diagnosis. Qtype is a type name such as "AAAA".
func (s *Server) Query(ctx context.Context, client netip.AddrPort, name, qtype string) (Answer, error) {
	return Answer{}, errors.ErrUnsupported
}

// Flush empties the cache. Names are kept.
func (s *Server) Flush() {}
