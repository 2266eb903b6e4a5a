package openvpn

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"penstock/router/transport/openvpn/internal/datakey"
)

// Profile is a parsed .ovpn file. Make one with ParseProfile. It holds secrets and does not print them.
type Profile struct {
	Remotes         []Remote // in the file's order, at least one
	RemoteRandom    bool     // try the remotes in a random order
	AuthUserPass    bool     // the server wants a user name and password
	StaticChallenge string   // the question that goes with the password; empty: none

	staticEcho bool
	user       string
	password   secret
	noCache    bool

	trust       trust
	certificate *tls.Certificate // nil for servers that ask for a password only
	wrap        wrapSpec
	ciphers     []datakey.Cipher // offered, in order of preference
	// fallback is used with a server that does not negotiate; empty: refuse it.
	fallback datakey.Cipher

	timers
	tunMTU   int      // 0: not told
	options  []string // route, dns and such lines of the file itself, in the form the server pushes them
	filters  []pullFilter
	noRoutes bool
	peerInfo []string // NAME=value lines to tell the server
}

// Remote is one server of a profile.
type Remote struct {
	Host    string
	Port    uint16
	Network string // "udp", "udp4", "udp6", "tcp", "tcp4" or "tcp6"
}

// trust says which server certificates are good.
type trust struct {
	ca           []*x509.Certificate
	crls         []*x509.RevocationList
	fingerprints [][32]byte // SHA-256 of accepted certificates
	serverUsage  bool       // remote-cert-tls server
	name         string     // verify-x509-name
	nameKind     nameKind
	minVersion   uint16
	maxVersion   uint16
}

type nameKind uint8

const (
	nameSubject nameKind = iota // the whole subject
	nameCommon                  // the common name
	namePrefix                  // the start of the common name
)

// timers are the durations of a profile. Zero: the default, or what the server pushes.
type timers struct {
	renegotiate time.Duration // 0: left to the server and to key limits
	handWindow  time.Duration // for one negotiation
	transition  time.Duration // how long an old key stays good
	ping        time.Duration
	pingRestart time.Duration
	connect     time.Duration // for one remote
}

type pullFilter struct {
	action pullAction
	prefix string
}

type pullAction uint8

const (
	pullAccept pullAction = iota
	pullIgnore
	pullReject
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

// secret is text that does not print.
type secret string

// String hides the text.
func (secret) String() string { return "(secret)" }

// GoString hides the text.
func (secret) GoString() string { return "(secret)" }

// Warning is a line of a profile that was understood and left out.
type Warning struct {
	File string
	Line int
	Text string
}

// String is the warning in the form of a compiler message.
func (w Warning) String() string { return fmt.Sprintf("%s:%d: %s", w.File, w.Line, w.Text) }

const maxProfile = 1 << 20 // bytes, of the profile and of each file it names

// ParseProfile reads an .ovpn file; file is its name, for messages and as the base of relative file names. Files that
// it names (ca, cert, key, ...) are read at once. Directives that run programs are left out with a warning. A directive
// that is unknown, or would change what is sent but is not supported, is an error that names its line.
func ParseProfile(r io.Reader, file string) (*Profile, []Warning, error) {
	return parseProfile(r, file, func(name string) ([]byte, error) {
		if !filepath.IsAbs(name) {
			name = filepath.Join(filepath.Dir(file), name)
		}
		return readRegular(name)
	})
}

func readRegular(name string) ([]byte, error) {
	info, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > maxProfile {
		return nil, fmt.Errorf("%s is not a small regular file", name)
	}
	return os.ReadFile(name)
}

func parseProfile(r io.Reader, file string, read func(name string) ([]byte, error)) (*Profile, []Warning, error) {
	text, err := io.ReadAll(io.LimitReader(r, maxProfile+1))
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", file, err)
	}
	if len(text) > maxProfile {
		return nil, nil, fmt.Errorf("%s: larger than %d bytes", file, maxProfile)
	}
	directives, err := lex(string(text))
	if err != nil {
		return nil, nil, locate(file, err)
	}
	p := newProfileParser(file, read)
	for _, d := range directives {
		if err := p.directive(d); err != nil {
			return nil, p.warnings, locate(file, &lineError{d.line, err})
		}
	}
	profile, err := p.finish()
	if err != nil {
		return nil, p.warnings, locate(file, err)
	}
	return profile, p.warnings, nil
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
