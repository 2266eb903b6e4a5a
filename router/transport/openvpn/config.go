package openvpn

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"syscall"
)

// Device is the inner side: it gives outbound IP packets and takes inbound ones. It is a subset of wireguard's
// tun.Device, with the same rules: Read and Write work at offset in each buffer and may be called at the same time.
// Write must neither keep the buffers nor touch more than the 10 bytes before offset. After Close, Read returns an error.
type Device interface {
	Read(bufs [][]byte, sizes []int, offset int) (int, error)
	Write(bufs [][]byte, offset int) (int, error)
	BatchSize() int // packets per call, at least 1, constant
	Close() error
}

// Config is what a Client needs. Name, Profile and Device are required.
type Config struct {
	Name    string   // the transport's name, for errors and logs
	Profile *Profile // from ParseProfile
	Device  Device   // owned by the client: Close closes it
	// Configure is told what the server pushed, on every connect and PUSH_UPDATE, before data flows. It must not call
	// the Client. An error fails the session. If nil, nothing is configured.
	Configure func(Settings) error
	// Control is called on every outer socket before it connects, to mark it. If nil, sockets are as they come.
	Control func(network, address string, c syscall.RawConn) error
	// Resolve turns a remote's host name into addresses. If nil, the system's resolver is used.
	Resolve func(ctx context.Context, host string) ([]netip.Addr, error)
	// Credentials answers a Challenge. It must return when ctx is done. An error blocks the transport, and so does nil
	// where a server asks.
	Credentials func(ctx context.Context, c Challenge) (user, pass string, err error)
	// Lost is told once per session when it ended without having been asked to: transport.ErrKeepaliveTimeout,
	// *transport.ReasonedError or *transport.BlockedError. It must not block and must not call the Client. If nil, it is only logged.
	Lost func(error)
	// Version is what the server is told about the client (IV_GUI_VER). If empty, "penstock".
	Version string
	Log     *slog.Logger // if nil, nothing is logged
	Metrics *Metrics     // if nil, nothing is counted
}

// ChallengeKind says what is asked.
type ChallengeKind uint8

// Kinds of challenge.
const (
	ChallengePassword ChallengeKind = iota // user name and password
	ChallengeStatic                        // the profile's static-challenge: the answer goes in pass
	ChallengeDynamic                       // the server asked in its refusal: the answer goes in pass
	ChallengeText                          // the server asked while the session is pending: the answer goes in pass
	ChallengeWeb                           // Text is a URL to open; the answer is ignored
)

// Challenge is a question for the user.
type Challenge struct {
	Kind ChallengeKind
	Text string // what to show: a prompt, or the URL of a ChallengeWeb
	User string // the user name, where it is known already
	Echo bool   // the answer may be shown while it is typed
}

func (cfg *Config) check() error {
	switch {
	case cfg.Name == "":
		return errors.New("openvpn: config without a name")
	case cfg.Profile == nil:
		return errors.New("openvpn: config without a profile")
	case cfg.Device == nil:
		return errors.New("openvpn: config without a device")
	}
	return nil
}
