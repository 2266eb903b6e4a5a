package config

import (
	"encoding"
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/rogpeppe/go-internal/txtar"
	"github.com/santhosh-tekuri/jsonschema/v6"
)

// schemaMaker makes the JSON Schema of the configuration file from the same structs, tags and comments as the reference.
// Libraries that do so know none of our scalars, nor that a list may be a single value, and would have to be told all of it.
type schemaMaker struct {
	reference
	defs map[string]any
}

type object = map[string]any

// renderSchema renders the schema of one file of a configuration. An included file has only a part of it, so no key at the top
// is required.
func renderSchema() (string, error) {
	m := &schemaMaker{reference{comments: make(map[string]string)}, make(object)}
	if err := m.readComments(); err != nil {
		return "", fmt.Errorf("config schema: %w", err)
	}
	top := m.structure(reflect.TypeFor[Config]())
	top["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	top["title"] = "A configuration file of penstock"
	top["$defs"] = m.defs
	text, err := json.MarshalIndent(top, "", " ")
	return string(text) + "\n", err
}

// structure returns the schema of a mapping with known keys.
func (m *schemaMaker) structure(t reflect.Type) object {
	properties, required := make(object), []string{}
	for key, f := range fieldsOf(t) {
		property := m.value(f.Type, f.Tag)
		if text := sentence(m.comments[t.Name()+"."+f.Name], f.Name, key, f.Tag.Get("oneof")); text != "" {
			property["description"] = strings.ReplaceAll(text, "\\|", "|")
		}
		if text := f.Tag.Get("default"); text != "" {
			property["default"] = defaultOf(f.Type, text)
		}
		if f.Tag.Get("required") != "" {
			required = append(required, key)
		}
		properties[key] = property
	}
	s := object{"type": "object", "additionalProperties": false, "properties": properties}
	if len(required) > 0 {
		slices.Sort(required)
		s["required"] = required
	}
	return s
}

// defaultOf returns a default as a value of JSON.
func defaultOf(t reflect.Type, text string) any {
	switch {
	case t.Kind() == reflect.Slice:
		return strings.Split(text, ",")
	case t.Kind() == reflect.Bool:
		return text == "true"
	case t.Kind() == reflect.Int && regexp.MustCompile(`^[0-9]+$`).MatchString(text):
		return json.Number(text)
	}
	return text
}

// value returns the schema of a value. The tag is that of the struct field that holds it.
func (m *schemaMaker) value(t reflect.Type, tag reflect.StructTag) object {
	if t.Kind() == reflect.Pointer {
		return m.value(t.Elem(), tag)
	}
	if t == reflect.TypeFor[PeerList]() {
		t = reflect.TypeFor[[]Peer]()
	}
	if s := scalarSchema(t, tag); s != nil {
		return s
	}
	switch t.Kind() {
	case reflect.Slice:
		item := m.value(t.Elem(), tag)
		return object{"anyOf": []any{object{"type": "array", "items": item}, item}}
	case reflect.Map:
		return object{"type": "object", "additionalProperties": m.value(t.Elem(), "")}
	}
	if _, made := m.defs[t.Name()]; !made {
		m.defs[t.Name()] = object{} // a match may hold another
		m.defs[t.Name()] = m.structure(t)
	}
	mapping := object{"$ref": "#/$defs/" + t.Name()}
	switch t {
	case reflect.TypeFor[Do]():
		return object{"anyOf": []any{object{"enum": []string{"block", "drop", "direct", "dns"}}, mapping}}
	case reflect.TypeFor[Rates]():
		return object{"anyOf": []any{m.value(reflect.TypeFor[Rate](), ""), mapping}}
	case reflect.TypeFor[Quota]():
		return object{"anyOf": []any{m.value(reflect.TypeFor[Size](), ""), mapping}}
	case reflect.TypeFor[Record]():
		return object{"anyOf": []any{m.value(reflect.TypeFor[[]netip.Addr](), ""), mapping}}
	}
	if _, word := reflect.New(t).Interface().(scalarSetter); word && t != reflect.TypeFor[Secret]() {
		panic(t.Name() + " may be written as a word, and the schema does not know which")
	}
	return mapping
}

// scalarSchema returns the schema of a single value; nil if t is none.
func scalarSchema(t reflect.Type, tag reflect.StructTag) object {
	text := func(pattern string) object { return object{"type": "string", "pattern": pattern} }
	const address, rate = `[0-9A-Fa-f:.]+(%[^/ ]+)?`, `[0-9]+ *(kbit|Mbit|Gbit)`
	switch t {
	case reflect.TypeFor[time.Duration]():
		const pattern = `^(([0-9]+(\.[0-9]*)?|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h))+$|^0$`
		return object{"type": []string{"string", "integer"}, "pattern": pattern, "minimum": 0, "maximum": 0}
	case reflect.TypeFor[time.Time]():
		return text(`^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}([.,][0-9]+)?(Z|[+-][0-9]{2}:[0-9]{2})$`)
	case reflect.TypeFor[Size]():
		return object{"type": []string{"string", "integer"}, "pattern": `^[0-9]+ *(KiB|MiB|GiB)?$`, "minimum": 0}
	case reflect.TypeFor[Rate]():
		return text("^" + rate + "$")
	case reflect.TypeFor[Over]():
		return text("^(block|" + rate + ")$")
	case reflect.TypeFor[netip.Addr]():
		return text("^" + address + "$")
	case reflect.TypeFor[netip.Prefix]():
		return text("^" + address + "/[0-9]+$")
	case reflect.TypeFor[netip.AddrPort]():
		return text(`^([0-9.]+|\[` + address + `\]):[0-9]+$`)
	}
	if _, own := reflect.New(t).Interface().(encoding.TextUnmarshaler); own {
		panic(t.Name() + " has a text of its own, and the schema does not know which")
	}
	switch t.Kind() {
	case reflect.Bool:
		return object{"type": "boolean"}
	case reflect.Int, reflect.Uint32: // a number may be in quotes
		s := object{"type": []string{"integer", "string"}, "pattern": "^(-?[0-9]+|0x[0-9A-Fa-f]+)$"}
		if t.Kind() == reflect.Uint32 {
			s["minimum"] = 0
		}
		return s
	case reflect.String:
		if choices := tag.Get("oneof"); choices != "" {
			return object{"enum": strings.Split(choices, ",")}
		}
		return object{"type": []string{"string", "number"}} // a number needs no quotes
	}
	return nil
}

func TestSchemaIsCurrent(t *testing.T) {
	want, err := renderSchema()
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"schema.json", filepath.Join("..", "..", "..", "deploy", "penstock.schema.json")} {
		if *update {
			if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if got, err := os.ReadFile(path); err != nil || string(got) != want {
			t.Errorf("%s is not what the structs say (%v): run go test ./cmd/internal/config -run Schema -update", path, err)
		}
	}
	if !*update && Schema() != want { // otherwise it is that of before
		t.Error("Schema returns another schema than schema.json")
	}
}

// valid compiles the schema, and returns a function that says what it finds wrong with a text.
func valid(t *testing.T) func(text string) error {
	t.Helper()
	doc, err := jsonschema.UnmarshalJSON(strings.NewReader(Schema()))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource("penstock.schema.json", doc); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile("penstock.schema.json") // which first validates it against draft 2020-12
	if err != nil {
		t.Fatal(err)
	}
	return func(text string) error {
		file, err := parser.ParseBytes([]byte(text), 0)
		if err != nil {
			t.Fatalf("%v:\n%s", err, text)
		}
		return s.Validate(asJSON(file.Docs[0].Body))
	}
}

// asJSON returns a value of YAML as one of JSON. The library's own conversion tears values apart: see tornApart.
func asJSON(node ast.Node) any {
	text, isScalar := scalarText(node)
	switch n := node.(type) {
	case *ast.BoolNode:
		return n.Value
	case *ast.IntegerNode:
		return json.Number(fmt.Sprint(n.Value))
	case *ast.FloatNode:
		return n.Value
	case *ast.SequenceNode:
		list := []any{}
		for _, item := range n.Values {
			list = append(list, asJSON(item))
		}
		return list
	case *ast.MappingNode:
		if isScalar {
			return text
		}
		mapping := make(object)
		for _, entry := range n.Values {
			mapping[entry.Key.GetToken().Value] = asJSON(entry.Value)
		}
		return mapping
	}
	if isScalar {
		return text
	}
	return nil
}

func TestTheSchemaTakesWhatLoadTakes(t *testing.T) {
	valid := valid(t)
	t.Setenv("PENSTOCK_SHOWN_KEY", "2Bo5n4y4CRcCcX2HMRSL1fBDMhgT1Z4x0AMkYmZ9DGA=")
	t.Setenv("GATEWAY_KEY", "2Bo5n4y4CRcCcX2HMRSL1fBDMhgT1Z4x0AMkYmZ9DGA=")
	texts := goodConfigurations(t)
	for _, name := range slices.Sorted(maps.Keys(texts)) {
		if name != "page-phones" {
			texts[name+", shown"] = NewShow(load1(t, inFolder(t, texts[name]))).String()
		}
	}
	for name, text := range texts {
		if err := valid(text); err != nil {
			t.Errorf("%s: %v\n%s", name, err, text)
		}
	}
}

// TestTheSchemaRefusesWhatLoadRefuses has faults that are in a single value or key. The others need more than a schema.
func TestTheSchemaRefusesWhatLoadRefuses(t *testing.T) {
	valid := valid(t)
	for _, text := range []string{
		"profil: hq.conf", "listen: {tun: {nam: pen0}}", "rules: [{name: rest, do: {va: hq}}]", "version: [1]", "profile: {file: hq.conf}",
		"profile:", "rules: [{do: direct}]", "rules: [{name: rest}]", "rules: [{name: rest, do: forward}]", "rules: [{name: rest, do: via}]",
		"rules: [{name: a, match: {protocol: sctp}, do: block}]", "rules: [{name: a, match: {not: {portt: 1}}, do: block}]", "rules: rest",
		"limits: {udp_idle: 30}", "limits: {udp_idle: 30 seconds}", "limits: {udp_idle: -1s}",
		"limits: {dns_cache_size: 1KB}", "limits: {dials: many}",
		"limits: {dials: 1.5}", "datapath: fast", "always_on: {lockdown: yes please}", "always_on: {lockdown: 1}", "always_on: {lan: allowed}",
		"peers: [{public_key: a}]", "peers: [{name: ana, allowed_ips: 10.0.0.1}]", "peers: [{name: ana, rate: 20}]",
		"peers: [{name: ana, rate: 20Mbps}]",
		"peers: [{name: ana, quota: {over: block}}]", "peers: [{name: ana, quota: {monthly: 1GiB, over: slow}}]",
		"peers: [{name: ana, expires: tomorrow}]",
		"peers: [{name: ana, preshared_key: abc}]", "peers: [{name: ana, preshared_key: {value: abc}}]",
		"listen: {wireguard: {private_key: {file: a}}}",
		"dns: {listen: localhost}", "dns: {clients: 10.0.0.0}", "dns: {records: {a.example: wiki}}",
		"dns: {records: {a.example: {ip: 10.0.0.1}}}",
		"categories: [ads]", "categories: {ads: {lists: [{url: a, format: csv}]}}", "block: {a: b}", "console: {listen: [1, [2]]}",
	} {
		if _, err := Parse(filepath.Join(t.TempDir(), "config.yaml"), []byte(text)); err == nil {
			t.Errorf("Load takes %s", text)
		}
		if err := valid(text); err == nil {
			t.Errorf("the schema takes %s", text)
		}
	}
	for _, name := range []string{"unknown-key", "wrong-type", "secret-in-clear"} {
		archive, err := txtar.ParseFile(filepath.Join("testdata", "bad", name+".txtar"))
		if err != nil {
			t.Fatal(err)
		}
		if valid(string(archive.Files[0].Data)) == nil {
			t.Errorf("the schema takes the archive %s", name)
		}
	}
}
