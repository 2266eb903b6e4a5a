package openvpn

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"

	"penstock/router/transport/openvpn/internal/login"
	"penstock/router/transport/openvpn/internal/push"
	"penstock/router/transport/openvpn/profile"
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

// Settings are what a server pushed, ready to use. Nothing in them has been applied, and nothing in them outranks policy.
type Settings = push.Settings

// ProfileSettings are what a profile says by itself. It reports whether that is final for what goes through the tunnel: the
// profile sends everything there, or has route-nopull, so that a server adds nothing.
func ProfileSettings(p *profile.Profile) (s Settings, final bool) {
	o, err := new(push.List).Parse(p)
	if err != nil {
		return Settings{}, false
	}
	return o.Settings, p.NoRoutes || o.Redirect4
}

// Route is a destination in Settings.
type Route = push.Route

// DNSServer is a resolver in Settings.
type DNSServer = push.DNSServer

// Challenge is a question for the user.
type Challenge = login.Challenge

// ChallengeKind says what a Challenge asks.
type ChallengeKind = login.Kind

// Kinds of challenges.
const (
	ChallengePassword = login.Password // user name and password
	ChallengeStatic   = login.Static   // the profile's static-challenge: the answer goes in pass
	ChallengeDynamic  = login.Dynamic  // the server asked in its refusal: the answer goes in pass
	ChallengeText     = login.Text     // the server asked while the session is pending: the answer goes in pass
	ChallengeWeb      = login.Web      // Text is a URL to open; the answer is ignored
)

// Config is what a Client needs. Name, Profile and Device are required.
type Config struct {
	Name    string           // the transport's name, for errors and logs
	Profile *profile.Profile // from profile.Parse
	Device  Device           // owned by the client: Close closes it
	// RequireServerCert makes New refuse a profile that cannot tell the server from a client with a certificate of the
	// same ca. profile.Parse only warns of it, as the reference client does.
	RequireServerCert bool
	// Configure is given what the server pushed, on every connect and PUSH_UPDATE, before data flows. It must not call
	// the Client. An error fails the session. If nil, nothing is configured.
	Configure func(Settings) error
	// Dialer opens outer sockets; its Control can mark them. If nil, sockets are as they come.
	Dialer *net.Dialer
	// Resolve turns a remote's host name into addresses. If nil, the system's resolver is used.
	Resolve func(ctx context.Context, host string) ([]netip.Addr, error)
	// Credentials answers a Challenge. It must return when ctx is done. An error blocks the transport, and so does nil
	// where a server asks.
	Credentials func(ctx context.Context, c Challenge) (user, pass string, err error)
	// Lost is called once for each session that ended without having been asked to, with transport.ErrKeepaliveTimeout,
	// *transport.ReasonedError or *transport.BlockedError. It must not block and must not call the Client. If nil, the
	// end of a session is only logged.
	Lost func(error)
	// Version is what the server learns about the client (IV_GUI_VER). If empty, "penstock".
	Version string
	Log     *slog.Logger // if nil, nothing is logged
	Metrics *Metrics     // if nil, nothing is counted
}

// ErrServerUnverified says that Config.RequireServerCert refused a profile.
var ErrServerUnverified = errors.New(`the profile enables no server certificate verification method: whoever has a client certificate ` +
	`of its ca can pose as the server; add "remote-cert-tls server" to the profile`)

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
