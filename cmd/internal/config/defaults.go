package config

import (
	"fmt"
	"reflect"
	"strings"
)

// fieldsOf returns the fields of a struct type by key.
func fieldsOf(t reflect.Type) map[string]reflect.StructField {
	fields := make(map[string]reflect.StructField)
	for i := range t.NumField() {
		f := t.Field(i)
		if key := f.Tag.Get("yaml"); key != "" && key != "-" {
			fields[key] = f
		}
	}
	return fields
}

// setDefaults fills in the defaults of a struct and of the structs inside it. It does not follow pointers.
func setDefaults(v reflect.Value) {
	if v.Kind() != reflect.Struct {
		return
	}
	for _, f := range fieldsOf(v.Type()) {
		field, text := v.FieldByIndex(f.Index), f.Tag.Get("default")
		switch {
		case text == "":
			setDefaults(field)
		case field.Kind() == reflect.Slice:
			for item := range strings.SplitSeq(text, ",") {
				e := reflect.New(field.Type().Elem()).Elem()
				mustSet(e, item)
				field.Set(reflect.Append(field, e))
			}
		default:
			mustSet(field, text)
		}
	}
}

// mustSet sets a default. It panics only if a tag in this package is wrong, which every test would show.
func mustSet(v reflect.Value, text string) {
	if err := setText(v, text); err != nil {
		panic(fmt.Sprintf("config: default %q: %v", text, err))
	}
}
