package config

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"github.com/goccy/go-yaml/ast"

	"penstock/cmd/internal/private"
	"penstock/policy/textfile"
)

// A file of peers is one that a glob of include matches, in a folder where every file that can be read has peers and nothing
// else. A fault in such a file costs a running gateway the peers in it, and nobody else.

// BadPeers is a file of peers that has faults.
type BadPeers struct {
	File   string
	Faults []Fault
	Kept   bool // an earlier version of the file is in force; without one its peers are left out
}

// String says in one line what is wrong with the file and what became of its peers.
func (b BadPeers) String() string {
	first, _, _ := strings.Cut(b.Faults[0].String(), "\n")
	if b.Kept {
		return "an earlier version is in force: " + first
	}
	return "its peers are left out: " + first
}

// Former returns the text of a file when it last worked. It may be nil.
type Former func(file string) (text []byte, ok bool)

// LoadServing is Load for a gateway that is to serve although a file of peers has faults: of such a file it takes the former
// text, or leaves it out if there is none or that does not fit either. Config.Bad has the files. Every other fault is an
// error.
func LoadServing(path string, former Former) (*Config, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return Load(path)
	}
	return serving(abs, path, peersFiles{former: former}, candidate{})
}

// Reload reads the files again, as LoadServing does. The former text of a file is that in c.
func (c *Config) Reload() (*Config, error) {
	return serving(c.Path, c.Path, peersFiles{former: c.former, before: c}, bundleOf(c))
}

// ReloadPeers is Reload for the files of peers alone: it takes the text of all other files from c.
func (c *Config) ReloadPeers() (*Config, error) {
	if c.root != "" {
		return c.Reload() // a copy is run only until the files themselves are mended
	}
	next, err := serving(c.Path, c.Path, peersFiles{former: c.former, before: c, rest: c}, bundleOf(c))
	if err != nil {
		return nil, err
	}
	for _, file := range next.Files {
		if !reads(c, file) && !next.holdsPeers(file) {
			return nil, &Error{Faults: []Fault{{Pos: Position{File: file}, Message: "the file is new and has more than peers in it", Mend: "run penstock reload"}}}
		}
	}
	return next, nil
}

// reads reports whether a file is one of a configuration.
func reads(c *Config, file string) bool {
	_, ok := c.texts[file]
	return ok
}

// With returns c with a file of peers that a glob of include matches and c does not have. All of it is checked, and no other file is
// read again, unless the folder has more than peers, or files with faults: what is in those counts too. Of two peers that want the same,
// that of c has it. The error is an *Error; c stays as it is.
func (c *Config) With(file string) (*Config, error) {
	text, err := readFile(file)
	if err != nil {
		return nil, &Error{Faults: []Fault{{Pos: Position{File: file}, Message: err.Error()}}}
	}
	others := sectionsOf(text)
	for pattern, all := range c.globs {
		if fits, err := filepath.Match(pattern, file); err == nil && fits {
			others.join(*all)
		}
	}
	if others.more || c.root != "" || len(c.Bad) > 0 {
		next, err := c.Reload()
		if err == nil {
			err = next.ErrOf(file)
		}
		return next, err
	}
	next := *c
	next.Peers, next.Files, next.Inputs = c.Peers.clipped(), slices.Clip(c.Files), slices.Clip(c.Inputs)
	next.Absent, next.warnings = slices.Clip(c.Absent), nil
	next.positions, next.texts, next.plains = maps.Clone(c.positions), maps.Clone(c.texts), maps.Clone(c.plains)
	next.globbed, next.standing = maps.Clone(c.globbed), map[string]standing{file: fresh}
	next.globbed[file] = &globbed{others: &others}
	d := &decoder{config: &next, fields: make(fieldCache), inputs: make(map[string]bool)}
	d.decode(file, text)
	if len(d.faults) == 0 {
		d.faults = next.check()
	}
	if len(d.faults) > 0 {
		return nil, &Error{Faults: d.inOrder()}
	}
	return &next, nil
}

// former is the Former of the next configuration.
func (c *Config) former(file string) (text []byte, ok bool) {
	file = c.Input(file)
	kept, ok := c.texts[file]
	return []byte(kept), ok && c.holdsPeers(file)
}

// Kept returns the text that is in force instead of a file of peers that has faults.
func (c *Config) Kept(file string) (text []byte, ok bool) {
	if slices.ContainsFunc(c.Bad, func(b BadPeers) bool { return b.File == file && b.Kept }) {
		return c.former(file)
	}
	return nil, false
}

// ErrOf returns what is wrong with a file of peers as an *Error, or nil.
func (c *Config) ErrOf(file string) error {
	for _, bad := range c.Bad {
		if bad.File == file {
			return &Error{Faults: bad.Faults}
		}
	}
	return nil
}

// peersFiles says what to do about files of peers while a configuration is read.
type peersFiles struct {
	former Former
	before *Config         // is in force; may be nil
	rest   *Config         // has the text of all other files; nil: they are read
	kept   map[string]bool // the former text is used, because the present one has faults
	out    map[string]bool // the file is left out, because neither text can be used
}

// serving loads a configuration, again and again without what is wrong with files of peers.
func serving(path, shown string, p peersFiles, from candidate) (*Config, error) {
	p.kept, p.out = make(map[string]bool), make(map[string]bool)
	var bad []BadPeers
	for {
		d := newDecoder(path)
		d.peers, d.config.leftOut, d.candidate = &p, len(p.out), from
		c, err := d.load(func() { d.read(path, Position{File: shown}) })
		if err == nil {
			for i := range bad {
				bad[i].Kept = !p.out[bad[i].File]
			}
			slices.SortFunc(bad, func(a, b BadPeers) int { return strings.Compare(a.File, b.File) })
			c.Bad = bad
			return c, nil
		}
		faulty := false
		for _, f := range d.faults {
			file := f.Pos.File
			if !d.config.holdsPeers(file) {
				continue
			}
			i := slices.IndexFunc(bad, func(b BadPeers) bool { return b.File == file })
			if i < 0 {
				bad = append(bad, BadPeers{File: file})
				i = len(bad) - 1
			}
			if !p.kept[file] { // of the former text, only that it does not fit either is of interest
				bad[i].Faults = append(bad[i].Faults, f)
			}
			faulty = true
		}
		if !faulty {
			return nil, err
		}
		for _, b := range bad {
			p.giveUp(b.File, d.faults)
		}
	}
}

// giveUp goes one step back with a file that has faults: to its former text, and without that to nothing.
func (p *peersFiles) giveUp(file string, faults []Fault) {
	if !slices.ContainsFunc(faults, func(f Fault) bool { return f.Pos.File == file }) {
		return
	}
	known := false
	if p.former != nil {
		_, known = p.former(file)
	}
	if known && !p.kept[file] {
		p.kept[file] = true
	} else {
		p.out[file] = true
	}
}

// isPattern reports whether an entry of include is a glob.
func isPattern(entry string) bool { return strings.ContainsAny(entry, "*?[") }

// sectionKey finds words that may be sections, in text that cannot be parsed. No key of a peer is called like a section.
var sectionKey = regexp.MustCompile(`(?m)(?:^|[{,])[ \t]*["']?([a-z_]+)["']?[ \t]*:`)

// sections is what files have in them. Words that are no section say nothing.
type sections struct{ peers, more bool }

func (s *sections) note(key string) {
	switch key {
	case "peers":
		s.peers = true
	case "version":
	default:
		s.more = s.more || isSection(key)
	}
}

// isSection reports whether a configuration may have a key.
func isSection(key string) bool {
	t := reflect.TypeFor[Config]()
	for i := range t.NumField() {
		if yaml := t.Field(i).Tag.Get("yaml"); yaml == key && yaml != "-" && yaml != "" {
			return true
		}
	}
	return false
}

func (s *sections) join(other sections) {
	s.peers, s.more = s.peers || other.peers, s.more || other.more
}

// sectionsOf returns what text has in it. It finds sections also where the rest cannot be parsed.
func sectionsOf(text []byte) sections {
	var s sections
	seen := make(map[string]bool)
	for _, m := range sectionKey.FindAllSubmatch(text, -1) {
		if key := m[1]; !seen[string(key)] {
			seen[string(key)] = true
			s.note(string(key))
		}
	}
	return s
}

// globbed is a file that a glob of include matches.
type globbed struct {
	sections
	others *sections // of all files that the glob matches and that can be read, this one too
}

// noteSections notes what the file being read has in it. root is nil if it could not be parsed.
func (d *decoder) noteSections(text []byte, root *ast.MappingNode) {
	g := d.config.globbed[d.file]
	if g == nil {
		return
	}
	if root == nil {
		g.join(sectionsOf(text))
		return
	}
	for _, entry := range root.Values {
		g.note(entry.Key.GetToken().Value)
	}
	g.others.join(g.sections)
}

// holdsPeers reports whether a file is one of peers.
func (c *Config) holdsPeers(file string) bool {
	g := c.globbed[file]
	return g != nil && !g.more && !g.others.more && (g.peers || g.others.peers)
}

// standing is the rank of a file whose peers want what others have. The zero value is that of files that are no files of peers.
type standing int

const (
	unchanged standing = iota // it says what is in force
	changed                   // an earlier version of it is in force
	fresh                     // nothing of it is in force
)

// text returns the text of a file, decoded.
func (d *decoder) text(path string) ([]byte, error) {
	p, g := d.peers, d.config.globbed[path]
	if p == nil {
		return readFile(path)
	}
	if rest := p.rest; rest != nil && !rest.holdsPeers(path) {
		if text, ok := rest.texts[path]; ok {
			return []byte(text), nil
		}
	}
	if g == nil || p.former == nil {
		if g != nil {
			d.config.standing[path] = fresh
		}
		return readFile(path)
	}
	if p.before != nil && reads(p.before, path) && p.before.globbed[path] != nil {
		g.join(p.before.globbed[path].sections) // what had rules in it may not be left out
	}
	former, known := p.former(path)
	former = textfile.Decode(former)
	text, err := readFile(path)
	same := err == nil && known && bytes.Equal(former, text)
	if known && !same { // else what text says is enough
		g.join(sectionsOf(former)) // the present text may be empty
	}
	if p.kept[path] && known {
		return former, nil
	}
	switch {
	case !known:
		d.config.standing[path] = fresh
	case !same:
		d.config.standing[path] = changed
	}
	return text, err
}

// paths returns the files that a glob stands for, without those that are left out.
func (d *decoder) paths(pattern string) ([]string, error) {
	paths, err := filepath.Glob(pattern)
	if err != nil || !isPattern(pattern) {
		return paths, err
	}
	c, others := d.config, new(sections)
	if d.peers != nil && d.peers.rest != nil {
		if others := d.peers.rest.globs[pattern]; others != nil && others.more {
			paths = nil
			for file, g := range d.peers.rest.globbed {
				if g.others == others {
					paths = append(paths, file)
				}
			}
			slices.Sort(paths)
		}
	}
	c.globs[pattern] = others
	for _, path := range paths {
		if c.globbed[path] == nil {
			c.globbed[path] = &globbed{others: others}
		}
	}
	c.seen[pattern] = look(paths)
	if d.peers == nil {
		return paths, nil
	}
	return slices.DeleteFunc(paths, func(path string) bool { return d.peers.out[path] }), nil
}

// Seen is what the folders of peers looked like at one time, by glob: size, time, mode and owner of each file.
type Seen map[string]string

func look(paths []string) string {
	var b strings.Builder
	for _, path := range paths {
		info, err := os.Stat(path)
		if err != nil {
			fmt.Fprintf(&b, "%s\n", path)
			continue
		}
		fmt.Fprintf(&b, "%s %d %d %v %s\n", path, info.Size(), info.ModTime().UnixNano(), info.Mode(), private.Owner(info))
	}
	return b.String()
}

// Look returns what the folders of peers look like now, and whether that differs from when c was read.
func (c *Config) Look() (now Seen, changed bool) {
	now = make(Seen)
	if c.root != "" {
		return now, false // the present configuration is known to have a fault
	}
	for pattern, sections := range c.globs {
		if sections.more {
			continue
		}
		if paths, err := filepath.Glob(pattern); err == nil {
			now[pattern] = look(paths)
			changed = changed || now[pattern] != c.seen[pattern]
		}
	}
	return now, changed
}

// absent is called for a name that rules or tests mention and no peer has. It reports whether a file that is left out may have
// it. Then the name is no fault.
func (c *Config) absent(name string) bool {
	if c.leftOut == 0 {
		return false
	}
	if !slices.Contains(c.Absent, name) {
		c.Absent = append(c.Absent, name)
	}
	return true
}
