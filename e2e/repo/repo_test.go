// Package repo holds the rules that the repository keeps about itself: who may import whom, what is documented, what
// lives at package level, and which words are used. Each rule is a test whose failure says where, what and why.
//
// It tests no behaviour and does not judge formatting: gofmt, vet and staticcheck do.
package repo

import (
	"bytes"
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// modulePath is the module whose packages are checked.
const modulePath = "penstock"

// systems are the values of GOOS that every package must build for.
func systems() []string { return []string{"linux", "darwin", "windows", "freebsd", "openbsd"} }

// releaseTag is the build tag of what is released.
const releaseTag = "release"

// goPackage is what go list tells of one package on one system.
type goPackage struct {
	Dir, ImportPath, Name string

	GoFiles, IgnoredGoFiles            []string
	Imports, TestImports, XTestImports []string

	Error *struct{ Err string }
}

// path is the import path below the module.
func (p goPackage) path() string { return strings.TrimPrefix(p.ImportPath, modulePath+"/") }

// root is the module's directory.
func root(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// list returns the module's packages as they are built for goos, with build tags.
func list(t *testing.T, goos string, tags ...string) []goPackage {
	t.Helper()
	const fields = "Dir,ImportPath,Name,GoFiles,IgnoredGoFiles,Imports,TestImports,XTestImports,Error"
	var stderr bytes.Buffer
	cmd := exec.CommandContext(t.Context(), "go", "list", "-e", "-tags="+strings.Join(tags, ","), "-json="+fields, "./...")
	cmd.Dir = root(t)
	cmd.Env = append(os.Environ(), "GOOS="+goos, "CGO_ENABLED=0")
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list for %s: %v\n%s", goos, err, stderr.Bytes())
	}
	var packages []goPackage
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p goPackage
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return packages
		} else if err != nil {
			t.Fatalf("go list for %s: %v", goos, err)
		}
		packages = append(packages, p)
	}
}

// source is the parsed Go code of one package on one system, tests left out.
type source struct {
	fset  *token.FileSet
	path  string // below the module
	name  string
	files []*ast.File
}

// at names a place as "dir/file.go:line".
func (s source) at(pos token.Pos) string {
	p := s.fset.Position(pos)
	return s.path + "/" + filepath.Base(p.Filename) + ":" + strconv.Itoa(p.Line)
}

// parse reads the files of p that are no tests.
func parse(t *testing.T, p goPackage) source {
	t.Helper()
	s := source{fset: token.NewFileSet(), path: p.path(), name: p.Name}
	for _, name := range p.GoFiles {
		f, err := parser.ParseFile(s.fset, filepath.Join(p.Dir, name), nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			t.Error(err)
			continue
		}
		s.files = append(s.files, f)
	}
	return s
}

// checkSources applies check to every package on every system and fails once for each distinct complaint.
func checkSources(t *testing.T, check func(source) []string) {
	t.Helper()
	var complaints []string
	for _, goos := range systems() {
		for _, p := range list(t, goos) {
			complaints = append(complaints, check(parse(t, p))...)
		}
	}
	report(t, complaints)
}

// report fails the test once for each distinct complaint.
func report(t *testing.T, complaints []string) {
	t.Helper()
	slices.Sort(complaints)
	for _, c := range slices.Compact(complaints) {
		t.Error(c)
	}
}

// parseString makes a source of one file, for the tests of the rules themselves.
func parseString(t *testing.T, text string) source {
	t.Helper()
	s := source{fset: token.NewFileSet(), path: "p", name: "p"}
	f, err := parser.ParseFile(s.fset, "p.go", text, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	s.files = []*ast.File{f}
	return s
}
