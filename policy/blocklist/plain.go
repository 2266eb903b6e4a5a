package blocklist

import (
	"bytes"
	"net/netip"
)

// domains reads "x", "*.x" or ".x". It tolerates a comment after the name.
func (s *scanner) domains(line []byte) error {
	line = trimLeft(line)
	if len(line) == 0 || line[0] == '#' || line[0] == '!' || line[0] == ';' {
		return nil
	}
	for i, c := range line {
		if c == ' ' || c == '\t' || c == '#' {
			if c != '#' {
				return s.domainAndMore(line[:i], trimLeft(line[i:]))
			}
			line = line[:i]
			break
		}
	}
	return s.domain(line)
}

// domainAndMore reads a name that is followed by blanks: before a comment, or on a stray line of a hosts file.
func (s *scanner) domainAndMore(name, rest []byte) error {
	if rest[0] == '#' || rest[0] == ';' {
		return s.domain(name)
	}
	if isBlockAddr(name) {
		return s.hosts(s.entry.Text)
	}
	return s.skip(SkipInvalid)
}

func (s *scanner) domain(name []byte) error {
	name = bytes.TrimPrefix(name, []byte("*"))
	name = bytes.TrimPrefix(name, []byte("."))
	switch {
	case bytes.IndexByte(name, '*') >= 0:
		return s.skip(SkipPattern)
	case bytes.IndexByte(name, '/') >= 0:
		return s.skip(SkipPath)
	}
	return s.name(name)
}

// hosts reads an address and the names for it.
func (s *scanner) hosts(line []byte) error {
	if i := bytes.IndexByte(line, '#'); i >= 0 {
		line = line[:i]
	}
	s.entry.Exact = true // hosts(5) knows no subdomains
	addr, rest := cutField(line)
	if len(addr) == 0 || addr[0] == '!' {
		return nil
	}
	name, rest := cutField(rest)
	if len(name) == 0 {
		return s.name(addr) // a bare name in a hosts file
	}
	if !isBlockAddr(addr) {
		if isAddr(addr) {
			return s.skip(SkipNotBlock)
		}
		return s.skip(SkipInvalid)
	}
	for ; len(name) > 0; name, rest = cutField(rest) {
		if err := s.name(name); err != nil {
			return err
		}
	}
	return nil
}

// isBlockAddr reports whether lists use this address to block a name.
func isBlockAddr(text []byte) bool {
	switch string(text) {
	case "0.0.0.0", "127.0.0.1", "::", "::1", "0":
		return true
	}
	addr, err := netip.ParseAddr(string(text))
	return err == nil && (addr.IsUnspecified() || addr.IsLoopback())
}

func isAddr(text []byte) bool {
	_, err := netip.ParseAddr(string(text))
	return err == nil
}

// cutField returns the first word of a line and what follows it.
func cutField(line []byte) (field, rest []byte) {
	i := 0
	for i < len(line) && (line[i] == ' ' || line[i] == '\t') {
		i++
	}
	j := i
	for j < len(line) && line[j] != ' ' && line[j] != '\t' {
		j++
	}
	return line[i:j], line[j:]
}

// expressionLine reads a line of a squidGuard expressions file. The expressions are written for URLs; here they are matched
// against the host name alone.
func (s *scanner) expressionLine(line []byte) error {
	if len(line) == 0 || line[0] == '#' {
		return nil
	}
	return s.expression("(?i)" + string(line))
}

// urlLine skips host/path lines. Using the host alone would block a whole site for one of its pages.
func (s *scanner) urlLine(line []byte) error {
	if len(line) == 0 || line[0] == '#' {
		return nil
	}
	return s.skip(SkipURL)
}
