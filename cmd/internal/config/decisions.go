package config

import (
	"fmt"
	"reflect"
	"strings"
	"time"

	"github.com/goccy/go-yaml/ast"

	"penstock/policy/textfile"
)

// MaxDecisions is how many decisions there may be.
const MaxDecisions = 1000

// MaxDecidedBy bounds the text that says who has made a decision, bytes.
const MaxDecidedBy = 128

// Decided is one entry of the managed file: what somebody has decided.
type Decided struct {
	Allow string    `yaml:"allow"` // a host name or category:NAME; this or Block
	Block string    `yaml:"block"`
	Peer  string    `yaml:"peer"`
	Until time.Time `yaml:"until"` // zero: always
	Made  time.Time `yaml:"made"`
	By    string    `yaml:"by"`

	Pos  Position `yaml:"-"`
	Last int      `yaml:"-"` // line on which it ends
}

// Target returns what the entry is about.
func (d *Decided) Target() string { return d.Allow + d.Block }

// decidedFile is the managed file.
type decidedFile struct {
	Decisions []Decided `yaml:"decisions"`
}

// ParseDecisions reads the text of the managed file at path. canonical returns the canonical form of a host name. The error is an
// *Error with every fault.
func ParseDecisions(path string, text []byte, canonical func(string) (string, error)) ([]Decided, error) {
	d := newDecoder("")
	d.file = path
	d.config.texts[path] = string(textfile.Decode(text))
	var f decidedFile
	if root, ok := d.parse(textfile.Decode(text)); ok {
		d.structure(root, reflect.ValueOf(&f).Elem(), "")
		checkDecisions(d, root, f.Decisions, canonical)
	}
	if len(d.faults) > 0 {
		return nil, &Error{Faults: d.inOrder()}
	}
	return f.Decisions, nil
}

// checkDecisions checks the entries of the managed file, and makes their names canonical.
func checkDecisions(d *decoder, root *ast.MappingNode, list []Decided, canonical func(string) (string, error)) {
	var entries ast.Node
	for _, entry := range root.Values {
		if entry.Key.GetToken().Value == "decisions" {
			entries = entry.Value
		}
	}
	switch nodes, isList := entries.(*ast.SequenceNode); {
	case entries == nil:
		d.faultAt(Position{File: d.file}, "write decisions: [], or remove the file", "the file has no decisions")
		return
	case !isList:
		if len(d.faults) == 0 {
			d.wrongType(entries, "decisions", "a list, with each entry on a line of its own")
		}
		return
	case len(list) > MaxDecisions:
		d.fault(nodes.Values[MaxDecisions], "remove some", "there are %d decisions, and there may be %d", len(list), MaxDecisions)
		return
	default:
		if len(d.faults) > 0 {
			return // of the form, and positions may be missing
		}
		above := d.config.positions["decisions"].Line
		if len(list) > 0 && nodes.IsFlowStyle {
			d.fault(nodes, "write each entry on a line of its own, below decisions:", "the list is in brackets")
			return
		}
		for i := range list {
			list[i].Last = lastLine(nodes.Values[i], list[i].Pos.Line)
			if list[i].Pos.Line <= above && i > 0 {
				d.fault(nodes.Values[i], "write each entry on a line of its own", "two entries share a line")
			}
			above = list[i].Last
		}
	}
	type key struct {
		target, peer string
		always       bool
	}
	seen := make(map[key]*Decided)
	for i := range list {
		e := &list[i]
		given := func(key string) bool { // what is empty or zero, but written, must not count as for everyone, or as always
			_, ok := d.config.positions[fmt.Sprintf("decisions[%d].%s", i, key)]
			return ok
		}
		if given("peer") && e.Peer == "" {
			d.faultAt(e.Pos, "name one, or remove the key, for everyone", "the peer is empty")
		}
		if given("until") && e.Until.IsZero() {
			d.faultAt(e.Pos, "write when it ends, or remove the key, for always", "until is no time")
		}
		if !checkDecided(d, e, canonical) {
			continue
		}
		k := key{e.Target(), e.Peer, e.Until.IsZero()}
		if first := seen[k]; first != nil {
			d.faultAt(e.Pos, "keep one of them", "%s is decided already, at %s", e.Target(), first.Pos)
		}
		seen[k] = e
	}
}

// checkDecided checks one entry, and reports whether its target is good.
func checkDecided(d *decoder, e *Decided, canonical func(string) (string, error)) bool {
	target := &e.Allow
	switch {
	case e.Allow != "" && e.Block != "":
		d.faultAt(e.Pos, "keep one of them", "the entry has both allow and block")
		return false
	case e.Allow == "" && e.Block == "":
		d.faultAt(e.Pos, "write a host name or category:NAME", "the entry has neither allow nor block")
		return false
	case e.Block != "":
		target = &e.Block
	}
	if e.Peer != "" {
		if fault := faultOfName(e.Peer); fault != "" {
			d.faultAt(e.Pos, "", "the peer name %q %s", e.Peer, fault)
		}
	}
	if len(e.By) > MaxDecidedBy {
		d.faultAt(e.Pos, "", "by has more than %d bytes", MaxDecidedBy)
	}
	if category, ok := strings.CutPrefix(*target, "category:"); ok {
		if fault := faultOfName(category); fault != "" {
			d.faultAt(e.Pos, "", "the category name %q %s", category, fault)
		}
		return true
	}
	name, err := canonical(*target)
	if err == nil && name == "filter" {
		err = fmt.Errorf("a pause is not kept")
	}
	if err != nil {
		d.faultAt(e.Pos, "write a host name or category:NAME", "%v", err)
		return false
	}
	*target = name
	return true
}

// lastLine returns the last line that an entry is on.
func lastLine(node ast.Node, line int) int {
	m, ok := node.(*ast.MappingNode)
	if !ok {
		return line
	}
	for _, v := range m.Values {
		if t := v.Value.GetToken(); t != nil && t.Position != nil {
			line = max(line, t.Position.Line)
		}
	}
	if m.IsFlowStyle && m.End != nil {
		line = max(line, m.End.Position.Line)
	}
	return line
}
