package blocklist

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"

	"penstock/policy/textfile"
)

// Options say how a list is read. The zero Options detect the format and refuse an empty list.
type Options struct {
	List       string // name for errors, reports and hits: a path or an address
	Format     Format
	Allow      bool     // every entry allows
	Exact      bool     // every entry means the name alone, without its subdomains
	AllowTLD   bool     // accept entries for whole top-level domains and public suffixes
	AllowEmpty bool     // accept an empty list, such as one that the operator writes
	MaxBytes   int64    // decompressed; 0: DefaultMaxBytes
	Previous   int      // entries of the last good version; 0 if there was none
	NeverBlock []string // canonical names: a list that blocks one of them is refused

	// Include opens the file that a geosite include names. If nil, includes are skipped.
	Include func(name string) (io.ReadCloser, error)
}

// Entry is one entry of a list. It has a Name, an Addr or an Expression.
type Entry struct {
	Name       []byte // canonical; valid until the next Entry
	Addr       netip.Addr
	Expression string // regular expression for host names, or KeywordPrefix and a substring
	Allow      bool
	Exact      bool // the name alone, without subdomains
	Below      bool // the subdomains alone, without the name
	Important  bool // takes precedence over entries that are not important
	Disables   bool // cancels the entry of the same list that is otherwise equal
	Line       int  // from 1
	List       string
	Text       []byte // the line; valid until the next Entry
}

// Reasons to skip a line or a part of one. They are the keys of Report.Skipped.
const (
	SkipInvalid     = "not a host name"
	SkipTopLevel    = "top-level domain"
	SkipSuffix      = "public suffix"
	SkipSpecial     = "local name" // or a single label, or an unspecified, loopback, multicast or broadcast address
	SkipCosmetic    = "cosmetic rule"
	SkipPath        = "rule for a path"
	SkipPattern     = "wildcard within a name"
	SkipModifier    = "rule with a condition"
	SkipNotBlock    = "answer that is not a block"
	SkipURL         = "url"
	SkipTrigger     = "policy zone trigger that is not a name"
	SkipExpression  = "unusable expression"
	SkipIncludeless = "include of another list"
	SkipLong        = "line too long"
)

// Report counts what was found in a list.
type Report struct {
	Format      Format
	Lines       int
	Blocks      int // names blocked
	Allows      int // names allowed
	Addresses   int
	Expressions int
	Skipped     map[string]int // by reason; nil if nothing was skipped
	// Refused are the first entries that are too wide to be meant, such as com or co.uk, and the first lines that are too
	// long.
	Refused []Refused
}

// Refused is an entry or a line that was left out, and that the operator should know of.
type Refused struct {
	Line   int
	Text   string // the name; empty for a line that is too long
	Reason string // SkipTopLevel, SkipSuffix or SkipLong
}

// maxRefused is how many of them a Report names.
const maxRefused = 3

// Entries returns the number of entries of all kinds.
func (r Report) Entries() int { return r.Blocks + r.Allows + r.Addresses + r.Expressions }

// Check reads a list to its end and returns an error if it must not replace the last good one. The error is a *ListError if
// the content of the list is the cause.
func Check(r io.Reader, o Options) (Report, error) {
	return Scan(r, o, func(*Entry) error { return nil })
}

// Scan reads a list and calls yield for each entry. It stops at the first error of yield and returns it with the line.
// The check that the list is plausible comes last: after an error, discard the entries yielded so far.
func Scan(r io.Reader, o Options, yield func(*Entry) error) (Report, error) {
	s := &scanner{o: &o, yield: yield, never: covering(o.NeverBlock)}
	s.left = o.MaxBytes
	if s.left <= 0 {
		s.left = DefaultMaxBytes
	}
	err := s.file(r, o.List, nil)
	if err == nil {
		err = plausible(&o, &s.report)
	}
	return s.report, err
}

// scanner reads one list and the files it includes.
type scanner struct {
	o      *Options
	yield  func(*Entry) error
	never  map[string]string // suffix -> the never-block name it covers
	report Report
	left   int64 // bytes that may still be read
	entry  Entry
	buf    []byte // holds the current name if the file does not have its canonical form
	zone   zone
	site   geosite
}

// packed are the first bytes of files that hold others: zip, zstd, xz and 7z.
var packed = []string{"PK\x03\x04", "\x28\xb5\x2f\xfd", "\xfd7zXZ\x00", "7z\xbc\xaf\x27\x1c"}

const longestMagic = 6 // bytes in packed

func isPacked(start []byte) bool {
	return slices.ContainsFunc(packed, func(magic string) bool { return bytes.HasPrefix(start, []byte(magic)) })
}

// file reads one file. include is not nil if another file includes it.
func (s *scanner) file(r io.Reader, name string, include *inclusion) error {
	br := bufio.NewReaderSize(r, 64<<10)
	if magic, _ := br.Peek(2); bytes.Equal(magic, []byte{0x1f, 0x8b}) {
		z, err := gzip.NewReader(br)
		if err != nil {
			return &ListError{List: name, Reason: ErrCompressed, Mend: "fetch it again"}
		}
		br = bufio.NewReaderSize(z, 64<<10)
	}
	if magic, _ := br.Peek(longestMagic); isPacked(magic) {
		return &ListError{List: name, Reason: ErrPacked, Mend: "unpack it; only gzip can stay as it is"}
	}
	br = bufio.NewReaderSize(textfile.NewReader(br), 64<<10)
	sample, _ := br.Peek(64 << 10)
	format, html := detect(sample)
	if html {
		return &ListError{List: name, Line: 1, Reason: ErrHTML, Mend: "check the address: the list may have moved or need a login"}
	}
	if s.o.Format != Auto {
		format = s.o.Format
	}
	if include != nil {
		format = Geosite
	} else {
		s.report.Format = format
	}
	parse := s.parser(format)
	for n := 1; ; n++ {
		line, err := br.ReadSlice('\n')
		s.left -= int64(len(line))
		long := errors.Is(err, bufio.ErrBufferFull) || len(trimRight(line)) > MaxLine
		for errors.Is(err, bufio.ErrBufferFull) && s.left >= 0 {
			var rest []byte
			rest, err = br.ReadSlice('\n')
			s.left -= int64(len(rest))
		}
		switch {
		case err == nil && s.left >= 0:
		case s.left < 0:
			return &ListError{List: name, Line: n, Reason: ErrTooLarge, Text: "after decompression", Mend: "split it into several lists"}
		case errors.Is(err, gzip.ErrChecksum), errors.Is(err, gzip.ErrHeader), errors.Is(err, io.ErrUnexpectedEOF):
			return &ListError{List: name, Line: n, Reason: ErrCompressed, Mend: "fetch it again"}
		case err != nil && err != io.EOF:
			return fmt.Errorf("list %s line %d: %w", name, n, err)
		}
		last := err == io.EOF
		if len(line) > 0 {
			s.report.Lines++
		}
		switch line = trimRight(line); {
		case long:
			_ = s.refuse(SkipLong, n, nil) // never fails
		case len(line) > 0 || !last:
			s.entry = Entry{Line: n, List: name, Text: line, Allow: s.o.Allow, Exact: s.o.Exact}
			if err := parse(line, include); err != nil {
				if _, ok := errors.AsType[*ListError](err); ok {
					return err
				}
				return fmt.Errorf("list %s line %d: %w", name, n, err)
			}
		}
		if last {
			return nil
		}
	}
}

// parser returns the function that parses a line. The line has no trailing blanks and may be empty.
func (s *scanner) parser(f Format) func([]byte, *inclusion) error {
	plain := func(parse func([]byte) error) func([]byte, *inclusion) error {
		return func(line []byte, _ *inclusion) error { return parse(line) }
	}
	switch f {
	case Hosts:
		return plain(s.hosts)
	case AdBlock:
		return plain(s.adblock)
	case Dnsmasq:
		return plain(s.dnsmasq)
	case Unbound:
		return plain(s.unbound)
	case RPZ:
		return plain(s.rpz)
	case Geosite:
		return s.geosite
	case Expressions:
		return plain(s.expressionLine)
	case URLs:
		return plain(s.urlLine)
	}
	return plain(s.domains)
}

func trimRight(line []byte) []byte {
	n := len(line)
	for n > 0 && (line[n-1] == '\n' || line[n-1] == '\r' || line[n-1] == ' ' || line[n-1] == '\t') {
		n--
	}
	return line[:n]
}

func trimLeft(line []byte) []byte {
	for len(line) > 0 && (line[0] == ' ' || line[0] == '\t') {
		line = line[1:]
	}
	return line
}

func (s *scanner) skip(reason string) error {
	if s.report.Skipped == nil {
		s.report.Skipped = map[string]int{}
	}
	s.report.Skipped[reason]++
	return nil
}

// refuse skips an entry or a line that the operator should know of.
func (s *scanner) refuse(reason string, line int, name []byte) error {
	if len(s.report.Refused) < maxRefused {
		s.report.Refused = append(s.report.Refused, Refused{line, string(name), reason})
	}
	return s.skip(reason)
}

// name yields a name, or an address in place of a name, with the flags of s.entry.
func (s *scanner) name(raw []byte) error {
	if len(raw) > 0 && raw[len(raw)-1] == '.' {
		raw = raw[:len(raw)-1]
	}
	if !isCanonical(raw) {
		if addr, err := netip.ParseAddr(string(raw)); err == nil {
			return s.addr(addr)
		}
		name, err := CanonicalName(string(raw))
		if err != nil || bytes.IndexByte(raw, ':') >= 0 {
			return s.skip(SkipInvalid)
		}
		s.buf = append(s.buf[:0], name...)
		raw = s.buf
	}
	switch kind := suffixOf(raw); {
	case kind == localName:
		return s.skip(SkipSpecial)
	case s.o.AllowTLD:
	case kind == topLevel:
		return s.refuse(SkipTopLevel, s.entry.Line, raw)
	case kind == publicSuffix:
		return s.refuse(SkipSuffix, s.entry.Line, raw)
	}
	switch {
	case s.entry.Disables:
	case s.entry.Allow:
		s.report.Allows++
	default:
		if err := s.mayBlock(raw); err != nil {
			return err
		}
		s.report.Blocks++
	}
	s.entry.Name, s.entry.Addr, s.entry.Expression = raw, netip.Addr{}, ""
	return s.yield(&s.entry)
}

func (s *scanner) addr(addr netip.Addr) error {
	addr = addr.WithZone("").Unmap()
	if addr.IsUnspecified() || addr.IsLoopback() || addr.IsMulticast() || addr == netip.AddrFrom4([4]byte{255, 255, 255, 255}) {
		return s.skip(SkipSpecial)
	}
	s.report.Addresses++
	s.entry.Name, s.entry.Addr, s.entry.Expression = nil, addr, ""
	return s.yield(&s.entry)
}

func (s *scanner) expression(source string) error {
	x, err := compileExpression(source)
	if err != nil {
		return s.skip(SkipExpression)
	}
	if !s.entry.Allow {
		for _, name := range s.o.NeverBlock {
			if x.match(name) {
				return s.neverBlock(name)
			}
		}
	}
	s.report.Expressions++
	s.entry.Name, s.entry.Addr, s.entry.Expression = nil, netip.Addr{}, source
	return s.yield(&s.entry)
}

// covering maps each of these names, and each of their parent domains, to the name that an entry for it would block.
func covering(names []string) map[string]string {
	if len(names) == 0 {
		return nil
	}
	m := map[string]string{}
	for _, name := range names {
		for s, ok := name, true; ok; _, s, ok = strings.Cut(s, ".") {
			m[s] = name
		}
	}
	return m
}

func (s *scanner) mayBlock(raw []byte) error {
	if s.never == nil {
		return nil
	}
	name, ok := s.never[string(raw)]
	if !ok || s.entry.Exact && name != string(raw) || s.entry.Below && name == string(raw) {
		return nil
	}
	return s.neverBlock(name)
}

func (s *scanner) neverBlock(name string) error {
	return &ListError{List: s.entry.List, Line: s.entry.Line, Reason: ErrNeverBlock, Text: name,
		Mend: "remove the line, or allow the name in the category"}
}
