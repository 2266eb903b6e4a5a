package repo

import (
	"fmt"
	"go/ast"
	"go/token"
	"slices"
	"strings"
	"testing"
)

func TestExportedNamesAreDocumented(t *testing.T) {
	checkSources(t, checkComments)
}

// checkComments wants one package comment, and a comment on each exported thing that begins with its name or an
// article. In a group of constants or variables one comment for the group, or one at the end of each line, will do.
// Methods that only keep a promise of the standard library are read there.
func checkComments(s source) []string {
	if len(s.files) == 0 {
		return nil // holds tests alone
	}
	var complaints []string
	complain := func(pos token.Pos, format string, args ...any) {
		complaints = append(complaints, s.at(pos)+": "+fmt.Sprintf(format, args...))
	}
	want := "Package " + s.name + " "
	if s.name == "main" {
		want = "Command "
	}
	commented := 0
	for _, f := range s.files {
		if f.Doc != nil {
			commented++
			if !strings.HasPrefix(f.Doc.Text(), want) {
				complain(f.Doc.Pos(), "the package comment begins with %q", want)
			}
		}
		for _, d := range f.Decls {
			switch d := d.(type) {
			case *ast.FuncDecl:
				if d.Name.IsExported() && !promised(d) && exportedReceiver(d) && !documents(d.Doc, d.Name.Name) {
					complain(d.Pos(), "exported %s wants a comment that begins with its name or an article", d.Name.Name)
				}
			case *ast.GenDecl:
				checkGroup(d, complain)
			}
		}
	}
	if commented != 1 {
		complaints = append(complaints, fmt.Sprintf("%s: %d of its files have a package comment, want 1", s.path, commented))
	}
	return complaints
}

// checkGroup wants comments in one declaration of types, constants or variables.
func checkGroup(d *ast.GenDecl, complain func(token.Pos, string, ...any)) {
	for _, spec := range d.Specs {
		switch spec := spec.(type) {
		case *ast.TypeSpec:
			doc := spec.Doc
			if doc == nil {
				doc = d.Doc
			}
			if spec.Name.IsExported() && !documents(doc, spec.Name.Name) {
				complain(spec.Pos(), "exported %s wants a comment that begins with its name or an article", spec.Name.Name)
			}
		case *ast.ValueSpec:
			for _, name := range spec.Names {
				if name.IsExported() && d.Doc == nil && spec.Doc == nil && spec.Comment == nil {
					complain(name.Pos(), "exported %s wants a comment, its own or its group's", name.Name)
				}
			}
		}
	}
}

// documents tells whether a comment is about name.
func documents(doc *ast.CommentGroup, name string) bool {
	first, _, _ := strings.Cut(strings.TrimSpace(doc.Text()), " ")
	first, _, _ = strings.Cut(first, "\n")
	switch first {
	case "A", "An", "The":
		return true
	}
	return strings.TrimRight(first, ",:;.'") == name || strings.TrimSuffix(first, "'s") == name
}

// promised tells whether d is a method whose name the standard library gives its meaning.
func promised(d *ast.FuncDecl) bool {
	return d.Recv != nil && slices.Contains([]string{"Error", "Unwrap", "String"}, d.Name.Name)
}

// exportedReceiver tells whether a function has no receiver, or one whose type is exported.
func exportedReceiver(d *ast.FuncDecl) bool {
	if d.Recv == nil {
		return true
	}
	switch t := ast.Unparen(dereferenced(d.Recv.List[0].Type)).(type) {
	case *ast.Ident:
		return t.IsExported()
	case *ast.IndexExpr:
		id, ok := t.X.(*ast.Ident)
		return ok && id.IsExported()
	}
	return false
}

func dereferenced(e ast.Expr) ast.Expr {
	if star, ok := e.(*ast.StarExpr); ok {
		return star.X
	}
	return e
}

func TestCommentRuleRefuses(t *testing.T) {
	const head = "// Package p is one.\npackage p\n"
	tests := []struct {
		name, text string
		want       int
	}{
		{"nothing where all is said", head + "// F does.\nfunc F() {}\n// An S is.\ntype S struct{}\n// M does.\nfunc (S) M() {}\n", 0},
		{"a package without a comment", "package p\n", 1},
		{"a package comment about another", "// Package q is one.\npackage p\n", 1},
		{"a bare function", head + "func F() {}\n", 1},
		{"a comment about something else", head + "// G does.\nfunc F() {}\n", 1},
		{"a bare method of an exported type", head + "// S is.\ntype S struct{}\nfunc (*S) M() {}\n", 1},
		{"nothing where a method is the standard library's", head + "// E is.\ntype E struct{}\nfunc (E) Error() string { return \"\" }\n", 0},
		{"nothing of an unexported type", head + "type s struct{}\nfunc (*s) M() {}\n", 0},
		{"a bare constant", head + "const C = 1\n", 1},
		{"nothing in a group with one comment", head + "// The colours.\nconst (\n\tRed = 1\n\tBlue = 2\n)\n", 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := checkComments(parseString(t, tt.text)); len(got) != tt.want {
				t.Errorf("got %d complaints %q, want %d", len(got), got, tt.want)
			}
		})
	}
}
