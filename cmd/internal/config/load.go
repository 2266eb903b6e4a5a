package config

import (
	"cmp"
	"errors"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"

	"penstock/cmd/internal/config/fault"
	"penstock/cmd/internal/config/profile"
	"penstock/cmd/internal/private"
	"penstock/policy/textfile"
)

// MaxFile bounds each file that a configuration is read from, profiles included, bytes.
const MaxFile = 4 << 20

// maxNesting is how deep values may be nested. goccy-yaml v1.19.2 needs memory that grows with the square of the depth:
// 30,000 opening brackets take 1.4 GB.
const maxNesting = 64

// Load reads the file at path with its includes, fills in defaults, expands the short form for laptops and checks what can
// be checked without touching the host. The error is an *Error that prints every fault with its place and mend.
func Load(path string) (*Config, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, &Error{Faults: []Fault{{Pos: Position{File: path}, Message: err.Error()}}}
	}
	d := newDecoder(abs)
	return d.load(func() { d.read(abs, Position{File: path}) })
}

// LoadCopy is Load for a copy below the folder root of the file at path and of the files that it names, each with its whole
// path below root. What the copy lacks is read where it is. Files that penstock writes are those of the original.
func LoadCopy(root, path string) (*Config, error) {
	d := newDecoder(path)
	d.root, d.config.root = root, root
	d.config.leftOut = 1 // a file of peers that was left out is not in the copy
	return d.load(func() {
		copied := filepath.Join(root, path)
		d.read(copied, Position{File: copied})
	})
}

// Parse is Load for text that will be written to path later. An absolute path makes the relative ones in it absolute.
func Parse(path string, text []byte) (*Config, error) {
	d := newDecoder(path)
	return d.load(func() { d.decode(path, textfile.Decode(text)) })
}

// newDecoder returns a decoder for the configuration at path, with all defaults filled in.
func newDecoder(path string) *decoder {
	c := &Config{
		Path: path, positions: make(map[string]Position), texts: make(map[string]string),
		globs: make(map[string]*sections), globbed: make(map[string]*globbed), plains: make(map[string]span), standing: make(map[string]standing), seen: make(Seen),
	}
	setDefaults(reflect.ValueOf(c).Elem())
	return &decoder{config: c, fields: make(fieldCache), inputs: make(map[string]bool)}
}

// load calls read, which reads the files, expands the short form and checks everything.
func (d *decoder) load(read func()) (*Config, error) {
	c := d.config
	read()
	bundleDecoder{d}.follow()
	if _, asked := c.positions["captive_portal"]; c.AlwaysOn.Lockdown && !asked {
		c.CaptivePortal.Detect = false // a look leaves in clear
	}
	if t := c.Listen.TUN; t != nil {
		_, t.AddressGiven = c.positions["listen.tun.address"]
	}
	c.Peers.trim()
	if len(d.faults) == 0 {
		d.faults = append(d.faults, c.expand()...)
	}
	placeState(c) // after expand, which may add the TUN
	if len(d.faults) == 0 {
		d.faults = append(d.faults, c.check()...)
	}
	if len(d.faults) > 0 {
		return nil, &Error{Faults: d.inOrder()}
	}
	return c, nil
}

// inOrder returns the faults in the order of the files and lines that they are in.
func (d *decoder) inOrder() []Fault {
	slices.SortStableFunc(d.faults, func(a, b Fault) int {
		return cmp.Or(
			cmp.Compare(slices.Index(d.config.Files, a.Pos.File), slices.Index(d.config.Files, b.Pos.File)),
			cmp.Compare(a.Pos.Line, b.Pos.Line),
			cmp.Compare(a.Pos.Column, b.Pos.Column),
			cmp.Compare(a.Message, b.Message),
		)
	})
	return d.faults
}

// Input returns where to read a file that another file, such as a profile, names with an absolute path: in the copy, if the
// configuration is one and the copy has the file.
func (c *Config) Input(path string) string {
	if copied := filepath.Join(c.root, path); c.root != "" && exists(copied) {
		return copied
	}
	return path
}

// Validate checks a configuration that was made or changed in Go, as Load does for files. The error is an *Error.
func (c *Config) Validate() error {
	if faults := c.check(); len(faults) > 0 {
		return &Error{Faults: faults}
	}
	return nil
}

// Position returns where the value at a path such as rules[2].match.domain[0] is written, or else the nearest value around
// it.
func (c *Config) Position(path string) Position {
	for path != "" {
		if pos, ok := c.positions[path]; ok {
			return pos
		}
		if pos, ok := plainPosition(c, path); ok {
			return pos
		}
		path = path[:max(strings.LastIndexAny(path, ".["), 0)]
	}
	return Position{File: c.Path}
}

// Fault makes a fault of the value at a path, for callers who find it later than Load: a port in use, a name taken.
func (c *Config) Fault(path, message, mend string) Fault {
	return c.FaultAt(c.Position(path), message, mend)
}

// FaultAt is Fault for a place in a file.
func (c *Config) FaultAt(pos Position, message, mend string) Fault {
	return Fault{Pos: pos, Message: message, Mend: mend, Excerpt: c.excerpt(pos)}
}

// excerpt returns the line at a position as it was read, with secrets hidden.
func (c *Config) excerpt(pos Position) string {
	return fault.Redact(lineOf(c.texts[pos.File], pos.Line))
}

// Err is Fault as an error.
func (c *Config) Err(path, message, mend string) error {
	return &Error{Faults: []Fault{c.Fault(path, message, mend)}}
}

// read reads one file with its includes. Faults of the file as a whole are noted at from.
func (d *decoder) read(path string, from Position) {
	text, err := d.text(path)
	if err != nil {
		if d.peers != nil && d.config.globbed[path] != nil {
			from = Position{File: path}
		}
		d.faultAt(from, "", "%s", err)
		return
	}
	d.decode(path, text)
}

// readFile reads a file of a configuration as text.
func readFile(path string) ([]byte, error) { return private.ReadText(path, MaxFile) }

// decode decodes the text of one file, after the files that it includes.
func (d *decoder) decode(path string, text []byte) {
	d.config.Files = append(d.config.Files, path)
	d.config.texts[path] = string(text)
	if !decodePlain(d, path) {
		decodeYAML(d, path, text)
	}
}

// decodeYAML decodes the text of a file that is not plain. Its lines are known.
func decodeYAML(d *decoder, path string, text []byte) {
	outer := d.file
	d.file = path
	defer func() { d.file = outer }()

	root, ok := d.parse(text)
	d.noteSections(text, root)
	if !ok {
		return
	}
	d.include(root)
	delete(d.config.positions, "version") // every file may have a version
	d.structure(root, reflect.ValueOf(d.config).Elem(), "")
}

// parse returns the top mapping of a file.
func (d *decoder) parse(data []byte) (*ast.MappingNode, bool) {
	if line := tooDeep(d.config.texts[d.file]); line > 0 {
		d.faultAt(Position{File: d.file, Line: line, Column: 1}, "", "values are nested more than %d deep", maxNesting)
		return nil, false
	}
	if kind := profile.KindOf(data); kind == profile.WireGuard || kind == profile.OpenVPN {
		d.faultAt(Position{File: d.file}, "make a configuration from it with: penstock import "+d.file, "the file is %s", kind)
		return nil, false
	}
	file, err := parser.ParseBytes(data, 0)
	if err != nil {
		d.syntax(err)
		return nil, false
	}
	bodies := slices.DeleteFunc(file.Docs, func(doc *ast.DocumentNode) bool { return doc.Body == nil })
	if len(bodies) == 0 {
		mend := "move it away and run penstock init, or start from the ten lines in the README"
		if d.file != d.config.Path {
			mend = "write something into it, or remove it"
		}
		d.faultAt(Position{File: d.file}, mend, "the file is empty")
		return nil, false
	}
	if len(bodies) > 1 {
		d.fault(bodies[1].Body, "write one file each and name it with include", "a second document begins here")
		return nil, false
	}
	root, ok := bodies[0].Body.(*ast.MappingNode)
	if !ok {
		d.fault(bodies[0].Body, "write keys, for example: profile: hq.conf", "the file is %s", describe(bodies[0].Body))
		return nil, false
	}
	return root, true
}

// syntax notes an error of the parser.
func (d *decoder) syntax(err error) {
	var placed interface {
		error
		GetMessage() string
		GetToken() *token.Token
	}
	if !errors.As(err, &placed) || placed.GetToken() == nil {
		d.faultAt(Position{File: d.file}, "", "not YAML: %v", err)
		return
	}
	p := placed.GetToken().Position
	pos, mend := Position{File: d.file, Line: p.Line, Column: p.Column}, ""
	if strings.HasPrefix(strings.TrimLeft(d.config.excerpt(pos), " "), "*.") || strings.HasPrefix(placed.GetToken().Origin, "*") {
		mend = "put quotes around a name that begins with *"
	}
	d.faultAt(pos, mend, "not YAML: %s", placed.GetMessage())
}

// include reads the files that a file names, before the file itself.
func (d *decoder) include(root *ast.MappingNode) {
	for _, node := range includesIn(root) {
		d.includeGlob(node)
	}
}

// includesIn returns the entries of include.
func includesIn(root *ast.MappingNode) (nodes []ast.Node) {
	for _, entry := range root.Values {
		if entry.Key.GetToken().Value != "include" {
			continue
		}
		if seq, ok := entry.Value.(*ast.SequenceNode); ok {
			nodes = append(nodes, seq.Values...)
		} else {
			nodes = append(nodes, entry.Value)
		}
	}
	return nodes
}

// Includes returns the entries of include in the file at path, and reads no other file. It returns nil if that cannot be told: loading
// the file says why.
func Includes(path string) (entries []string) {
	text, err := readFile(path)
	if err != nil {
		return nil
	}
	d := newDecoder(path)
	d.file, d.config.texts[path] = path, string(text)
	root, ok := d.parse(text)
	if !ok {
		return nil
	}
	for _, node := range includesIn(root) {
		if entry, ok := scalarText(node); ok {
			entries = append(entries, entry)
		}
	}
	return entries
}

func (d *decoder) includeGlob(node ast.Node) {
	pattern, ok := scalarText(node)
	if !ok {
		return // the rest of the decoder reports its type
	}
	if d.root != "" {
		pattern = filepath.Join(d.root, d.absolute(pattern))
	}
	pattern = filepath.Clean(d.absolute(pattern)) // a file has one path, so that it is not read twice
	paths, err := d.paths(pattern)
	switch {
	case err != nil:
		d.fault(node, "write a path, or a glob with * and ?", "include: %v", err)
	case len(paths) == 0 && !isPattern(pattern):
		d.fault(node, "make it or remove the entry", "include: there is no file %s", pattern)
	}
	for _, path := range paths {
		if _, read := d.config.texts[path]; read {
			d.fault(node, "remove one of the includes", "include: %s is included already", path)
			continue
		}
		d.read(path, d.position(node))
	}
}

// lineOf returns a line of a text, counted from 1; "" if there is none.
func lineOf(text string, number int) string {
	at := 1
	for line := range strings.SplitSeq(text, "\n") {
		if at == number {
			return line
		}
		at++
	}
	return ""
}

// tooDeep returns the number of the first line in which brackets, or the dashes of lists in lists, are nested too deep. It is
// 0 if there is none. It also counts brackets in strings, where nobody opens that many without closing them.
func tooDeep(text string) int {
	open, i := 0, -1
	for line := range strings.SplitSeq(text, "\n") {
		i++
		for _, r := range line {
			switch r {
			case '[', '{':
				open++
			case ']', '}':
				open = max(0, open-1)
			}
			if open > maxNesting {
				return i + 1
			}
		}
		dashes := 0
		for rest := strings.TrimLeft(line, " "); strings.HasPrefix(rest, "- "); rest = strings.TrimLeft(rest[2:], " ") {
			if dashes++; dashes > maxNesting {
				return i + 1
			}
		}
	}
	return 0
}
