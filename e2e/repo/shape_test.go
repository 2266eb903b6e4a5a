package repo

import (
	"fmt"
	"go/ast"
	"go/token"
	"maps"
	"slices"
	"strings"
	"testing"
)

// What one reader can hold in mind. Whoever needs more has probably met two ideas in one place.
const (
	mostLines     = 2500 // of a package without packages below it, tests left out
	mostMethods   = 25   // of a type, those of net.Conn and the like left out; about twenty is better
	mostAsked     = 6    // methods of an interface
	mostFunctions = 4    // fields of a Config that are functions
	mostComposed  = 1000 // lines of cmd/internal/daemon, which only composes
)

// exempt are the packages that may be larger, each with the reason. Helpers of tests may be too.
func exempt() map[string]string {
	return map[string]string{
		"cmd/penstock": "one small file for each command; none knows another",
	}
}

func TestNothingIsTooLargeToRead(t *testing.T) {
	parents := make(map[string]bool)
	for _, p := range list(t, "linux") {
		for path := p.path(); strings.Contains(path, "/"); {
			path = path[:strings.LastIndex(path, "/")]
			parents[path] = true
		}
	}
	checkSources(t, func(s source) []string { return checkShape(s, parents[s.path]) })
}

// checkShape counts the lines of a package, the methods of its types and interfaces, and the functions in its Configs.
func checkShape(s source, isParent bool) []string {
	if exempt()[s.path] != "" || strings.HasPrefix(s.path, "e2e") || strings.HasSuffix(s.path, "test") {
		return nil
	}
	var complaints []string
	lines, methods := 0, make(map[string]int)
	for _, f := range s.files {
		lines += s.fset.Position(f.End()).Line
		for _, d := range f.Decls {
			switch d := d.(type) {
			case *ast.FuncDecl:
				if d.Recv != nil && !promised(d) && !ofAConn(d.Name.Name) {
					methods[receiver(d)]++
				}
			case *ast.GenDecl:
				complaints = append(complaints, checkFields(s, d)...)
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(methods)) {
		if n := methods[name]; n > mostMethods {
			complaints = append(complaints, fmt.Sprintf("%s.%s has %d methods, and a type has at most %d: find the types within it", s.path, name, n, mostMethods))
		}
	}
	most := mostLines
	if s.path == "cmd/internal/daemon" {
		most = mostComposed
	}
	if lines > most && !isParent {
		complaints = append(complaints, fmt.Sprintf("%s has %d lines, and a package has at most %d: find the packages within it", s.path, lines, most))
	}
	return complaints
}

// checkFields counts what interfaces ask for and what Configs want to call.
func checkFields(s source, d *ast.GenDecl) []string {
	var complaints []string
	for _, spec := range d.Specs {
		t, ok := spec.(*ast.TypeSpec)
		if !ok {
			continue
		}
		switch body := t.Type.(type) {
		case *ast.InterfaceType:
			if n := body.Methods.NumFields(); n > mostAsked {
				complaints = append(complaints, fmt.Sprintf("%s: interface %s asks for %d methods, at most %d: ask for less, or of several", s.at(t.Pos()), t.Name.Name, n, mostAsked))
			}
		case *ast.StructType:
			if !strings.HasSuffix(t.Name.Name, "Config") {
				continue
			}
			n := 0
			for _, f := range body.Fields.List {
				if _, is := f.Type.(*ast.FuncType); is {
					n += max(len(f.Names), 1)
				}
			}
			if n > mostFunctions {
				complaints = append(complaints, fmt.Sprintf("%s: %s has %d functions, at most %d: name the collaborator that they belong to", s.at(t.Pos()), t.Name.Name, n, mostFunctions))
			}
		}
	}
	return complaints
}

// ofAConn tells whether a method is one that every net.Conn or net.PacketConn has.
func ofAConn(name string) bool {
	return slices.Contains([]string{"Read", "Write", "Close", "LocalAddr", "RemoteAddr", "SetDeadline", "SetReadDeadline", "SetWriteDeadline", "ReadFrom", "WriteTo"}, name)
}

// receiver is the name of the type that a method is of.
func receiver(d *ast.FuncDecl) string {
	t := d.Recv.List[0].Type
	for {
		switch x := t.(type) {
		case *ast.StarExpr:
			t = x.X
		case *ast.IndexExpr:
			t = x.X
		case *ast.IndexListExpr:
			t = x.X
		case *ast.Ident:
			return x.Name
		default:
			return token.ILLEGAL.String()
		}
	}
}

func TestShapeRefuses(t *testing.T) {
	many := func(format string, n int) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, format, i)
		}
		return b.String()
	}
	tests := []struct {
		name, text string
		parent     bool
		want       int // complaints
	}{
		{"nothing in a small file", "package p\ntype T struct{}\nfunc (T) A() {}\n", false, 0},
		{"a type that does everything", "package p\ntype T struct{}\n" + many("func (*T) M%d() {}\n", 26), false, 1},
		{"a generic type that does everything", "package p\ntype T[K any] struct{}\n" + many("func (*T[K]) M%d() {}\n", 26), false, 1},
		{"an interface that asks for everything", "package p\ntype I interface{\n" + many("M%d()\n", 7) + "}\n", false, 1},
		{"a Config of functions", "package p\ntype Config struct{\nA, B func()\nC func(); D func() error; E func(int)\n}\n", false, 1},
		{"nothing in another struct of functions", "package p\ntype T struct{\nA, B func()\nC func(); D func() error; E func(int)\n}\n", false, 0},
		{"a package of 2,600 lines", "package p\n" + strings.Repeat("\n", 2600) + "var x int\n", false, 1},
		{"nothing where packages stand below it", "package p\n" + strings.Repeat("\n", 2600) + "var x int\n", true, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := checkShape(parseString(t, tt.text), tt.parent); len(got) != tt.want {
				t.Errorf("got %d complaints %q, want %d", len(got), got, tt.want)
			}
		})
	}
}
