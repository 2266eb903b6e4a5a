package repo

import (
	"bufio"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/fstest"
)

// maxStops is how many stops a newcomer keeps in mind.
const maxStops = 8

// trip is one list of the newcomer's walk in docs/architecture.md, such as "One packet".
type trip struct {
	name  string // the heading's last word
	stops []stop
}

// stop is one function that a trip comes to.
type stop struct {
	receiver string // of a method, without the star
	function string
	file     string // below the module
	says     string // what happens there

	// handler is the function in the same file that gives this one to somebody else's code, which calls it; empty if one of
	// ours does. No body of ours leads on from the packets that are handed to gVisor to the flows that it hands up.
	handler string
}

func (s stop) String() string {
	if s.receiver == "" {
		return s.function + " in " + s.file
	}
	return "(*" + s.receiver + ")." + s.function + " in " + s.file
}

// splitName takes "(*T).F", "T.F" or "F" apart.
func splitName(name string) (receiver, function string) {
	receiver, function, ok := strings.Cut(name, ").")
	if ok {
		return strings.TrimPrefix(receiver, "(*"), function
	}
	if receiver, function, ok = strings.Cut(name, "."); ok {
		return receiver, function
	}
	return "", name
}

// trips reads the walk out of a page: under its heading, a list for each heading of the next level.
func trips(page string) []trip {
	_, walk, _ := strings.Cut(page, "\n## A newcomer's walk\n")
	walk, _, _ = strings.Cut(walk, "\n## ")
	var found []trip
	for _, section := range strings.Split(walk, "\n### ")[1:] {
		heading, text, _ := strings.Cut(section, "\n")
		t := trip{name: heading[strings.LastIndex(heading, " ")+1:]}
		for _, item := range regexp.MustCompile(`(?m)^\d+\. .*(?:\n {3}.*)*`).FindAllString(text, -1) {
			t.stops = append(t.stops, readStop(strings.Join(strings.Fields(item)[1:], " ")))
		}
		found = append(found, t)
	}
	return found
}

// readStop reads "`F` in dir/file.go: what happens." and "`F` in dir/file.go, which `G` hands to somebody: what happens."
// Of what reads otherwise it keeps the text.
func readStop(text string) stop {
	m := regexp.MustCompile("^`([^`]+)` in ([\\w/]+\\.go)(?:, which `([^`]+)` hands to \\w+)?: (.+)$").FindStringSubmatch(text)
	if m == nil {
		return stop{says: text}
	}
	receiver, function := splitName(m[1])
	return stop{receiver: receiver, function: function, file: m[2], handler: m[3], says: m[4]}
}

// checkTrip returns what is untrue of a trip through the code in root: stops that do not exist, that nothing leads to, or
// that come in another order.
func checkTrip(root fs.FS, t trip) []string {
	var complaints []string
	complain := func(i int, format string, args ...any) {
		complaints = append(complaints, fmt.Sprintf("one %s, stop %d: %s", t.name, i+1, fmt.Sprintf(format, args...)))
	}
	if n := len(t.stops); n < 2 || n > maxStops {
		complain(n, "a walk has two stops at least and %d at most", maxStops)
	}
	bodies := make([]*ast.BlockStmt, len(t.stops))
	packages := make([]string, len(t.stops))
	for i, s := range t.stops {
		if s.function == "" || !strings.HasSuffix(s.says, ".") || strings.Count(s.says, ". ") > 0 {
			complain(i, "want \"`function` in file: one sentence.\", got %q", s.says)
			continue
		}
		f, err := parseIn(root, s.file)
		if err != nil {
			complain(i, "%v", err)
			continue
		}
		packages[i] = f.Name.Name
		if bodies[i] = bodyOf(f, s.receiver, s.function); bodies[i] == nil {
			complain(i, "there is no %s", s)
			continue
		}
		leads := bodies[:i]
		if s.handler != "" {
			receiver, function := splitName(s.handler)
			leads = []*ast.BlockStmt{bodyOf(f, receiver, function)}
		}
		led := i == 0 && s.handler == ""
		for j, body := range leads {
			from := path.Dir(s.file)
			if s.handler == "" {
				from = path.Dir(t.stops[j].file)
			}
			_, calls := reference(body, s, packages[i], from)
			led = led || calls
		}
		if !led {
			complain(i, "nothing before it leads to %s", s)
		}
	}
	for i, body := range bodies {
		last, before := token.NoPos, 0
		for j := i + 1; j < len(t.stops); j++ {
			at, ok := reference(body, t.stops[j], packages[j], path.Dir(t.stops[i].file))
			if !ok {
				continue
			}
			if at < last {
				complain(j, "%s calls it before stop %d", t.stops[i], before+1)
			}
			last, before = at, j
		}
	}
	return complaints
}

// parseIn parses one file of a tree.
func parseIn(root fs.FS, name string) (*ast.File, error) {
	text, err := fs.ReadFile(root, name)
	if err != nil {
		return nil, err
	}
	return parser.ParseFile(token.NewFileSet(), name, text, parser.SkipObjectResolution)
}

// bodyOf is the body of a function in a file, or nil.
func bodyOf(f *ast.File, receiver, function string) *ast.BlockStmt {
	for _, d := range f.Decls {
		if fn, ok := d.(*ast.FuncDecl); ok && fn.Name.Name == function && receiverOf(fn) == receiver {
			return fn.Body
		}
	}
	return nil
}

// receiverOf is the name of a method's type, empty for a function.
func receiverOf(fn *ast.FuncDecl) string {
	if fn.Recv == nil {
		return ""
	}
	expr := fn.Recv.List[0].Type
	if star, ok := expr.(*ast.StarExpr); ok {
		expr = star.X
	}
	if id, ok := expr.(*ast.Ident); ok {
		return id.Name
	}
	return ""
}

// reference finds where a body in the package at dir first calls a stop, or hands it on as a value: a callback is called
// by whoever it is given to. Methods are found by their names, because interfaces and callbacks stand between packages;
// functions by their names and, from other packages, that of their own.
//
// What is called in an argument is called before what takes it, and what is deferred at the end. A call on the way out, in
// an if that returns, counts only if there is no other.
func reference(body *ast.BlockStmt, s stop, pkg, dir string) (at token.Pos, ok bool) {
	if body == nil {
		return token.NoPos, false
	}
	type place struct {
		at    token.Pos
		leave bool
	}
	var found []place
	var parents []ast.Node
	ast.Inspect(body, func(n ast.Node) bool {
		if n == nil {
			parents = parents[:len(parents)-1]
			return true
		}
		parents = append(parents, n)
		if isNamed(n, s, pkg, dir, parents) {
			p := place{at: n.End()}
			if call, ok := parents[len(parents)-2].(*ast.CallExpr); ok && call.Fun == n {
				p.at = call.End()
				if _, ok := parents[len(parents)-3].(*ast.DeferStmt); ok {
					p.at = body.End()
				}
			}
			for i, parent := range parents[:len(parents)-1] {
				branch, ok := parent.(*ast.IfStmt)
				p.leave = p.leave || ok && parents[i+1] == branch.Body && returns(branch.Body)
			}
			found = append(found, p)
		}
		return true
	})
	if len(found) == 0 {
		return token.NoPos, false
	}
	return slices.MinFunc(found, func(a, b place) int {
		if a.leave != b.leave {
			if a.leave {
				return 1
			}
			return -1
		}
		return int(a.at - b.at)
	}).at, true
}

// isNamed tells whether a node, the last of parents, names a stop.
func isNamed(n ast.Node, s stop, pkg, dir string, parents []ast.Node) bool {
	switch n := n.(type) {
	case *ast.SelectorExpr:
		x, plain := n.X.(*ast.Ident)
		return n.Sel.Name == s.function && (s.receiver != "" || plain && x.Name == pkg && dir != path.Dir(s.file))
	case *ast.Ident:
		_, selects := parents[len(parents)-2].(*ast.SelectorExpr)
		return n.Name == s.function && s.receiver == "" && !selects && dir == path.Dir(s.file)
	}
	return false
}

// returns tells whether a block ends with a return.
func returns(b *ast.BlockStmt) bool {
	if len(b.List) == 0 {
		return false
	}
	_, ok := b.List[len(b.List)-1].(*ast.ReturnStmt)
	return ok
}

// profile is how often each piece of code ran, by "file:line.column,line.column" as go test -coverprofile writes it.
type profile map[string]int

// readProfile reads what go test -coverprofile wrote.
func readProfile(text string) (profile, error) {
	p := make(profile)
	lines := bufio.NewScanner(strings.NewReader(text))
	for lines.Scan() {
		if strings.HasPrefix(lines.Text(), "mode: ") {
			continue
		}
		fields := strings.Fields(lines.Text())
		if len(fields) != 3 {
			return nil, fmt.Errorf("a profile has no line %q", lines.Text())
		}
		n, err := strconv.Atoi(fields[2])
		if err != nil {
			return nil, err
		}
		p[fields[0]] += n
	}
	return p, lines.Err()
}

// checkRun returns the stops of a trip that a run did not come to: those of which no piece ran oftener than in a start.
func checkRun(root fs.FS, t trip, start, run profile) []string {
	var complaints []string
	for i, s := range t.stops {
		lines, err := linesOf(root, s)
		if err != nil {
			complaints = append(complaints, fmt.Sprintf("one %s, stop %d: %v", t.name, i+1, err))
			continue
		}
		ran := false
		for piece, n := range run {
			file, where, _ := strings.Cut(piece, ":")
			var line, column int
			if _, err := fmt.Sscanf(where, "%d.%d,", &line, &column); err != nil {
				complaints = append(complaints, fmt.Sprintf("a piece of a profile is %q: %v", piece, err))
			}
			ran = ran || file == modulePath+"/"+s.file && lines[0] <= line && line <= lines[1] && n > start[piece]
		}
		if !ran {
			complaints = append(complaints, fmt.Sprintf("one %s, stop %d: a %s that was really sent did not come to %s", t.name, i+1, t.name, s))
		}
	}
	return complaints
}

// linesOf are the first and the last line of a stop's body.
func linesOf(root fs.FS, s stop) (lines [2]int, err error) {
	text, err := fs.ReadFile(root, s.file)
	if err != nil {
		return lines, err
	}
	fset := token.NewFileSet()
	f, err := parser.ParseFile(fset, s.file, text, parser.SkipObjectResolution)
	if err != nil {
		return lines, err
	}
	body := bodyOf(f, s.receiver, s.function)
	if body == nil {
		return lines, fmt.Errorf("there is no %s", s)
	}
	return [2]int{fset.Position(body.Lbrace).Line, fset.Position(body.Rbrace).Line}, nil
}

// architecture reads the trips of docs/architecture.md, which are four.
func architecture(t *testing.T) []trip {
	t.Helper()
	page, err := os.ReadFile(filepath.Join(root(t), "docs", "architecture.md"))
	if err != nil {
		t.Fatal(err)
	}
	found := trips(string(page))
	var names []string
	for _, trip := range found {
		names = append(names, trip.name)
	}
	if want := []string{"packet", "question", "reload", "explain"}; !slices.Equal(names, want) {
		t.Fatalf("docs/architecture.md walks with %q, want %q", names, want)
	}
	return found
}

func TestTheWalkIsInTheCode(t *testing.T) {
	for _, trip := range architecture(t) {
		report(t, checkTrip(os.DirFS(root(t)), trip))
	}
}

// TestTheWalkIsWhatRuns builds the daemon's test with counters for all packages, and runs each of its trips alone.
func TestTheWalkIsWhatRuns(t *testing.T) {
	if testing.Short() {
		t.Skip("it builds all packages anew")
	}
	dir, program := filepath.Join(root(t), "cmd", "internal", "daemon"), filepath.Join(t.TempDir(), "walk.test")
	if runtime.GOOS == "windows" {
		program += ".exe"
	}
	command(t, dir, "go", "test", "-c", "-covermode=atomic", "-coverpkg="+modulePath+"/...", "-o", program, ".")
	ran := func(name string) profile {
		t.Helper()
		file := filepath.Join(t.TempDir(), "profile")
		out := command(t, dir, program, "-test.v", "-test.run=^TestTheWalk$/^"+name+"$", "-test.timeout=60s", "-test.coverprofile="+file)
		if !strings.Contains(out, "--- PASS: TestTheWalk/"+name) {
			t.Fatalf("TestTheWalk of cmd/internal/daemon has no part that is called %s:\n%s", name, out)
		}
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		p, err := readProfile(string(text))
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	start := ran("start")
	for _, trip := range architecture(t) {
		report(t, checkRun(os.DirFS(root(t)), trip, start, ran(trip.name)))
	}
}

// command runs a program and returns what it wrote.
func command(t *testing.T, dir, name string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(append([]string{filepath.Base(name)}, args...), " "), err, out)
	}
	return string(out)
}

// TestArchitectureNamesThePackages holds the table of packages to the packages that there are. What is internal to others
// or imitates them for tests is not in it.
func TestArchitectureNamesThePackages(t *testing.T) {
	page, err := os.ReadFile(filepath.Join(root(t), "docs", "architecture.md"))
	if err != nil {
		t.Fatal(err)
	}
	var paths []string
	for _, p := range list(t, "linux") {
		paths = append(paths, p.path())
	}
	report(t, checkTable(string(page), paths))
}

// checkTable returns the packages that the table of a page does not name, and those that it names and nobody has.
func checkTable(page string, paths []string) []string {
	_, table, _ := strings.Cut(page, "\n## Packages\n")
	var complaints []string
	named := make(map[string]bool)
	for _, m := range regexp.MustCompile("`((?:stack|router|dnsproxy|policy|cmd|e2e)(?:/[a-z0-9]+)*)`").FindAllStringSubmatch(table, -1) {
		named[m[1]] = true
		if !slices.Contains(paths, m[1]) {
			complaints = append(complaints, fmt.Sprintf("docs/architecture.md: the table of packages names %s, which does not exist", m[1]))
		}
	}
	for _, p := range paths {
		hidden := strings.HasSuffix(p, "test") || strings.Contains(strings.TrimPrefix(p, "cmd/internal/"), "/internal/")
		if !hidden && !named[p] {
			complaints = append(complaints, fmt.Sprintf("docs/architecture.md: the table of packages does not name %s", p))
		}
	}
	return complaints
}

func TestTableOfPackagesRefuses(t *testing.T) {
	const page = "# Page\n\n`policy/old`\n\n## Packages\n\n| `policy` | rules |\n| `cmd/internal/daemon` | all |\n"
	tests := []struct {
		name  string
		paths []string
		want  string
	}{
		{"nothing where all are named", []string{"policy", "cmd/internal/daemon", "dnsproxy/dnstest", "router/internal/rtnl"}, ""},
		{"a package that is gone", []string{"policy"}, "names cmd/internal/daemon"},
		{"a package that is new", []string{"policy", "cmd/internal/daemon", "router"}, "does not name router"},
		{"a new package of the command's own", []string{"policy", "cmd/internal/daemon", "cmd/internal/egress"}, "does not name cmd/internal/egress"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := checkTable(page, tt.paths)
			if tt.want == "" && len(got) != 0 || tt.want != "" && (len(got) != 1 || !strings.Contains(got[0], tt.want)) {
				t.Errorf("got complaints %q, want %q", got, tt.want)
			}
		})
	}
}

// smallCode is what the tests of the walk's rules walk through.
func smallCode() fs.FS {
	return fstest.MapFS{
		"road/road.go": {Data: []byte(`package road

type Car struct{ next func() }

func (c *Car) Start() {
	if c.next == nil {
		Honk()
		return
	}
	defer c.park()
	c.shift(gear())
	Honk()
	c.next = c.arrive
}

func (c *Car) shift(int) {
	_ = 1
}

func (c *Car) arrive() { _ = 2 }

func (c *Car) park() {}

func gear() int { return 1 }

func Honk() {}

func lend(c *Car) { foreign.Handle(c.park) }
`)},
		"town/town.go": {Data: []byte("package town\n\nfunc Honk() {}\n\nfunc Visit() { road.Honk() }\n")},
	}
}

// walkOf makes a page of the lines of one trip.
func walkOf(stops string) string {
	return "# Page\n\n1. `no` in part/of.go: the walk.\n\n## A newcomer's walk\n\n### One drive\n\nText.\n\n" + stops + "\n\n## Else\n\n### One more\n\n1. `no` in part/of.go: it.\n"
}

func TestWalkRulesRefuse(t *testing.T) {
	const start = "1. `(*Car).Start` in road/road.go: the car\n   starts.\n"
	tests := []struct {
		name, stops string
		want        string // in the only complaint; empty: there is none
	}{
		{"nothing in what the code does", start + "2. `(*Car).shift` in road/road.go: it shifts.\n3. `Honk` in road/road.go: it honks.", ""},
		{"nothing in a method that is handed on", start + "2. `(*Car).arrive` in road/road.go: it arrives.", ""},
		{"nothing in a call from another package", "1. `Visit` in town/town.go: it comes.\n2. `Honk` in road/road.go: it honks.", ""},
		{"nothing in what is called in an argument", start + "2. `gear` in road/road.go: it is chosen.\n3. `(*Car).shift` in road/road.go: it shifts.", ""},
		{"nothing in what is deferred", start + "2. `Honk` in road/road.go: it honks.\n3. `(*Car).park` in road/road.go: it parks.", ""},
		{"nothing in what others call for us", start + "2. `(*Car).park` in road/road.go, which `lend` hands to others: it parks.", ""},
		{"an argument after what takes it", start + "2. `(*Car).shift` in road/road.go: it shifts.\n3. `gear` in road/road.go: it is chosen.", "before stop 2"},
		{"what is deferred before the rest", start + "2. `(*Car).park` in road/road.go: it parks.\n3. `Honk` in road/road.go: it honks.", "before stop 2"},
		{"another order", start + "2. `Honk` in road/road.go: it honks.\n3. `(*Car).shift` in road/road.go: it shifts.", "before stop 2"},
		{"a file that does not exist", start + "2. `(*Car).shift` in road/lane.go: it shifts.", "lane.go"},
		{"the wrong file", start + "2. `(*Car).shift` in town/town.go: it shifts.", "there is no (*Car).shift"},
		{"a function that does not exist", start + "2. `(*Car).fly` in road/road.go: it flies.", "there is no (*Car).fly"},
		{"a method as a function", start + "2. `shift` in road/road.go: it shifts.", "there is no shift"},
		{"what nothing leads to", start + "2. `lend` in road/road.go: it is lent.", "nothing before it leads to lend"},
		{"a function of the same name elsewhere", start + "2. `Honk` in town/town.go: it honks.", "nothing before it leads to Honk"},
		{"what only a later stop leads to", "1. `gear` in road/road.go: it is chosen.\n2. `(*Car).Start` in road/road.go: it starts.\n3. `(*Car).shift` in road/road.go: it shifts.", "nothing before it leads to (*Car).Start"},
		{"what is not handed on where the page says", start + "2. `(*Car).arrive` in road/road.go, which `lend` hands to others: it arrives.", "nothing before it"},
		{"a hand-over that does not exist", start + "2. `(*Car).park` in road/road.go, which `give` hands to others: it parks.", "nothing before it"},
		{"two sentences", start + "2. `(*Car).shift` in road/road.go: it shifts. It does.", "one sentence"},
		{"no sentence", start + "2. `(*Car).shift` in road/road.go.", "one sentence"},
		{"a single stop", start, "two stops"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			found := trips(walkOf(tt.stops))
			if len(found) != 1 || found[0].name != "drive" {
				t.Fatalf("got trips %+v, want one drive", found)
			}
			got := checkTrip(smallCode(), found[0])
			if tt.want == "" && len(got) != 0 || tt.want != "" && (len(got) != 1 || !strings.Contains(got[0], tt.want)) {
				t.Errorf("got complaints %q, want %q", got, tt.want)
			}
		})
	}
	t.Run("nine stops", func(t *testing.T) {
		var long trip
		for range maxStops + 1 {
			long.stops = append(long.stops, stop{receiver: "Car", function: "Start", file: "road/road.go", says: "It starts."})
		}
		if got := checkTrip(smallCode(), long); !slices.ContainsFunc(got, func(c string) bool { return strings.Contains(c, "8 at most") }) {
			t.Errorf("got complaints %q, want one of the length", got)
		}
	})
}

func TestWalkRulesRefuseWhatDidNotRun(t *testing.T) {
	drive := trips(walkOf("1. `(*Car).Start` in road/road.go: it starts.\n2. `(*Car).shift` in road/road.go: it shifts."))[0]
	const started = "penstock/road/road.go:5.23,6.19 1 2\n"
	tests := []struct{ name, start, run, want string }{
		{"nothing where all ran", "", started + "penstock/road/road.go:16.28,18.2 1 1\n", ""},
		{"nothing in what ran oftener than in a start", started, "penstock/road/road.go:5.23,6.19 1 3\npenstock/road/road.go:16.28,18.2 1 1\n", ""},
		{"a stop that never ran", "", started + "penstock/road/road.go:16.28,18.2 1 0\n", "stop 2"},
		{"a stop that the profile does not know", "", started, "stop 2"},
		{"a stop that only the start ran", started, started + "penstock/road/road.go:16.28,18.2 1 1\n", "stop 1"},
		{"the same lines of another file", "", started + "penstock/town/road.go:16.28,18.2 1 1\n", "stop 2"},
		{"the function after it", "", started + "penstock/road/road.go:20.23,20.32 1 1\n", "stop 2"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			start, err := readProfile("mode: atomic\n" + tt.start)
			if err != nil {
				t.Fatal(err)
			}
			run, err := readProfile("mode: atomic\n" + tt.run)
			if err != nil {
				t.Fatal(err)
			}
			got := checkRun(smallCode(), drive, start, run)
			if tt.want == "" && len(got) != 0 || tt.want != "" && (len(got) != 1 || !strings.Contains(got[0], tt.want)) {
				t.Errorf("got complaints %q, want %q", got, tt.want)
			}
		})
	}
	if _, err := readProfile("mode: atomic\nnonsense\n"); err == nil {
		t.Error("nonsense was read as a profile")
	}
}
