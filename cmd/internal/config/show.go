package config

import (
	"bytes"
	"encoding"
	"encoding/json"
	"fmt"
	"net/url"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Hidden stands in a shown configuration for a value with a secret in it. Load refuses it.
const Hidden = "[hidden]"

// Show is a configuration as it is in force, in the order of the reference: the short form and the includes are written out, and
// defaults are filled in. Secrets are not in it.
type Show struct{ top shown }

// NewShow makes what is shown of a configuration.
func NewShow(c *Config) Show {
	s := shower{c}
	top, _ := s.value(reflect.ValueOf(*c), "", "")
	return Show{top}
}

// String returns the configuration as YAML, which Load reads as the same configuration.
func (s Show) String() string {
	var b strings.Builder
	for _, e := range s.top.entries {
		e.write(&b, "")
	}
	return b.String()
}

// MarshalJSON returns the configuration as one object.
func (s Show) MarshalJSON() ([]byte, error) { return s.top.MarshalJSON() }

// shown is one value as it is written: a scalar, or the entries of a list or a mapping.
type shown struct {
	scalar  any // string, bool, int64, or literal; nil for the others
	list    bool
	entries []entry
}

// literal is a string that needs no quotes, whatever is in it.
type literal string

// entry is an entry of a list or of a mapping, or a comment.
type entry struct {
	key     string
	value   shown
	comment string
}

// shower walks through a configuration.
type shower struct{ *Config }

// value shows a value. ok is false for one that is as good as absent.
func (s shower) value(v reflect.Value, path string, tag reflect.StructTag) (out shown, ok bool) {
	if v.Kind() == reflect.Pointer {
		if v.IsNil() {
			return shown{}, false
		}
		out, _ = s.value(v.Elem(), path, tag)
		return out, true
	}
	if list, ok := v.Interface().(PeerList); ok {
		v = reflect.ValueOf(list.Slice())
	}
	stays := !v.IsZero() || tag.Get("default") != "" || tag.Get("required") != ""
	if text, isText := textOf(v, tag); isText {
		return shown{scalar: text}, stays
	}
	switch v.Kind() {
	case reflect.Struct:
		if short, is := v.Interface().(Record); is && len(short.Short) > 0 {
			return s.value(reflect.ValueOf(short.Short), path, "")
		}
		out = s.structure(v, path)
		return out, len(out.entries) > 0 || tag.Get("required") != ""
	case reflect.Map:
		for _, key := range v.MapKeys() {
			item, _ := s.value(v.MapIndex(key), join(path, key.String()), "")
			out.entries = append(out.entries, entry{key: key.String(), value: item})
		}
		slices.SortFunc(out.entries, func(a, b entry) int { return strings.Compare(a.key, b.key) })
		return out, v.Len() > 0
	case reflect.Slice:
		out.list = true
		for i := range v.Len() {
			item, _ := s.value(v.Index(i), fmt.Sprintf("%s[%d]", path, i), "")
			out.entries = append(out.entries, entry{value: item})
		}
		return out, v.Len() > 0 || tag.Get("default") != ""
	case reflect.Bool:
		return shown{scalar: v.Bool()}, stays
	case reflect.Int:
		return shown{scalar: v.Int()}, stays
	}
	return shown{scalar: withoutSecret(v.String())}, stays
}

// structure shows a struct, with the entries that Load would need to make the same one.
func (s shower) structure(v reflect.Value, path string) shown {
	var out shown
	for i := range v.NumField() {
		f := v.Type().Field(i)
		key := f.Tag.Get("yaml")
		if key == "" || key == "-" {
			continue
		}
		at := join(path, key)
		if comment, is := s.instead(at); is {
			if comment != "" {
				out.entries = append(out.entries, entry{comment: comment})
			}
			continue
		}
		if value, ok := s.value(v.Field(i), at, f.Tag); ok {
			out.entries = append(out.entries, entry{key: key, value: value})
		}
	}
	if d, is := v.Interface().(Do); is && d == (Do{Action: d.Action, Pos: d.Pos}) && d.Action != "via" {
		return shown{scalar: literal(d.Action)}
	} else if is && d.Action == "via" {
		out.entries = out.entries[1:] // via says so
	}
	return out
}

// instead reports whether a value is not shown: because it is written out elsewhere, or because Load decides it anew, which
// the comment then says.
func (s shower) instead(path string) (comment string, is bool) {
	_, given := s.positions[path]
	switch path {
	case "include", "profile", "block", "intranet":
		return "", true
	case "listen.tun.address":
		if t := s.Listen.TUN; !t.AddressGiven {
			return fmt.Sprintf("address: %s, or other networks if the host uses those", commas(t.Address)), true
		}
	case "state_dir":
		if t := s.Listen.TUN; !given && (t == nil || t.StateFile == "") {
			return "state_dir: depends on who runs penstock", true
		}
	case "history.file":
		return "", !given && s.History.File == filepath.Join(s.StateDir, "history.db")
	}
	return "", false
}

func commas[T fmt.Stringer](list []T) string {
	var texts []string
	for _, v := range list {
		texts = append(texts, v.String())
	}
	return strings.Join(texts, ", ")
}

// textOf returns a value that is written as a text of its own.
func textOf(v reflect.Value, tag reflect.StructTag) (text any, ok bool) {
	switch value := v.Interface().(type) {
	case time.Duration:
		return literal(shortDuration(value)), true
	case time.Time:
		return literal(value.Format(time.RFC3339Nano)), true
	case Size, Rate, Over:
		return literal(fmt.Sprint(value)), true
	case uint32:
		if strings.HasPrefix(tag.Get("default"), "0x") {
			return literal(fmt.Sprintf("%#x", value)), true
		}
		return int64(value), true
	case encoding.TextMarshaler:
		b, err := value.MarshalText()
		return string(b), err == nil
	}
	return "", false
}

// shortDuration writes 24h for 24h0m0s.
func shortDuration(d time.Duration) string {
	text := d.String()
	for _, zero := range []string{"m0s", "h0m"} {
		if strings.HasSuffix(text, zero) {
			text = text[:len(text)-2]
		}
	}
	return text
}

// secretParameter finds the parameters of a URL that could be a secret.
var secretParameter = regexp.MustCompile(`(?i)key|pass|secret|token|auth|sig`)

// withoutSecret returns a value, or Hidden for a URL that has a password or a token in it. No other value can hold a secret:
// see Secret.
func withoutSecret(text string) string {
	u, err := url.Parse(text)
	if err != nil || u.Host == "" {
		return text
	}
	if _, has := u.User.Password(); has {
		return Hidden
	}
	for name := range u.Query() {
		if secretParameter.MatchString(name) {
			return Hidden
		}
	}
	return text
}

// maxFlow is how long a line of YAML may become before its value is written over several lines.
const maxFlow = 110

// write writes an entry as YAML, on one line if that is not too long.
func (e entry) write(b *strings.Builder, indent string) {
	if e.comment != "" {
		fmt.Fprintf(b, "%s# %s\n", indent, e.comment)
		return
	}
	head := "-"
	if e.key != "" {
		head = word(e.key) + ":"
	}
	flow, ok := e.value.flow()
	if ok && (len(indent)+len(head)+len(flow) < maxFlow || e.value.scalar != nil) {
		fmt.Fprintf(b, "%s%s %s\n", indent, head, flow)
		return
	}
	var block strings.Builder
	for _, below := range e.value.entries {
		below.write(&block, indent+"  ")
	}
	if head == "-" { // the first key stands behind the dash
		fmt.Fprintf(b, "%s- %s", indent, strings.TrimPrefix(block.String(), indent+"  "))
		return
	}
	fmt.Fprintf(b, "%s%s\n%s", indent, head, block.String())
}

// flow returns a value on one line. ok is false for one with a comment in it.
func (s shown) flow() (text string, ok bool) {
	if s.scalar != nil {
		return scalarYAML(s.scalar), true
	}
	var parts []string
	for _, e := range s.entries {
		part, ok := e.value.flow()
		if !ok || e.comment != "" {
			return "", false
		}
		if e.key != "" {
			part = word(e.key) + ": " + part
		}
		parts = append(parts, part)
	}
	if s.list {
		return "[" + strings.Join(parts, ", ") + "]", true
	}
	return "{" + strings.Join(parts, ", ") + "}", true
}

func scalarYAML(v any) string {
	switch v := v.(type) {
	case literal:
		if strings.Contains(string(v), ":") {
			return quoted(string(v))
		}
		return string(v)
	case string:
		return word(v)
	}
	return fmt.Sprint(v)
}

var (
	// plainWord is a text that YAML reads as the same text without quotes, unless it is a keyword.
	plainWord = regexp.MustCompile(`^[A-Za-z/][A-Za-z0-9_./@-]*$|^[0-9]+(\.[0-9]+){3}(/[0-9]+)?$`)
	keyword   = regexp.MustCompile(`(?i)^(true|false|yes|no|on|off|null|y|n)$`)
)

// word writes a text, with quotes if it needs them.
func word(text string) string {
	if plainWord.MatchString(text) && !keyword.MatchString(text) {
		return text
	}
	return quoted(text)
}

// quoted writes a text in double quotes, as YAML and JSON have them.
func quoted(text string) string {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	_ = e.Encode(text) // a string always has a form in JSON
	return strings.TrimSuffix(b.String(), "\n")
}

// MarshalJSON writes mappings in their order.
func (s shown) MarshalJSON() ([]byte, error) {
	if s.scalar != nil {
		return json.Marshal(s.scalar)
	}
	var parts []string
	for _, e := range s.entries {
		if e.comment != "" {
			continue
		}
		part, err := e.value.MarshalJSON()
		if err != nil {
			return nil, err
		}
		if e.key != "" {
			part = append([]byte(quoted(e.key)+":"), part...)
		}
		parts = append(parts, string(part))
	}
	if s.list {
		return []byte("[" + strings.Join(parts, ",") + "]"), nil
	}
	return []byte("{" + strings.Join(parts, ",") + "}"), nil
}
