package config

import (
	"encoding"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/goccy/go-yaml/ast"

	"penstock/policy/spelling"
)

// Tags of the structs: yaml is the key; default is the value without the key; oneof lists the values allowed;
// required demands the key; path:"file" makes a relative path relative to the file that names it, path:"written" is the same for a file that penstock writes.

// decoder fills a Config from syntax trees. It notes every fault and goes on, so that all are reported at once.
type decoder struct {
	config *Config
	faults []Fault
	file   string      // path of the file being read
	root   string      // of a copy of files; "" for the files themselves
	peers  *peersFiles // nil: a fault in a file of peers is like any other
	fields fieldCache
	inputs map[string]bool // Config.Inputs

	candidate candidate       // the bundle to read
	inBundle  string          // the folder of the bundle that is being read; "" outside of it
	changed   map[string]bool // peers that were changed since the bundle was made
}

// scalarSetter is a struct that may be written as a single word instead of a mapping.
type scalarSetter interface {
	setScalar(text string) error
}

// shortened is a struct that may be written as one of its values, alone or in a list, instead of a mapping.
type shortened interface {
	short() (pointer any)
}

// fault notes what is wrong with a node.
func (d *decoder) fault(node ast.Node, mend, format string, args ...any) {
	d.faultAt(d.position(node), mend, format, args...)
}

func (d *decoder) faultAt(pos Position, mend, format string, args ...any) {
	d.faults = append(d.faults, Fault{Pos: pos, Message: fmt.Sprintf(format, args...), Mend: mend, Excerpt: d.config.excerpt(pos)})
}

// position returns where a node begins. The token of a block mapping is its first colon, so its first key is used instead.
func (d *decoder) position(node ast.Node) Position {
	if m, ok := node.(*ast.MappingNode); ok && !m.IsFlowStyle && len(m.Values) > 0 {
		node = m.Values[0].Key
	}
	token := node.GetToken()
	if token == nil || token.Position == nil {
		return Position{File: d.file}
	}
	return Position{File: d.file, Line: token.Position.Line, Column: token.Position.Column}
}

// value decodes a node into v, the value at path. The tag is that of the struct field that holds v.
func (d *decoder) value(node ast.Node, v reflect.Value, path string, tag reflect.StructTag) {
	d.config.positions[path] = d.position(node)
	switch node.(type) {
	case *ast.AnchorNode, *ast.AliasNode, *ast.TagNode, *ast.MergeKeyNode:
		d.fault(node, "write the value itself; to share parts between files use include", "anchors, aliases and tags are not supported")
		return
	case *ast.NullNode:
		if v.Kind() == reflect.Pointer {
			d.fault(node, "write {} for the defaults, or remove the key", "%s has no value", path)
		} else {
			d.fault(node, "write one, or remove the key", "%s has no value", path)
		}
		return
	}
	if v.Kind() == reflect.Pointer {
		if v.IsNil() {
			v.Set(reflect.New(v.Type().Elem()))
			setDefaults(v.Elem())
		}
		d.value(node, v.Elem(), path, tag)
		return
	}
	if _, ok := v.Addr().Interface().(encoding.TextUnmarshaler); ok {
		d.scalar(node, v, path, tag)
		return
	}
	if list, ok := v.Addr().Interface().(*PeerList); ok {
		decodePeers(d, node, list, path)
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		d.structure(node, v, path)
	case reflect.Map:
		d.mapping(node, v, path)
	case reflect.Slice:
		d.sequence(node, v, path, tag)
	default:
		d.scalar(node, v, path, tag)
	}
}

// sequence appends a list, or a single value in the place of one, to the values that included files gave.
func (d *decoder) sequence(node ast.Node, v reflect.Value, path string, tag reflect.StructTag) {
	nodes := []ast.Node{node}
	if seq, ok := node.(*ast.SequenceNode); ok {
		nodes = seq.Values
	}
	if _, given := d.config.positions[path+"[0]"]; !given {
		v.SetZero() // only the default was there
	}
	for _, n := range nodes {
		if (bundleDecoder{d}).isChanged(n, path) {
			continue
		}
		item := reflect.New(v.Type().Elem()).Elem()
		setDefaults(item)
		d.value(n, item, fmt.Sprintf("%s[%d]", path, v.Len()), tag)
		v.Set(reflect.Append(v, item))
	}
}

// decodePeers is sequence for a list of peers.
func decodePeers(d *decoder, node ast.Node, list *PeerList, path string) {
	nodes := []ast.Node{node}
	if seq, ok := node.(*ast.SequenceNode); ok {
		nodes = seq.Values
	}
	for _, n := range nodes {
		if (bundleDecoder{d}).isChanged(n, path) {
			continue
		}
		var p Peer
		d.value(n, reflect.ValueOf(&p).Elem(), fmt.Sprintf("%s[%d]", path, list.Len()), "")
		list.Append(p)
	}
}

// mapping decodes a map from names to structs.
func (d *decoder) mapping(node ast.Node, v reflect.Value, path string) {
	m, ok := node.(*ast.MappingNode)
	if !ok {
		d.wrongType(node, path, "names, each with a mapping below")
		return
	}
	if v.IsNil() {
		v.Set(reflect.MakeMap(v.Type()))
	}
	for _, entry := range m.Values {
		name := entry.Key.GetToken().Value
		at := path + "." + name
		if v.MapIndex(reflect.ValueOf(name)).IsValid() {
			d.fault(entry.Key, "rename one of them", "%s is defined already, at %s", at, d.config.positions[at])
			continue
		}
		item := reflect.New(v.Type().Elem()).Elem()
		setDefaults(item)
		d.named(entry.Value, item, at)
		if pos := nameOf(item); pos.IsValid() {
			pos.Set(reflect.ValueOf(d.position(entry.Key)))
		}
		v.SetMapIndex(reflect.ValueOf(name), item)
	}
}

// named decodes the value of a name. A name is given once, so nothing of its value is set yet. Yet its path may be in use:
// transports.a.probe is a transport named a.probe, or the probe of transport a.
func (d *decoder) named(node ast.Node, v reflect.Value, path string) {
	outer := d.config.positions
	d.config.positions = make(map[string]Position)
	d.value(node, v, path, "")
	maps.Copy(outer, d.config.positions)
	d.config.positions = outer
}

// nameOf returns the field of a struct that says where its name is written. It is invalid if there is none.
func nameOf(v reflect.Value) reflect.Value {
	if v.Kind() != reflect.Struct {
		return reflect.Value{}
	}
	return v.FieldByName("NamePos")
}

// structure decodes a mapping with known keys, or the single word that may replace it.
func (d *decoder) structure(node ast.Node, v reflect.Value, path string) {
	if pos := v.FieldByName("Pos"); pos.IsValid() {
		pos.Set(reflect.ValueOf(d.position(node)))
	}
	m, ok := node.(*ast.MappingNode)
	if ok {
		_, torn := tornApart(m)
		ok = !torn
	}
	if s, is := v.Addr().Interface().(shortened); is && !ok {
		d.value(node, reflect.ValueOf(s.short()).Elem(), path, "")
		return
	}
	if !ok {
		d.word(node, v, path)
		return
	}
	fields := d.fields.of(v.Type())
	for _, entry := range m.Values {
		key := entry.Key.GetToken().Value
		field, known := fields[key]
		if !known {
			d.unknownKey(entry.Key, key, fields)
			if v.Type() == reflect.TypeFor[Secret]() { // the value may be the secret itself
				d.faults[len(d.faults)-1].Excerpt = ""
			}
			continue
		}
		at := join(path, key)
		if (path == "" || path == "listen") && !(bundleDecoder{d}).belongs(entry.Key, at) {
			continue
		}
		first, given := d.config.positions[at]
		if given && !joinable(field.Type) {
			d.fault(entry.Key, "keep one of them", "%s is set already, at %s", at, first)
			continue
		}
		d.value(entry.Value, v.FieldByIndex(field.Index), at, field.Tag)
	}
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		if _, given := d.config.positions[join(path, name)]; !given && fields[name].Tag.Get("required") != "" {
			d.fault(node, "add it", "%s has no %s", path, name)
		}
	}
}

// fieldCache is the fields of structs by key. A gateway with 1,000 peers asks 1,000 times for those of a peer.
type fieldCache map[reflect.Type]map[string]reflect.StructField

func (c fieldCache) of(t reflect.Type) map[string]reflect.StructField {
	fields, ok := c[t]
	if !ok {
		fields = fieldsOf(t)
		c[t] = fields
	}
	return fields
}

// joinable reports whether several files may each give a part of a value of type t.
func joinable(t reflect.Type) bool {
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	_, text := reflect.New(t).Interface().(encoding.TextUnmarshaler)
	return !text && (t.Kind() == reflect.Struct || t.Kind() == reflect.Slice || t.Kind() == reflect.Map)
}

// word decodes a scalar in the place of a struct.
func (d *decoder) word(node ast.Node, v reflect.Value, path string) {
	setter, ok := v.Addr().Interface().(scalarSetter)
	text, isScalar := scalarText(node)
	if !ok || !isScalar {
		d.wrongType(node, path, "a mapping with "+anyOf(slices.Sorted(maps.Keys(fieldsOf(v.Type())))))
		return
	}
	if err := setter.setScalar(text); err != nil {
		d.fault(node, "", "%s: %v", path, err)
	}
}

func (d *decoder) unknownKey(node ast.Node, key string, fields map[string]reflect.StructField) {
	known := slices.Sorted(maps.Keys(fields))
	mend := "the keys here are " + strings.Join(known, ", ")
	if near := spelling.Nearest(key, known); near != "" {
		mend = fmt.Sprintf("did you mean %q?", near)
	}
	d.fault(node, mend, "unknown key %q", key)
}

func (d *decoder) wrongType(node ast.Node, path, want string) {
	d.fault(node, "write "+want, "%s is %s", path, describe(node))
}

// join appends a key to a path.
func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}
