package config

import (
	"net/netip"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A plain file has peers and nothing else, each written in the way in which most are: in one line, as
//
//	- {name: ana, public_key: "...", allowed_ips: [10.0.0.2/32], groups: [staff]}
//
// or with a line for each key, as penstock peer add does. A gateway with 100,000 peers reads such files 40 times as fast as YAML at
// large. Whatever is written in another way, or wrong, is left to the decoder, which also says what is wrong. So both have to
// understand a plain file alike, positions included; FuzzPlain compares them.

// plainKey is a key of a peer that a plain file may have.
type plainKey uint8

const (
	plainName plainKey = iota
	plainPublicKey
	plainAllowedIPs
	plainGroups
	plainDisabled
	plainExpires
	plainKeepalive
	plainRenewals
	plainKeys // how many there are
)

// plainKeyOf returns the key with a name.
func plainKeyOf(name string) (plainKey, bool) {
	switch name {
	case "name":
		return plainName, true
	case "public_key":
		return plainPublicKey, true
	case "allowed_ips":
		return plainAllowedIPs, true
	case "groups":
		return plainGroups, true
	case "disabled":
		return plainDisabled, true
	case "expires":
		return plainExpires, true
	case "persistent_keepalive":
		return plainKeepalive, true
	case "dns_renewals":
		return plainRenewals, true
	}
	return 0, false
}

// span is the part of Config.Peers that a plain file has filled.
type span struct{ first, end int }

// decodePlain decodes a file, if it is plain. If not, it has done nothing.
func decodePlain(d *decoder, path string) bool {
	c, first := d.config, d.config.Peers.Len()
	at, peers := Position{}, []Peer(nil)
	if before := readBefore(d, path); before != nil {
		s := before.plains[path]
		c.texts[path], peers = before.texts[path], make([]Peer, 0, s.end-s.first)
		for i := s.first; i < s.end; i++ {
			peers = append(peers, before.Peers.At(i))
		}
		at = plainList(before, path)
	} else {
		p := plainReader{file: path, lines: strings.Split(c.texts[path], "\n")}
		if !p.read() {
			return false
		}
		peers, at = p.peers, p.list
	}
	if len(d.changed) > 0 && filepath.Ext(path) != ChangeSuffix && slices.ContainsFunc(peers, func(p Peer) bool { return d.changed[p.Name] }) {
		return false // the decoder leaves those out
	}
	delete(c.positions, "version") // as after any file
	c.positions["peers"] = at
	if first == 0 {
		c.positions["peers[0]"] = peers[0].Pos
	}
	for i := range peers {
		c.Peers.Append(peers[i])
	}
	c.plains[path] = span{first, c.Peers.Len()}
	if g := c.globbed[path]; g != nil {
		g.note("peers")
		g.others.join(g.sections)
	}
	return true
}

// readBefore returns the configuration in force if it has read the same text from a plain file.
func readBefore(d *decoder, path string) *Config {
	if d.peers == nil || d.peers.before == nil {
		return nil
	}
	before := d.peers.before
	if s, ok := before.plains[path]; !ok || s.end > before.Peers.Len() || before.texts[path] != d.config.texts[path] {
		return nil
	}
	return before
}

// plainList returns where the list of a plain file begins: at the dash before its first peer.
func plainList(c *Config, path string) Position {
	pos := c.Peers.At(c.plains[path].first).Pos
	pos.Column -= len("- ")
	return pos
}

// plainPosition returns where a value of a peer in a plain file is written. It reads its lines again, because 100,000 peers have
// 700,000 such places, and next to none is asked for.
func plainPosition(c *Config, path string) (pos Position, ok bool) {
	rest, ok := strings.CutPrefix(path, "peers[")
	if !ok {
		return pos, false
	}
	number, rest, _ := strings.Cut(rest, "]")
	i, err := strconv.Atoi(number)
	if err != nil || i < 0 || i >= c.Peers.Len() {
		return pos, false
	}
	pos = c.Peers.At(i).Pos
	s, ok := c.plains[pos.File]
	if !ok || i < s.first || i >= s.end {
		return pos, false
	}
	if rest == "" {
		return pos, true
	}
	name, item, listed := strings.Cut(strings.TrimPrefix(rest, "."), "[")
	key, ok := plainKeyOf(name)
	if !ok {
		return pos, false
	}
	n := -1
	if listed {
		if n, err = strconv.Atoi(strings.TrimSuffix(item, "]")); err != nil {
			return pos, false
		}
	}
	p := plainReader{file: pos.File, lines: strings.Split(c.texts[pos.File], "\n"), next: pos.Line - 1}
	if p.next >= len(p.lines) || !p.item() {
		return pos, false
	}
	for _, v := range p.values {
		if v.key == key && v.item == n {
			return Position{File: pos.File, Line: v.line, Column: v.column}, true
		}
	}
	return pos, false
}

// plainValue is a value of a peer, or an item of one that is a list.
type plainValue struct {
	key          plainKey
	item         int // of a list; -1: the value itself
	text         string
	line, column int
}

// plainReader reads a plain file.
type plainReader struct {
	file   string
	lines  []string
	peers  []Peer
	list   Position // where the list begins
	next   int      // line that is read next, from 0
	indent int      // of the dashes, once there is one
	begun  bool
	values []plainValue // of the peer being read
	start  Position     // of that peer

	line   string // being read
	at     int    // byte of line that is read next
	groups []string
}

// read reads the whole file. It returns false if the file is not plain.
func (p *plainReader) read() bool {
	for ; p.next < len(p.lines) && p.skip(p.lines[p.next]); p.next++ {
	}
	if p.next == len(p.lines) || p.lines[p.next] != "peers:" {
		return false
	}
	p.next++
	p.peers = make([]Peer, 0, p.estimate())
	for p.next < len(p.lines) {
		if p.skip(p.lines[p.next]) {
			p.next++
			continue
		}
		if !p.item() || !p.add() {
			return false
		}
	}
	return len(p.peers) > 0
}

// estimate returns how many peers there are, roughly: those that are written in one line.
func (p *plainReader) estimate() (n int) {
	for _, line := range p.lines {
		if strings.HasPrefix(strings.TrimLeft(line, " "), "- ") {
			n++
		}
	}
	return n
}

// skip reports whether a line is empty, or a comment at its beginning.
func (p *plainReader) skip(line string) bool {
	if line == "" {
		return true
	}
	if line[0] != '#' {
		return false
	}
	return !strings.ContainsFunc(line, func(r rune) bool { return r < ' ' || r > '~' })
}

// item reads the lines of one peer into values.
func (p *plainReader) item() bool {
	p.values, p.line = p.values[:0], p.lines[p.next]
	p.at = len(p.line) - len(strings.TrimLeft(p.line, " "))
	if p.begun && p.at != p.indent {
		return false
	}
	p.indent = p.at
	if !p.take("- ") {
		return false
	}
	p.start = Position{File: p.file, Line: p.next + 1, Column: p.at + 1}
	if !p.begun {
		p.begun, p.list = true, Position{File: p.file, Line: p.next + 1, Column: p.indent + 1}
	}
	if p.take("{") {
		for {
			if !p.pair() {
				return false
			}
			if !p.take(", ") {
				break
			}
		}
		if !p.take("}") || p.at != len(p.line) {
			return false
		}
		p.next++
		return true
	}
	for {
		if !p.pair() || p.at != len(p.line) {
			return false
		}
		p.next++
		if p.next == len(p.lines) {
			return true
		}
		p.line, p.at = p.lines[p.next], 0
		if !p.take(spaces(p.indent + 2)) {
			return true // the next peer, or what read refuses
		}
	}
}

// spaces returns up to 16 spaces.
func spaces(n int) string { return "                "[:min(n, 16)] }

func (p *plainReader) take(text string) bool {
	if !strings.HasPrefix(p.line[p.at:], text) {
		return false
	}
	p.at += len(text)
	return true
}

// pair reads a key and its value.
func (p *plainReader) pair() bool {
	name, _, ok := strings.Cut(p.line[p.at:], ": ")
	if !ok {
		return false
	}
	key, ok := plainKeyOf(name)
	if !ok || slices.ContainsFunc(p.values, func(v plainValue) bool { return v.key == key }) {
		return false
	}
	p.at += len(name) + len(": ")
	isList := key == plainAllowedIPs || key == plainGroups
	if !isList || p.at == len(p.line) || p.line[p.at] != '[' {
		return p.scalar(key, -1) && (!isList || p.alsoFirst())
	}
	p.values = append(p.values, plainValue{key: key, item: -1, line: p.next + 1, column: p.at + 1})
	p.at++
	for i := 0; ; i++ {
		if !p.scalar(key, i) {
			return false
		}
		if !p.take(", ") {
			break
		}
	}
	return p.take("]")
}

// alsoFirst makes the single value in the place of a list its only item.
func (p *plainReader) alsoFirst() bool {
	v := p.values[len(p.values)-1]
	v.item = 0
	p.values = append(p.values, v)
	return true
}

// scalar reads a single value.
func (p *plainReader) scalar(key plainKey, item int) bool {
	v := plainValue{key: key, item: item, line: p.next + 1, column: p.at + 1}
	if p.take(`"`) {
		end := strings.IndexByte(p.line[p.at:], '"')
		if end <= 0 {
			return false
		}
		v.text = p.line[p.at : p.at+end]
		p.at += end + 1
		if key == plainDisabled || key == plainRenewals || !consistsOf(v.text, quotable) {
			return false
		}
	} else {
		rest := p.line[p.at:]
		end := strings.IndexAny(rest, ",]}")
		if end < 0 {
			end = len(rest)
		}
		v.text = rest[:end]
		p.at += end
		if !plainText(key, v.text) {
			return false
		}
	}
	p.values = append(p.values, v)
	return true
}

// Classes of characters.
const (
	letter = 1 << iota
	digit
	wordy // - _ . @
	slash
	other    // + = :
	quotable = letter | digit | wordy | slash | other
)

func classOf(b byte) int {
	switch {
	case 'a' <= b && b <= 'z' || 'A' <= b && b <= 'Z':
		return letter
	case '0' <= b && b <= '9':
		return digit
	case b == '-' || b == '_' || b == '.' || b == '@':
		return wordy
	case b == '/':
		return slash
	case b == '+' || b == '=' || b == ':':
		return other
	}
	return 0
}

func consistsOf(text string, classes int) bool {
	for i := range len(text) {
		if classOf(text[i])&classes == 0 {
			return false
		}
	}
	return true
}

// plainText reports whether text without quotes is surely what the key wants, and nothing else to YAML.
func plainText(key plainKey, text string) bool {
	if text == "" {
		return false
	}
	switch key {
	case plainName, plainGroups:
		return classOf(text[0]) == letter && consistsOf(text, letter|digit|wordy) && !isReservedWord(text)
	case plainPublicKey:
		return len(text) == len(noKey) && text[len(text)-1] == '=' && consistsOf(text[:len(text)-1], letter|digit|slash|other) &&
			!strings.ContainsAny(text[:len(text)-1], "=:")
	case plainAllowedIPs:
		return strings.Count(text, ".") == 3 && strings.Count(text, "/") == 1 && consistsOf(text, digit|wordy|slash)
	case plainDisabled:
		return text == "true" || text == "false"
	case plainKeepalive:
		return text[len(text)-1] == 's' && len(text) > 1 && consistsOf(text[:len(text)-1], digit)
	case plainRenewals:
		return text[0] != '0' && len(text) < 10 && consistsOf(text, digit)
	}
	return false
}

// isReservedWord reports whether a YAML of some version takes text for something else than a string.
func isReservedWord(text string) bool {
	switch len(text) {
	case 1, 2, 3, 4, 5:
		return slices.Contains([]string{"y", "n", "on", "off", "yes", "no", "true", "false", "null", "nan", "inf"}, strings.ToLower(text))
	}
	return false
}

// add makes a peer of values.
func (p *plainReader) add() bool {
	peer := Peer{Pos: p.start}
	groups := p.groups[:0]
	for _, v := range p.values {
		switch v.key {
		case plainName:
			peer.Name = v.text
		case plainPublicKey:
			peer.PublicKey = v.text
		case plainAllowedIPs:
			if v.item < 0 {
				continue
			}
			prefix, err := netip.ParsePrefix(v.text)
			if err != nil {
				return false
			}
			peer.AllowedIPs = append(peer.AllowedIPs, prefix)
		case plainGroups:
			if v.item >= 0 {
				groups = append(groups, v.text)
			}
		default:
			if !peer.setPlain(v) {
				return false
			}
		}
	}
	peer.Groups = p.sameGroups(groups)
	if peer.Name == "" {
		return false
	}
	p.peers = append(p.peers, peer)
	return true
}

// sameGroups returns the list of groups, which peers that follow each other often share.
func (p *plainReader) sameGroups(groups []string) []string {
	p.groups = groups
	if len(groups) == 0 {
		return nil
	}
	if n := len(p.peers); n > 0 && slices.Equal(p.peers[n-1].Groups, groups) {
		return p.peers[n-1].Groups
	}
	return slices.Clone(groups)
}

// setPlain sets a value that few peers have.
func (p *Peer) setPlain(v plainValue) bool {
	var err error
	switch v.key {
	case plainDisabled:
		p.Disabled = v.text == "true"
	case plainRenewals:
		p.DNSRenewals, err = strconv.Atoi(v.text)
	case plainKeepalive:
		p.PersistentKeepalive, err = time.ParseDuration(v.text)
	case plainExpires:
		err = setText(reflect.ValueOf(&p.Expires).Elem(), v.text)
	}
	return err == nil && p.PersistentKeepalive >= 0
}
