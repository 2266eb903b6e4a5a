package repo

import (
	"errors"
	"fmt"
	"go/ast"
	"go/token"
	"go/types"
	"strings"
	"testing"
)

// variables are the package-level variables that are neither errors nor plain tables, each with the reason why it does
// no harm when two penstocks run in one process.
func variables() map[string]string {
	const (
		pool     = "spare memory: nothing in it is ever read before it is written"
		compiled = "a table that is computed once and only read"
	)
	return map[string]string{
		"policy/blocklist.crcTable":         compiled,
		"policy/blocklist.nameBytes":        compiled,
		"policy/blocklist.toASCII":          "an IDNA profile, without state",
		"router.blockPage":                  compiled,
		"cmd/internal/signin.pageTemplate":  compiled,
		"cmd/internal/doctor.release":       "the time of the commit, which the linker writes and nobody else",
		"cmd/penstock.release":              "the version, which the linker writes and nobody else",
		"router.bufferPool":                 pool,
		"router/transport/wireguard.fields": compiled,
		"stack/datagram.datagramPool":       pool,
		"stack/datagram.packetPool":         pool,
		"stack/nic.rawPool":                 pool,
		"stack/stream.copyPool":             pool,
	}
}

// backgrounds are the functions below main that may begin a context, each with the reason.
func backgrounds() map[string]string {
	return map[string]string{
		"stack.open":                                 "the lifetime of what it returns: Close ends it",
		"cmd/internal/history.Open":                  "the lifetime of the writer: Close ends it, after what waits is written",
		"cmd/internal/gateway.Open":                  "the meter lets out what waits until Close has told the peers",
		"cmd/internal/daemon.network":                "the resolver file is read at once, and whoever changes a setting has no context",
		"router/transport/wireguard.newServer":       "the lifetime of the server: Close ends it, and waits",
		"router/transport/wireguard.newDeviceLogger": "wireguard-go's logger has no context to hand on",
	}
}

func TestPackagesHaveNoHiddenState(t *testing.T) {
	checkSources(t, checkState)
}

// checkState refuses what makes two penstocks in one process meet, or hides work from the caller: init functions,
// variables at package level that are written to or are no table, contexts from nowhere, and exits below main.
func checkState(s source) []string {
	var complaints []string
	complain := func(pos token.Pos, format string, args ...any) {
		complaints = append(complaints, s.at(pos)+": "+fmt.Sprintf(format, args...))
	}
	for _, f := range s.files {
		for _, d := range f.Decls {
			switch d := d.(type) {
			case *ast.FuncDecl:
				if d.Recv == nil && d.Name.Name == "init" {
					complain(d.Pos(), "func init works behind the caller's back: make it a constructor or a table")
				}
				if s.name != "main" && d.Body != nil {
					checkCalls(s.path+"."+d.Name.Name, d.Body, complain)
				}
			case *ast.GenDecl:
				if d.Tok == token.VAR {
					checkVariables(s.path, d, complain)
				}
			}
		}
	}
	checkWrites(s, complain)
	return complaints
}

// checkCalls refuses contexts from nowhere and exits in the function named owner.
func checkCalls(owner string, body *ast.BlockStmt, complain func(token.Pos, string, ...any)) {
	_, mayBegin := backgrounds()[owner]
	ast.Inspect(body, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok {
			return true
		}
		switch name := called(call); {
		case name == "context.TODO", name == "context.Background" && !mayBegin:
			complain(call.Pos(), "%s below main: take the caller's context, or add %s to the list in e2e/repo/state_test.go with its reason", name, owner)
		case name == "os.Exit", strings.HasPrefix(name, "log.Fatal"), strings.HasPrefix(name, "log.Panic"):
			complain(call.Pos(), "%s below main: return an error", name)
		}
		return true
	})
}

// checkVariables refuses variables that are no error, no table and not on the list.
func checkVariables(path string, d *ast.GenDecl, complain func(token.Pos, string, ...any)) {
	for _, spec := range d.Specs {
		spec := spec.(*ast.ValueSpec)
		for i, name := range spec.Names {
			var value ast.Expr
			if i < len(spec.Values) {
				value = spec.Values[i]
			}
			embedded := d.Doc != nil && value == nil && strings.Contains(lastLine(d.Doc), "//go:embed ")
			if _, listed := variables()[path+"."+name.Name]; listed || embedded || isError(name.Name) || isTable(value) {
				continue
			}
			complain(name.Pos(), "package-level variable %s: make it a constant, a function or a field, or add %s.%s to the list in "+
				"e2e/repo/state_test.go with its reason", name.Name, path, name.Name)
		}
	}
}

// lastLine returns the last line of a comment with its slashes, where directives stand.
func lastLine(g *ast.CommentGroup) string { return g.List[len(g.List)-1].Text }

// isError tells whether a variable is an error by its name, or is the blank one of an interface check.
func isError(name string) bool {
	return name == "_" || strings.HasPrefix(name, "Err") || strings.HasPrefix(name, "err")
}

// isTable tells whether an initial value is a literal, or compiled from one.
func isTable(value ast.Expr) bool {
	switch v := value.(type) {
	case *ast.CompositeLit, *ast.BasicLit:
		return true
	case *ast.CallExpr:
		switch called(v) {
		case "regexp.MustCompile", "netip.MustParseAddr", "netip.MustParsePrefix", "netip.AddrFrom4", "netip.AddrFrom16", "strings.NewReplacer":
			return true
		}
		_, conversion := v.Fun.(*ast.ArrayType) // []byte("...")
		return conversion
	}
	return false
}

// called returns "package.Function" of a call, or "" if it is of another kind.
func called(call *ast.CallExpr) string {
	sel, ok := call.Fun.(*ast.SelectorExpr)
	if !ok {
		return ""
	}
	x, ok := sel.X.(*ast.Ident)
	if !ok {
		return ""
	}
	return x.Name + "." + sel.Sel.Name
}

// noImporter lets one package be resolved alone: names from elsewhere stay unknown, which no rule here minds.
type noImporter struct{}

func (noImporter) Import(string) (*types.Package, error) { return nil, errors.New("not loaded") }

// checkWrites refuses writes to package-level variables, in whole or in part, and their addresses.
func checkWrites(s source, complain func(token.Pos, string, ...any)) {
	conf := types.Config{Importer: noImporter{}, Error: func(error) {}} // errors of imports are expected
	info := &types.Info{Uses: map[*ast.Ident]types.Object{}}
	pkg, _ := conf.Check(s.path, s.fset, s.files, info)
	refuse := func(target ast.Expr, what string) {
		id := rootIdent(target)
		if id == nil {
			return
		}
		if v, ok := info.Uses[id].(*types.Var); ok && v.Parent() == pkg.Scope() {
			complain(id.Pos(), "%s package-level variable %s: tables are only read", what, id.Name)
		}
	}
	for _, f := range s.files {
		ast.Inspect(f, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.AssignStmt:
				for _, target := range n.Lhs {
					refuse(target, "writes to")
				}
			case *ast.IncDecStmt:
				refuse(n.X, "writes to")
			case *ast.UnaryExpr:
				if n.Op == token.AND {
					refuse(n.X, "takes the address of")
				}
			case *ast.CallExpr:
				if id, ok := n.Fun.(*ast.Ident); ok && (id.Name == "delete" || id.Name == "clear") && len(n.Args) > 0 {
					refuse(n.Args[0], "deletes from")
				}
			}
			return true
		})
	}
}

// rootIdent returns x of x, x.f, x[i] and *x.
func rootIdent(e ast.Expr) *ast.Ident {
	for {
		switch v := e.(type) {
		case *ast.Ident:
			return v
		case *ast.SelectorExpr:
			e = v.X
		case *ast.IndexExpr:
			e = v.X
		case *ast.StarExpr:
			e = v.X
		case *ast.ParenExpr:
			e = v.X
		default:
			return nil
		}
	}
}

func TestStateRuleRefuses(t *testing.T) {
	tests := []struct {
		name, text string
		want       int
	}{
		{"nothing in a table that is read", `var t = map[string]int{"a": 1}; func f() int { return t["a"] }`, 0},
		{"nothing in an interface check or an error", `var _ = f; var errX error; func f() {}`, 0},
		{"nothing when a local has a table's name", `var t = []int{1}; func f() { t := []int{2}; t[0] = 3 }`, 0},
		{"init", `func init() {}`, 1},
		{"a counter", `var n int`, 1},
		{"a variable that a call makes", `var n = g(); func g() int { return 1 }`, 1},
		{"a write to a table", `var t = []int{1}; func f() { t[0] = 2 }`, 1},
		{"a table that is emptied", `var t = map[int]int{}; func f() { clear(t) }`, 1},
		{"a pointer into a table", `var t = []int{1}; func f() *int { return &t[0] }`, 1},
		{"a context from nowhere", `func f() { _ = context.Background() }`, 1},
		{"a context that waits for a decision", `func f() { _ = context.TODO() }`, 1},
		{"an exit", `func f() { os.Exit(1) }`, 1},
		{"a fatal log line", `func f() { log.Fatalf("x") }`, 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := checkState(parseString(t, "package p; "+tt.text)); len(got) != tt.want {
				t.Errorf("got %d complaints %q, want %d", len(got), got, tt.want)
			}
		})
	}
}
