package config

import (
	"net/netip"
	"reflect"
	"strings"
	"time"

	"github.com/goccy/go-yaml/ast"
)

// describe names the kind of a node.
func describe(node ast.Node) string {
	switch node.(type) {
	case *ast.MappingNode:
		return "a mapping"
	case *ast.SequenceNode:
		return "a list"
	case *ast.IntegerNode, *ast.FloatNode, *ast.InfinityNode, *ast.NanNode:
		return "a number"
	case *ast.BoolNode:
		return "a boolean"
	}
	return "a string"
}

// wanted names the kind of a value of type t, with an example.
func wanted(t reflect.Type) string {
	switch t {
	case reflect.TypeFor[time.Duration]():
		return "a duration, for example 30s or 5m"
	case reflect.TypeFor[time.Time]():
		return "a time, for example 2026-01-31T21:30:00+01:00"
	case reflect.TypeFor[Size]():
		return "a size, for example 10MiB"
	case reflect.TypeFor[Rate]():
		return "a rate in bits per second from 64kbit to 1000Gbit, for example 20Mbit"
	case reflect.TypeFor[Over]():
		return "block, or the rate that is left in bits per second, for example 1Mbit"
	case reflect.TypeFor[netip.Prefix]():
		return "an address with its prefix length, for example 10.77.0.2/32"
	case reflect.TypeFor[netip.Addr]():
		return "an IP address, for example 10.0.0.53"
	case reflect.TypeFor[netip.AddrPort]():
		return "an IP address with a port, for example 127.0.0.1:53"
	}
	switch t.Kind() {
	case reflect.Bool:
		return "true or false"
	case reflect.Int, reflect.Uint32:
		return "a whole number"
	}
	return "a string"
}

// anyOf lists choices as a sentence does: a, b or c.
func anyOf(choices []string) string {
	if len(choices) < 2 {
		return strings.Join(choices, "")
	}
	last := len(choices) - 1
	return strings.Join(choices[:last], ", ") + " or " + choices[last]
}
