package wireguard

import (
	"context"
	"errors"
	"log/slog"

	"golang.zx2c4.com/wireguard/tun"
)

// ServerConfig says what a Server is made of.
type ServerConfig struct {
	// Device is the inner side. It is the Server's from NewServer's success until Close, which closes it: its Read must
	// then return, its Write must not block any more, and its events must end. A batch may have up to 128 packets.
	// Write is called concurrently, by one goroutine per peer.
	Device tun.Device

	PrivateKey PrivateKey
	ListenPort uint16 // UDP, on all addresses; 0: any, see Port
	Peers      []Peer // who may call, see SetPeers

	// Mark is put on the UDP sockets before anything is sent: SO_MARK on Linux, SO_USER_COOKIE on FreeBSD, the routing
	// table on OpenBSD; ignored elsewhere. 0: none. It needs CAP_NET_ADMIN on Linux.
	Mark uint32

	Log *slog.Logger // nil: silent
}

// Server is the called side of WireGuard tunnels. A packet from a peer whose inner source is not among the peer's
// AllowedIPs never reaches Device: that is WireGuard's own rule, so a source address names a peer.
type Server struct {
	core
}

// NewServer makes a Server that listens.
func NewServer(config ServerConfig) (*Server, error) { return nil, errors.ErrUnsupported }

// Run serves until ctx ends, and then closes s.
func (s *Server) Run(ctx context.Context) error { return errors.ErrUnsupported }

// SetPeers replaces the peers. Those that stay the same keep their sessions.
func (s *Server) SetPeers(peers []Peer) error { return errors.ErrUnsupported }

// Peers returns the peers' state in the order in which they were set.
func (s *Server) Peers() []PeerStatus { return nil }

// Port returns the UDP port that s listens on.
func (s *Server) Port() uint16 { return 0 }

// Close ends all sessions and waits.
func (s *Server) Close() error { return nil }
