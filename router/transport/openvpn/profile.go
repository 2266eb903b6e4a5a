package openvpn

import (
	"errors"
	"io"
)

// Profile is a parsed .ovpn file.
type Profile struct {
	Remotes []Remote
}

// Remote is one server of a profile.
type Remote struct {
	Host    string
	Port    uint16
	Network string // "udp", "udp4", "udp6", "tcp", "tcp4" or "tcp6"
}

// Warning is a line of a profile that was understood and left out.
type Warning struct {
	File string
	Line int
	Text string
}

// ParseProfile reads an .ovpn file; file is its name, for messages and as the base of relative file names.
func ParseProfile(r io.Reader, file string) (*Profile, []Warning, error) {
	return nil, nil, errors.ErrUnsupported
}
