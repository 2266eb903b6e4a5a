package wireguard

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"penstock/policy/textfile"
)

// ParseConfig reads a wg-quick file as it is: as any editor writes text, field names in any case, a field on several lines
// adds up where it is a list, # begins a comment. file names it in messages. Fields that have no effect here are passed
// over with a warning; those that are not known are refused. The error joins a *SyntaxError for each fault; no message
// shows a private or preshared key.
func ParseConfig(r io.Reader, file string) (*Config, error) {
	data, err := io.ReadAll(io.LimitReader(r, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", file, err)
	}
	p := &parser{file: file, config: &Config{}, failed: make(map[place]bool)}
	if len(data) > maxFile {
		p.refuse("name a wg-quick file, or summarise AllowedIPs", "file is larger than %d MiB", maxFile>>20)
		return p.result()
	}
	for l := range strings.Lines(string(textfile.Decode(data))) {
		if len(p.errs) >= maxErrors {
			break
		}
		l = strings.TrimSuffix(l, "\n")
		p.line = line{p.line.number + 1, l}
		p.read(l)
	}
	p.finish()
	return p.result()
}

const (
	// maxFile bounds a file, in bytes. A line may be as long as the file: AllowedIPs of a whole country on one line are
	// about 200 KiB.
	maxFile = 4 << 20
	// maxErrors bounds the report about a file that is not a wg-quick file at all.
	maxErrors = 20
)

// place is a field of a peer, or of the interface if peer is noPeer.
type place struct {
	peer  int
	field string
}

// line is a line of a file with its number, from 1.
type line struct {
	number int
	text   string
}

// part is one section of the file.
type part struct {
	name   string // as the file format writes it; empty: refused
	header line
	seen   map[string]line // the last line of each field
}

// parser reads one file. It reports bad lines and goes on, so that one run finds every error.
type parser struct {
	file   string
	config *Config
	errs   []*SyntaxError
	failed map[place]bool // fields with an error: that they then have no value is not reported again

	line    line    // current
	reads   field   // of the current line
	section *part   // current; nil: before the first
	iface   *part   // [Interface]; nil: none yet
	peers   []*part // beside config.Peers
}

// read reads the current line.
func (p *parser) read(text string) {
	text, _, _ = strings.Cut(text, "#")
	text = strings.TrimSpace(text)
	if text == "" || text[0] == ';' { // INI files have such comments
		return
	}
	if strings.HasPrefix(text, "[") {
		p.header(text)
		return
	}
	key, value, ok := strings.Cut(text, "=")
	key, value = withoutBlanks(key), unquoted(strings.TrimSpace(value))
	switch {
	case p.section == nil:
		p.refuse("begin the file with [Interface]", "a field comes before the first section")
	case p.section.name == "":
		// The header was refused, and with it the section.
	case !ok:
		p.refuse("write it as FIELD = VALUE, or put # before a comment", "line is not a section, a field or a comment")
	default:
		p.field(key, value)
	}
}

// header begins a section.
func (p *parser) header(text string) {
	p.section = &part{header: p.line, seen: make(map[string]line)}
	switch strings.ToLower(withoutBlanks(text)) {
	case "[interface]":
		if p.iface != nil {
			p.refuse("keep one [Interface], and begin each peer with [Peer]", "[Interface] already began on line %d", p.iface.header.number)
			return
		}
		p.section.name = "Interface"
		p.iface = p.section
	case "[peer]":
		p.section.name = "Peer"
		p.peers = append(p.peers, p.section)
		p.config.Peers = append(p.config.Peers, Peer{})
	default:
		p.refuse("write [Interface] or [Peer]", "unknown section")
	}
}

// field reads one field of the current section.
func (p *parser) field(key, value string) {
	f, ok := fields[p.section.name][strings.ToLower(key)]
	if !ok {
		p.unknown(key)
		return
	}
	if first, ok := p.section.seen[f.name]; ok && !f.list {
		p.refuse("keep only one", "%s is already set on line %d", f.name, first.number)
		return
	}
	p.section.seen[f.name] = p.line
	p.reads = f
	if err := f.read(p, value); err != nil {
		at := place{noPeer, f.name}
		if p.section != p.iface {
			at.peer = len(p.config.Peers) - 1
		}
		p.failed[at] = true
		p.refuse(f.mend, "%s: %w", f.name, err)
	}
}

// unknown refuses a field that the current section does not have.
func (p *parser) unknown(key string) {
	for other, known := range fields {
		if f, ok := known[strings.ToLower(key)]; ok {
			p.failed[place{noPeer, f.name}] = true
			p.refuse(fmt.Sprintf("move it to [%s]", other), "%s does not belong in [%s]", f.name, p.section.name)
			return
		}
	}
	if like := nearest(key, fields[p.section.name]); like != "" {
		p.refuse(fmt.Sprintf("did you mean %s?", like), "[%s] has no such field", p.section.name)
		return
	}
	p.refuse("remove the line: WireGuard does not know it", "[%s] has no such field", p.section.name)
}

// finish reports what is missing and what does not fit together.
func (p *parser) finish() {
	if p.iface == nil {
		p.line.text = ""
		p.refuse("add an [Interface] section with PrivateKey and Address", "there is no [Interface]")
		return
	}
	for _, problem := range p.config.problems() {
		if p.isReported(problem) {
			continue
		}
		at := p.iface
		if problem.peer != noPeer {
			at = p.peers[problem.peer]
		}
		p.line = at.header
		if l, ok := at.seen[problem.field]; ok {
			p.line = l
		}
		p.refuse(problem.mend, "%s", problem.text)
	}
}

// isReported reports whether a problem merely follows from a line that was refused.
func (p *parser) isReported(problem problem) bool {
	for at := range p.failed {
		// One Endpoint in a file is enough, so if one was refused, none is missing. AllowedIPs likewise.
		if at.field == problem.field && (at.peer == problem.peer || at.field == "Endpoint" || at.field == "AllowedIPs") {
			return true
		}
	}
	return false
}

// result returns the configuration, or every error in the order of the file.
func (p *parser) result() (*Config, error) {
	if len(p.errs) == 0 {
		return p.config, nil
	}
	slices.SortStableFunc(p.errs, func(a, b *SyntaxError) int { return a.Line - b.Line })
	errs := make([]error, len(p.errs))
	for i, err := range p.errs {
		errs[i] = err
	}
	return nil, errors.Join(errs...)
}

// refuse adds an error about the current line.
func (p *parser) refuse(mend, format string, args ...any) {
	p.errs = append(p.errs, &SyntaxError{
		File: p.file, Line: max(p.line.number, 1), Excerpt: excerpt(p.line.text), Mend: mend, Err: fmt.Errorf(format, args...),
	})
}

// ignore warns that the current line is passed over.
func (p *parser) ignore() {
	p.config.Warnings = append(p.config.Warnings, fmt.Sprintf("%s:%d: %s is ignored: %s", p.file, p.line.number, p.reads.name, p.reads.note))
}

// peer returns the peer of the current section.
func (p *parser) peer() *Peer { return &p.config.Peers[len(p.config.Peers)-1] }

// parseList reads a list, which may be empty. Its items are separated by commas or blanks, as wg-quick reads them. There may
// be commas too many, and blanks around the slash of a prefix.
func parseList[T any](value string, parse func(string) (T, error)) ([]T, error) {
	separator := func(r rune) bool { return r == ',' || unicode.IsSpace(r) }
	value = aroundSlash.ReplaceAllString(value, "/")
	var all []T
	for text := range strings.FieldsFuncSeq(value, separator) {
		v, err := parse(text)
		if err != nil {
			return nil, err
		}
		all = append(all, v)
	}
	return all, nil
}

// aroundSlash is a slash with blanks around it.
var aroundSlash = regexp.MustCompile(`\s*/\s*`)

// withoutBlanks removes all blanks, as wg does before it reads a line.
func withoutBlanks(s string) string { return strings.Join(strings.Fields(s), "") }

// unquoted removes the quotes around a whole value, which other INI files have.
func unquoted(s string) string {
	if n := len(s); n >= 2 && (s[0] == '"' || s[0] == '\'') && s[n-1] == s[0] {
		return strings.TrimSpace(s[1 : n-1])
	}
	return s
}

// parsePrefix reads a prefix, or an address as the prefix that holds only it.
func parsePrefix(s string) (netip.Prefix, error) {
	s = strings.TrimPrefix(s, "+") // wg(8): adds to those that the peer has, and a file begins with none
	prefix, err := netip.ParsePrefix(s)
	if err != nil {
		var addr netip.Addr
		if addr, err = netip.ParseAddr(s); err == nil {
			prefix = netip.PrefixFrom(addr, addr.BitLen())
		}
	}
	if err != nil || !validPrefix(prefix) || prefix.Addr().Zone() != "" {
		return netip.Prefix{}, fmt.Errorf("%q is not an address or a prefix", s)
	}
	return prefix, nil
}

// parseNumber reads a decimal number from least to most.
func parseNumber(value string, least, most int) (int, error) {
	n, err := strconv.Atoi(value)
	if err != nil || n < least || n > most {
		return 0, fmt.Errorf("%q is not a number from %d to %d", value, least, most)
	}
	return n, nil
}

// parseKeepalive reads seconds, or off.
func parseKeepalive(value string) (time.Duration, error) {
	if strings.EqualFold(value, "off") {
		return 0, nil
	}
	n, err := parseNumber(value, 0, 65535)
	return time.Duration(n) * time.Second, err
}

// parseMark reads a firewall mark: a decimal number, a hexadecimal one after 0x, or off.
func parseMark(value string) (uint32, error) {
	if strings.EqualFold(value, "off") {
		return 0, nil
	}
	n, err := strconv.ParseUint(value, 0, 32)
	if err != nil {
		return 0, fmt.Errorf("%q is not a firewall mark", value)
	}
	return uint32(n), nil
}
