package config

import (
	"encoding"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml/ast"
)

// scalar decodes one value.
func (d *decoder) scalar(node ast.Node, v reflect.Value, path string, tag reflect.StructTag) {
	text, ok := scalarText(node)
	if !ok {
		d.wrongType(node, path, wanted(v.Type()))
		return
	}
	if _, isBool := node.(*ast.BoolNode); isBool != (v.Kind() == reflect.Bool) {
		mend := "write " + wanted(v.Type())
		if isBool {
			mend += "; put quotes around a string that looks like a boolean"
		}
		d.fault(node, mend, "%s is %s", path, describe(node))
		return
	}
	if text == Hidden {
		d.fault(node, "write the value itself: config show prints no secrets", "%s is hidden", path)
		return
	}
	if err := setText(v, text); err != nil {
		d.fault(node, "", "%s is %q: %v", path, text, err)
		return
	}
	if choices := tag.Get("oneof"); choices != "" && !slices.Contains(strings.Split(choices, ","), text) {
		mend := "write " + anyOf(strings.Split(choices, ","))
		d.fault(node, mend, "%s is %q", path, text)
	}
	switch tag.Get("path") {
	case "file":
		v.SetString(d.input(text))
		bundleDecoder{d}.within(node, v.String())
	case "written":
		v.SetString(d.absolute(text))
	}
}

// absolute makes a path relative to the file that names it, or to the original if that is a copy.
func (d *decoder) absolute(path string) string {
	if path == "" || filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(filepath.Dir(strings.TrimPrefix(d.file, d.root)), path)
}

// input is absolute for a file that is read: one of the copy if that has it.
func (d *decoder) input(path string) string {
	path = d.absolute(path)
	if path == "" {
		return ""
	}
	path = d.config.Input(path)
	if !d.inputs[path] {
		d.inputs[path] = true
		d.config.Inputs = append(d.config.Inputs, path)
	}
	return path
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// setText parses text into a scalar value. The error says what to write instead.
func setText(v reflect.Value, text string) error {
	switch p := v.Addr().Interface().(type) {
	case *time.Duration:
		duration, err := time.ParseDuration(text)
		if err != nil || duration < 0 {
			return fmt.Errorf("write %s", wanted(v.Type()))
		}
		*p = duration
		return nil
	case encoding.TextUnmarshaler:
		if err := p.UnmarshalText([]byte(text)); err != nil {
			return fmt.Errorf("write %s", wanted(v.Type()))
		}
		return nil
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString(text)
	case reflect.Bool:
		b, err := strconv.ParseBool(text)
		if err != nil {
			return fmt.Errorf("write %s", wanted(v.Type()))
		}
		v.SetBool(b)
	case reflect.Int:
		n, err := strconv.ParseInt(text, base(text), 64)
		if err != nil {
			return fmt.Errorf("write %s", wanted(v.Type()))
		}
		v.SetInt(n)
	case reflect.Uint32:
		n, err := strconv.ParseUint(text, base(text), 32)
		if err != nil {
			return fmt.Errorf("write %s", wanted(v.Type()))
		}
		v.SetUint(n)
	default:
		return fmt.Errorf("there is no way to write a value of type %s", v.Type())
	}
	return nil
}

// base returns the base for strconv. As in YAML 1.2, a leading zero alone does not make a number octal.
func base(number string) int {
	if strings.HasPrefix(number, "0x") {
		return 0
	}
	return 10
}

// scalarText returns the text of a node that is a single value.
func scalarText(node ast.Node) (string, bool) {
	switch n := node.(type) {
	case *ast.StringNode:
		return n.Value, true
	case *ast.LiteralNode:
		return strings.TrimSpace(n.Value.Value), true
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.InfinityNode, *ast.NanNode:
		return node.GetToken().Value, true
	case *ast.MappingNode:
		return tornApart(n)
	}
	return "", false
}

// tornApart puts a plain value with a colon back together, such as the fd77::1/64 of {address: [fd77::1/64]}. goccy-yaml
// v1.19.2 takes it for a mapping there, although only a colon with a space after it makes one (YAML 1.2, 7.3.3). Without
// the space, the value's token directly follows the colon's. Remove this when a version of goccy-yaml reads it right.
func tornApart(m *ast.MappingNode) (string, bool) {
	if m.IsFlowStyle || len(m.Values) != 1 {
		return "", false
	}
	entry := m.Values[0]
	key, isScalar := scalarText(entry.Key)
	value, isText := scalarText(entry.Value)
	colon, after := entry.GetToken(), entry.Value.GetToken()
	if !isScalar || !isText || after.Position.Offset != colon.Position.Offset+1 {
		return "", false
	}
	return key + ":" + value, true
}
