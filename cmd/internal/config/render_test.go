package config

import (
	"embed"
	"encoding"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"reflect"
	"slices"
	"strings"
)

// source is the files with the structs, whose comments are the text of the reference.
//
//go:embed acme.go config.go fleet.go listen.go signin.go transport.go dns.go rule.go limits.go peerlimits.go values.go
var source embed.FS

// renderReference renders the reference of the configuration file as Markdown, from the structs, their tags and their
// comments. The error says which of them cannot be read.
func renderReference() (string, error) {
	r := &reference{comments: make(map[string]string)}
	if err := r.readComments(); err != nil {
		return "", fmt.Errorf("config reference: %w", err)
	}
	r.WriteString(referenceHead)
	r.section("", reflect.TypeFor[Config]())
	for len(r.queue) > 0 {
		next := r.queue[0]
		r.queue = r.queue[1:]
		r.section(next.path, next.t)
	}
	return r.String(), nil
}

const referenceHead = `# Configuration reference

Made from the source by ` + "`go test ./cmd/internal/config -run Reference -update`" + `: edit it there.

The file is YAML. An unknown key is an error. A list of one value may be written as the value alone. Durations are written
` + "`300ms`, `30s`, `5m`, `24h`" + `; sizes ` + "`16KiB`, `10MiB`" + `. A relative path starts at the file that it is written in.

` + "`penstock config show -c FILE`" + ` prints a configuration with its short form, includes and defaults written out. For editors there
is a JSON Schema, which ` + "`penstock config schema`" + ` prints: name it in the first line of a file, as ` + "`penstock init`" + ` does.

Secrets do not belong into the file. Say where they are: ` + "`{file: PATH}` or `{env: NAME}`" + `. The configuration, its
includes, profiles and keys must belong to root or to the user who runs penstock, and others must not be able to read them
(` + "`chmod 600`" + `).
`

// reference is the text so far and the structs that are still missing from it.
type reference struct {
	strings.Builder
	comments map[string]string // by Struct or Struct.Field
	queue    []described
	seen     []reflect.Type
}

type described struct {
	path string
	t    reflect.Type
}

// readComments finds the comments of all structs and fields.
func (r *reference) readComments() error {
	entries, err := source.ReadDir(".")
	if err != nil {
		return err
	}
	for _, entry := range entries {
		text, err := source.ReadFile(entry.Name())
		if err != nil {
			return err
		}
		file, err := parser.ParseFile(token.NewFileSet(), entry.Name(), text, parser.ParseComments)
		if err != nil {
			return err
		}
		ast.Inspect(file, func(n ast.Node) bool {
			decl, ok := n.(*ast.GenDecl)
			if !ok || decl.Tok != token.TYPE {
				return true
			}
			for _, spec := range decl.Specs {
				r.readStruct(decl.Doc.Text(), spec.(*ast.TypeSpec))
			}
			return false
		})
	}
	return nil
}

func (r *reference) readStruct(doc string, spec *ast.TypeSpec) {
	r.comments[spec.Name.Name] = doc
	fields, ok := spec.Type.(*ast.StructType)
	if !ok {
		return
	}
	for _, f := range fields.Fields.List {
		for _, name := range f.Names {
			r.comments[spec.Name.Name+"."+name.Name] = f.Doc.Text()
		}
	}
}

// section describes one struct.
func (r *reference) section(path string, t reflect.Type) {
	if slices.Contains(r.seen, t) {
		return
	}
	r.seen = append(r.seen, t)
	title := path
	if title == "" {
		title = "The file"
	} else {
		title = "`" + title + "`"
	}
	fmt.Fprintf(r, "\n## %s\n\n%s\n\n| key | value | default | meaning |\n|---|---|---|---|\n", title, sentence(r.comments[t.Name()], t.Name(), title, ""))
	for i := range t.NumField() {
		f := t.Field(i)
		key := f.Tag.Get("yaml")
		if key == "" || key == "-" {
			continue
		}
		standard := f.Tag.Get("default")
		switch {
		case f.Tag.Get("required") != "":
			standard = "required"
		case standard != "":
			standard = "`" + standard + "`"
		}
		meaning := sentence(r.comments[t.Name()+"."+f.Name], f.Name, "`"+key+"`", f.Tag.Get("oneof"))
		fmt.Fprintf(r, "| `%s` | %s | %s | %s |\n", key, r.kind(join(path, key), f), standard, meaning)
	}
}

// sentence turns a comment into the text of a section or of a table's cell. It removes the Go name at the beginning, or
// replaces it by the key, which is what the reader knows. A value at the beginning stays
// in lower case.
func sentence(comment, name, key, choices string) string {
	text := strings.ReplaceAll(strings.Join(strings.Fields(comment), " "), "|", "\\|")
	for _, verb := range []string{" is ", " are "} {
		rest, ok := strings.CutPrefix(text, name+verb)
		if !ok {
			continue
		}
		first, _, _ := strings.Cut(rest, " ")
		if slices.Contains(strings.Split(choices, ","), strings.TrimRight(first, ",")) {
			return rest
		}
		return strings.ToUpper(rest[:1]) + rest[1:]
	}
	if rest, ok := strings.CutPrefix(text, name+" "); ok {
		return key + " " + rest
	}
	return text
}

// kind names what is written for a field, and puts structs into the queue.
func (r *reference) kind(path string, f reflect.StructField) string {
	if choices := f.Tag.Get("oneof"); choices != "" {
		return "`" + strings.ReplaceAll(choices, ",", "`, `") + "`"
	}
	if f.Tag.Get("path") != "" {
		return "a path"
	}
	t, plural := f.Type, false
	if t == reflect.TypeFor[PeerList]() {
		t = reflect.TypeFor[[]Peer]()
	}
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice {
		plural = plural || t.Kind() == reflect.Slice
		t = t.Elem()
	}
	if t.Kind() == reflect.Map {
		r.queue = append(r.queue, described{path + ".NAME", t.Elem()})
		return "names, each with a mapping"
	}
	if t == reflect.TypeFor[Secret]() {
		return "a secret"
	}
	_, isText := reflect.New(t).Interface().(encoding.TextUnmarshaler)
	if t.Kind() == reflect.Struct && !isText {
		if plural {
			path += "[]"
		}
		r.queue = append(r.queue, described{path, t})
		if plural {
			return "a list of mappings"
		}
		return "a mapping"
	}
	words, _, _ := strings.Cut(wanted(t), ", for example")
	if plural {
		return "a list, each " + words
	}
	return words
}
