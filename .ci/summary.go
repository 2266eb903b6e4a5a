//go:build ignore

// Command summary reads the output of "go test -json" from standard input and prints what a person wants of it: the
// line of each package as it ends, the output of tests that failed, the tests that were skipped and why, the slowest tests, and a closing
// line with counts. It exits 1 if a test failed, if one was skipped for a reason that is not expected, or if none ran.
//
//	go test -json ./... | go run .ci/summary.go
package main

import (
	"bufio"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"
)

// expected are the reasons for which a test may be skipped where everything it needs can be installed.
var expected = []struct {
	reason *regexp.Regexp
	why    string
}{
	{regexp.MustCompile(`does not name a directory of lists$`), "published lists may not be distributed with this repository"},
	{regexp.MustCompile(`for others than root$`), "this run is root's"},
}

// event is one line of go test -json.
type event struct {
	Action, Package, ImportPath, Test, Output string
	Elapsed                                   float64 // seconds
}

// slowest is how many tests the closing lines name, those that took the longest.
const slowest = 12

// testID names a test, or with an empty name what a package printed outside its tests.
type testID struct{ pkg, name string }

// summary is what is known so far.
type summary struct {
	w                                   io.Writer
	output                              map[testID][]string // of what has not ended yet
	failedIn                            map[string]bool     // packages with a test that failed
	slow                                []event             // tests, the slowest first
	passed, failed, skipped, unexpected int
}

func main() {
	s := &summary{w: os.Stdout, output: map[testID][]string{}, failedIn: map[string]bool{}}
	if err := s.read(os.Stdin); err != nil {
		fmt.Fprintln(os.Stderr, "summary: read test events:", err)
		os.Exit(1)
	}
	if !s.close() {
		os.Exit(1)
	}
}

// read takes in events until the end of r. Lines that are no events are passed on.
func (s *summary) read(r io.Reader) error {
	lines := bufio.NewReader(r)
	for {
		line, err := lines.ReadString('\n')
		if line != "" {
			var e event
			if json.Unmarshal([]byte(line), &e) == nil && e.Action != "" {
				s.take(e)
			} else {
				fmt.Fprintln(s.w, strings.TrimRight(line, "\n"))
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// take counts one event and prints what it settles.
func (s *summary) take(e event) {
	id := testID{e.Package, e.Test}
	switch e.Action {
	case "output":
		s.output[id] = append(s.output[id], e.Output)
		return
	case "build-output":
		fmt.Fprint(s.w, e.Output)
		return
	case "pass", "fail", "skip":
	default:
		return
	}
	out := s.output[id]
	delete(s.output, id)
	if e.Test == "" {
		s.endPackage(e, out)
		return
	}
	s.time(e)
	switch e.Action {
	case "pass":
		s.passed++
	case "fail":
		s.failed++
		s.failedIn[e.Package] = true
		fmt.Fprintf(s.w, "%s %s\n%s", e.Package, e.Test, strings.Join(out, ""))
	case "skip":
		s.skipped++
		s.printSkip(e, out)
	}
}

// time remembers the slowest tests. A test that is part of another is timed with it.
func (s *summary) time(e event) {
	if strings.Contains(e.Test, "/") {
		return
	}
	s.slow = append(s.slow, e)
	slices.SortStableFunc(s.slow, func(a, b event) int { return cmp.Compare(b.Elapsed, a.Elapsed) })
	s.slow = s.slow[:min(len(s.slow), slowest)]
}

// endPackage prints go test's own line of a package, and all that it printed outside its tests if it failed.
func (s *summary) endPackage(e event, out []string) {
	for _, line := range out {
		if e.Action == "fail" || strings.HasPrefix(line, "ok ") || strings.HasPrefix(line, "?") {
			fmt.Fprint(s.w, line)
		}
	}
	if e.Action != "fail" || s.failedIn[e.Package] {
		return
	}
	s.failed++ // it did not build, it ran out of time, or its TestMain failed
	for id, lines := range s.output {
		if id.pkg == e.Package {
			fmt.Fprintf(s.w, "%s %s did not end\n%s", id.pkg, id.name, strings.Join(lines, ""))
		}
	}
}

// printSkip prints a skipped test with its reason, which is the last thing it said.
func (s *summary) printSkip(e event, out []string) {
	reason := "no reason given"
	for _, line := range out {
		if text := strings.TrimSpace(line); text != "" && !strings.HasPrefix(text, "=== ") && !strings.HasPrefix(text, "--- ") {
			reason = text
		}
	}
	for _, x := range expected {
		if x.reason.MatchString(reason) {
			fmt.Fprintf(s.w, "skipped %s %s: %s (expected: %s)\n", e.Package, e.Test, reason, x.why)
			return
		}
	}
	s.unexpected++
	fmt.Fprintf(s.w, "SKIPPED %s %s: %s\n", e.Package, e.Test, reason)
}

// close prints the closing line and tells whether all is well.
func (s *summary) close() bool {
	for _, e := range s.slow {
		fmt.Fprintf(s.w, "slow %6.1f s  %s %s\n", e.Elapsed, e.Package, e.Test)
	}
	if s.unexpected > 0 {
		fmt.Fprintf(s.w, "%d tests were skipped for a reason that is not expected here: install what they need, or add the reason to .ci/summary.go\n", s.unexpected)
	}
	fmt.Fprintf(s.w, "%d passed, %d failed, %d skipped\n", s.passed, s.failed, s.skipped)
	return s.failed == 0 && s.unexpected == 0 && s.passed > 0
}
