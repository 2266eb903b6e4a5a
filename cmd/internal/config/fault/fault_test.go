package fault

import (
	"fmt"
	"strings"
	"testing"
)

const key = "2Bo5n4y4CRcCcX2HMRSL1fBDMhgT1Z4x0AMkYmZ9DGA="

func TestASecretIsNeverPrinted(t *testing.T) {
	for _, test := range []struct{ name, line, want string }{
		{"a key", "private_key: abc=", "private_key: [hidden]"},
		{"a key in a flow mapping", "{a: 1, preshared_key: 'abc', b: 2}", "{a: 1, preshared_key: [hidden], b: 2}"},
		{"a misspelt key", "privat_key: abc", "privat_key: [hidden]"},
		{"a password", "password: hunter2", "password: [hidden]"},
		{"a password with spaces", `password: "correct horse" # mine`, "password: [hidden]"},
		{"a public key stays", "public_key: " + key, "public_key: " + key},
		{"where a secret is stays", "private_key: {file: a}", "private_key: {file: a}"},
		{"the variable that has it stays", "private_key: { env: PENSTOCK_KEY }", "private_key: { env: PENSTOCK_KEY }"},
		{"a secret in braces", "password: {value: hunter2}, b: 2", "password: [hidden], b: 2"},
		{"a secret beside its place", "password: {file: a, value: hunter2}", "password: [hidden]"},
		{"a secret whose braces end on another line", "password: {value: hunter2", "password: [hidden]"},
		{"a key on a line of its own", "  value: " + key, "  value: [hidden]"},
		{"a preshared key beside a public one", "{public_key: " + key + ", preshared_key: " + key + "}", "{public_key: " + key + ", preshared_key: [hidden]}"},
		{"a key as a path beside a public one", "{public_key: " + key + ", preshared_key: {file: " + key + "}}", "{public_key: " + key + ", preshared_key: {file: [hidden]}}"},
		{"a place that is empty", "private_key: {}, b: 2", "private_key: {}, b: 2"},
		{"wg-quick's form", "PrivateKey = abc", "PrivateKey = [hidden]"},
		{"nothing else changes", "rules: [{name: rest, do: direct}]", "rules: [{name: rest, do: direct}]"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := Redact(test.line); got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

func TestAFaultIsPrintedAsEditorsReadIt(t *testing.T) {
	at := Position{"a.yaml", 3, 5}
	for _, test := range []struct {
		name  string
		fault Fault
		want  string
	}{
		{"a place, a message and a mend", Fault{Pos: at, Message: "unknown key", Mend: "remove it"}, "a.yaml:3:5: unknown key: remove it"},
		{"a file as a whole", Fault{Pos: Position{File: "a.yaml"}, Message: "the file is empty"}, "a.yaml: the file is empty"},
		{"no place", Fault{Message: "port 53 is in use"}, "port 53 is in use"},
		{"the line, with its caret", Fault{Pos: at, Message: "no", Excerpt: "a: {b: 1}"}, "a.yaml:3:5: no\n    3 | a: {b: 1}\n      |     ^"},
		{"tabs stay, so that the caret is under its column", Fault{Pos: Position{"a.yaml", 12, 3}, Message: "no", Excerpt: "\tb: 1"}, "a.yaml:12:3: no\n   12 | \tb: 1\n      | \t ^"},
		{"columns count characters, not bytes", Fault{Pos: Position{"a.yaml", 1, 3}, Message: "no", Excerpt: "ä: 1"}, "a.yaml:1:3: no\n    1 | ä: 1\n      |   ^"},
		{"a column behind the line", Fault{Pos: Position{"a.yaml", 1, 90}, Message: "no", Excerpt: "a"}, "a.yaml:1:90: no\n    1 | a\n      |  ^"},
		{"a line that is too long to help", Fault{Pos: at, Message: "no", Excerpt: strings.Repeat("x", 1<<20)}, "a.yaml:3:5: no"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := test.fault.String(); got != test.want {
				t.Errorf("got\n%s\nwant\n%s", got, test.want)
			}
		})
	}
	all := &Error{[]Fault{{Pos: at, Message: "one"}, {Pos: Position{File: "b.yaml"}, Message: "two"}}}
	if got, want := all.Error(), "a.yaml:3:5: one\nb.yaml: two"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestOfManyFaultsTheFirstArePrinted(t *testing.T) {
	e := &Error{Faults: make([]Fault, 1000)}
	for i := range e.Faults {
		e.Faults[i].Message = fmt.Sprintf("fault %d", i)
	}
	lines := strings.Split(e.Error(), "\n")
	if len(lines) != 51 || !strings.Contains(lines[49], "fault 49") || lines[50] != "and 950 more: mend these first" {
		t.Errorf("got %d lines, which end with %q", len(lines), lines[len(lines)-2:])
	}
}
