package profile

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"penstock/policy/spelling"
	"penstock/router/transport/openvpn/internal/text"
	"penstock/router/transport/openvpn/internal/wire"
)

// parser collects directives until finish can make a Profile of them.
type parser struct {
	file     string
	files    Files
	table    map[string]entry
	warnings []Warning
	line     int // of the directive at hand, for warnings

	out        Profile
	network    string // proto
	port       uint16
	remotes    []pendingRemote
	force      string          // proto-force: "udp" or "tcp"
	announced  map[string]bool // ignore-unknown-option, setenv opt
	compatible bool            // setenv FORWARD_COMPATIBLE: ignore all that is unknown
	materials  map[string]material
	devices    map[string]directive // dev, dev-type
	asksPass   bool                 // askpass
	passphrase text.Secret          // of the key; empty: ask files.Passphrase
	passError  error                // of files.Passphrase
	digest     string
	digestAt   int
	tlsKeys    []directive // tls-auth, tls-crypt, tls-crypt-v2
	keyDir     wire.Direction
}

// pendingRemote is a remote whose port and network may be given by a later line.
type pendingRemote struct {
	host, network string
	port          uint16
	local         *parser // the <connection> block it stands in
}

// material is the content of ca, cert, key and such.
type material struct {
	line int
	file string // empty: inline
	text string
}

func newParser(file string, files Files) *parser {
	return &parser{
		file: file, files: files, table: table(),
		network: "udp", port: 1194,
		announced: make(map[string]bool),
		materials: make(map[string]material),
		digest:    "SHA1",
	}
}

func (p *parser) warn(format string, args ...any) {
	p.warnings = append(p.warnings, Warning{p.file, p.line, fmt.Sprintf(format, args...)})
}

// directive files one directive under what it means.
func (p *parser) directive(d directive) error {
	p.line = d.line
	if d.name == "setenv" && d.arg(0) == "opt" { // ignore it unless it is known
		if len(d.args) == 1 {
			return nil
		}
		d.name, d.args = d.args[1], d.args[2:]
		p.announced[d.name] = true
	}
	forgiven := p.compatible || p.announced[d.name]
	e := p.table[d.name]
	if d.inline && !e.block && !forgiven {
		if small := strings.ToLower(d.name); blocks[small] {
			return fmt.Errorf("unknown inline block <%s>; write it in small letters: <%s>", d.name, small)
		}
		return fmt.Errorf("unknown inline block <%s>", d.name)
	}
	switch e.fate {
	case honoured:
		if err := e.parse(p, d); err != nil {
			return fmt.Errorf("%s: %w", d.name, err)
		}
	case moot:
	case ignored, program:
		p.warn("%s is ignored: %s", d.name, e.note)
	case pushable:
		p.keepOption(d)
	case refused:
		return fmt.Errorf("%s: %s", d.name, e.note)
	default:
		if forgiven {
			p.warn("%s is unknown, and ignored as the profile asks", d.name)
			return nil
		}
		if near := spelling.Nearest(d.name, slices.Collect(maps.Keys(p.table))); near != "" {
			return fmt.Errorf("unknown directive %q; did you mean %q?", d.name, near)
		}
		return fmt.Errorf(`unknown directive %q: remove the line, or add "ignore-unknown-option %s" above it if the profile can do without`, d.name, d.name)
	}
	return nil
}
