// Package profile reads .ovpn files as they are.
//
// A profile is data: Parse understands it, or says which line it does not. It ignores lines that cannot matter to a
// client without scripts, and returns a warning for each; a line that would change what is sent, or to whom, and is not
// supported, is an error.
//
// The package runs nothing, connects to nothing, and opens files only through the functions that it is handed.
package profile

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"penstock/router/transport/openvpn/internal/datakey"
	"penstock/router/transport/openvpn/internal/framing"
	"penstock/router/transport/openvpn/internal/text"
	"penstock/router/transport/openvpn/internal/trust"
	"penstock/router/transport/openvpn/internal/wire"
)

// Profile is a parsed .ovpn file. Make one with Parse. It holds secrets and does not print them.
type Profile struct {
	Remotes      []Remote // in the file's order, at least one
	RemoteRandom bool     // try the remotes in a random order

	AuthUserPass    bool // the server wants a user name and password
	User            string
	Password        text.Secret
	NoCache         bool   // forget the password after use
	StaticChallenge string // the question that goes with the password; empty: none
	StaticEcho      bool   // the answer may be shown
	StaticConcat    bool   // the answer follows the password as it is (static-challenge TEXT ECHO concat)

	Trust          trust.Rules
	Certificate    *tls.Certificate // nil: the server asks for a password only
	TLSMin, TLSMax uint16           // 0: the default
	Protection     wire.Protection  // of the control channel
	Ciphers        []datakey.Cipher // offered, in order of preference
	Fallback       datakey.Cipher   // for a server that does not negotiate; empty: refuse that server

	Timers   Timers
	Framing  framing.Kind
	MTU      int      // bytes; 0: not set
	Options  []string // route, dns and such lines of the file itself, in the form that a server pushes them
	Filters  []Filter
	NoRoutes bool     // route-nopull
	PeerInfo []string // NAME=value lines for the server
}

// Remote is one server of a profile.
type Remote struct {
	Host    string
	Port    uint16
	Network string // "udp", "udp4", "udp6", "tcp", "tcp4" or "tcp6"

	// Protection of the control channel with this server; nil: the profile's. Use Profile.ProtectionFor.
	Protection *wire.Protection
}

// ProtectionFor is the protection of the control channel with one server.
func (p *Profile) ProtectionFor(r Remote) *wire.Protection {
	if r.Protection != nil {
		return r.Protection
	}
	return &p.Protection
}

// Timers are the durations of a profile. Zero: the default, or what the server pushes.
type Timers struct {
	Renegotiate time.Duration // 0: left to the server and to key limits
	HandWindow  time.Duration // for one negotiation
	Transition  time.Duration // how long an old key stays good
	Ping        time.Duration
	PingRestart time.Duration
	Poll        time.Duration // for the first answer of one remote (server-poll-timeout, connect-timeout)
}

// Filter is a pull-filter line: what happens to pushed options that begin with Prefix.
type Filter struct {
	Action Action
	Prefix string
}

// Action is what a Filter does.
type Action uint8

// Actions.
const (
	Accept Action = iota
	Ignore
	Reject // the whole session
)

// String names the profile's first server.
func (p Profile) String() string {
	if len(p.Remotes) == 0 {
		return "profile"
	}
	return "profile of " + p.Remotes[0].Host
}

// GoString is String: nothing prints the secrets.
func (p Profile) GoString() string { return p.String() }

// TLSConfig is the TLS side of the profile for one session. Revocation lists are read again from their file; the error
// says that this failed and that those read before are in use.
func (p *Profile) TLSConfig() (*tls.Config, error) {
	rules := p.Trust
	var err error
	rules.Revoked, err = rules.Revoked.Fresh()
	cfg := &tls.Config{
		MinVersion:             max(p.TLSMin, tls.VersionTLS12),
		MaxVersion:             p.TLSMax,
		InsecureSkipVerify:     true, // the profile's rules know no host name: VerifyConnection applies them
		VerifyConnection:       func(state tls.ConnectionState) error { return rules.Verify(state, time.Now()) },
		SessionTicketsDisabled: true,
	}
	if p.Certificate != nil {
		// Always ours, whatever authorities the server names: an intermediate's name is often missing there.
		cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return p.Certificate, nil }
	}
	return cfg, err
}

// Warning is about a line of a profile that was understood and ignored, or about the profile as a whole.
type Warning struct {
	File string
	Line int // 0: the whole file
	Text string
}

// String is the warning in the form of a compiler message.
func (w Warning) String() string {
	if w.Line == 0 {
		return w.File + ": " + w.Text
	}
	return fmt.Sprintf("%s:%d: %s", w.File, w.Line, w.Text)
}

// MaxFile is the largest profile, and the largest file that one may name, in bytes.
const MaxFile = 1 << 20

// Files open what a profile names. A nil function refuses: the content must then stand in the profile itself.
type Files struct {
	// Secret reads key, pkcs12, askpass, tls-auth, tls-crypt, tls-crypt-v2 and auth-user-pass.
	Secret func(path string) ([]byte, error)
	// Public reads ca, cert, extra-certs and crl-verify. It is called again for crl-verify before each session, from the
	// goroutine that connects. ReadPublic is one.
	Public func(path string) ([]byte, error)
	// Passphrase returns that of the private key, for a profile without an askpass file; empty: there is none.
	Passphrase func() (string, error)
}

// ReadPublic reads a regular file of at most MaxFile bytes.
func ReadPublic(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() { // before it is opened: to open a FIFO could block for ever
		return nil, fmt.Errorf("%s is not a regular file", path)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, MaxFile+1))
	if err == nil && len(b) > MaxFile {
		err = fmt.Errorf("%s is larger than %d bytes", path, MaxFile)
	}
	return b, err
}

func isWebPage(text string) bool {
	start := strings.ToLower(strings.TrimSpace(text[:min(len(text), 64)]))
	return strings.HasPrefix(start, "<!doctype") || strings.HasPrefix(start, "<html")
}

// Parse reads an .ovpn file. name is its name, for messages and as the base of relative file names. Files that it names
// are read at once, through files. The error names the line. Warnings are in the order of lines.
func Parse(r io.Reader, name string, files Files) (*Profile, []Warning, error) {
	content, err := io.ReadAll(io.LimitReader(r, MaxFile+1))
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", name, err)
	}
	if len(content) > MaxFile {
		return nil, nil, fmt.Errorf("%s: larger than %d bytes", name, MaxFile)
	}
	decoded, err := decode(content)
	if err != nil {
		return nil, nil, fmt.Errorf("%s %w", name, err)
	}
	if isWebPage(decoded) {
		return nil, nil, fmt.Errorf("%s: this is a web page, not a profile: sign in where it comes from, and download it again", name)
	}
	directives, err := lex(decoded)
	if err != nil {
		return nil, nil, locate(name, err)
	}
	p := newParser(name, files)
	for _, d := range directives {
		if err := p.directive(d); err != nil {
			return nil, p.warnings, locate(name, &lineError{d.line, err})
		}
	}
	profile, err := p.finish()
	if err != nil {
		return nil, p.warnings, locate(name, err)
	}
	return profile, p.warnings, nil
}

// open calls read with the path that file has beside the profile.
func open(profile, file string, read func(string) ([]byte, error)) ([]byte, error) {
	if read == nil {
		return nil, fmt.Errorf("open %s: no file may be named here: put its content into the profile: %w", file, fs.ErrPermission)
	}
	return read(beside(profile, file))
}

// beside is the path of a file that a profile names.
func beside(profile, file string) string {
	if filepath.IsAbs(file) {
		return file
	}
	return filepath.Join(filepath.Dir(profile), file)
}

// lineError is an error on a line of a profile.
type lineError struct {
	line int
	err  error
}

func (e *lineError) Error() string { return fmt.Sprintf("%d: %v", e.line, e.err) }

func (e *lineError) Unwrap() error { return e.err }

func locate(file string, err error) error {
	if e, ok := errors.AsType[*lineError](err); ok {
		return fmt.Errorf("%s:%w", file, e)
	}
	return fmt.Errorf("%s: %w", file, err)
}
