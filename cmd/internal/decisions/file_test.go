package decisions

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestFaultsHavePlacesAndMends(t *testing.T) {
	for _, row := range []struct{ name, text, want string }{
		{"nothing", "", "d.yaml: the file is empty: write something into it, or remove it"},
		{"comments alone", "# x\n", "d.yaml: the file is empty"},
		{"no list", "{}\n", "d.yaml: the file has no decisions: write decisions: [], or remove the file"},
		{"a key without a list", "decisions:\n", "d.yaml:1:12: decisions has no value"},
		{"another key", "decisions: []\nrules: []\n", `d.yaml:2:1: unknown key "rules"`},
		{"a mapping", "decisions: {allow: a.example}\n", "d.yaml:1:12: decisions is a mapping: write a list, with each entry on a line of its own"},
		{"a misspelt key", "decisions:\n  - {alow: a.example}\n", `d.yaml:2:6: unknown key "alow": did you mean "allow"?`},
		{"both", "decisions:\n  - {allow: a.example, block: a.example}\n", "d.yaml:2:5: the entry has both allow and block: keep one of them"},
		{"neither", "decisions:\n  - {peer: ana}\n", "d.yaml:2:5: the entry has neither allow nor block: write a host name or category:NAME"},
		{"no host", "decisions:\n  - {allow: a.example}\n  - {block: a b}\n", `d.yaml:3:5: `},
		{"a pause", "decisions:\n  - {allow: filter}\n", "d.yaml:2:5: a pause is not kept"},
		{"a time that is none", "decisions:\n  - {allow: a.example, until: soon}\n", `d.yaml:2:31: decisions[0].until is "soon"`},
		{"an empty peer", "decisions:\n  - {allow: a.example, peer: \"\"}\n", "d.yaml:2:5: the peer is empty: name one, or remove the key, for everyone"},
		{"no time", "decisions:\n  - {allow: a.example, until: 0001-01-01T00:00:00Z}\n", "d.yaml:2:5: until is no time: write when it ends, or remove the key, for always"},
		{"twice", "decisions:\n  - {allow: a.example}\n  - {block: A.example}\n", "d.yaml:3:5: a.example is decided already, at d.yaml:2:5: keep one of them"},
		{"in one line", "decisions: [{allow: a.example}, {allow: b.example}]\n", "d.yaml:1:12: the list is in brackets: write each entry on a line of its own, below decisions:"},
		{"not YAML", "decisions:\n  - {allow: a.example\n", "d.yaml:2:"},
		{"an alias", "decisions:\n  - &a {allow: a.example}\n  - *a\n", "d.yaml:2:5: anchors, aliases and tags are not supported"},
	} {
		_, err := parse("d.yaml", []byte(row.text))
		if err == nil || !strings.HasPrefix(err.Error(), row.want) {
			t.Errorf("%s: got %v, want %s", row.name, err, row.want)
		}
	}
	list, err := parse("d.yaml", []byte("decisions:\n  - {allow: Bücher.example, until: \"2026-03-02T10:00:00Z\"}\n  - block: category:games\n    peer: ana\n"))
	if err != nil || len(list) != 2 || list[0].Allow != "xn--bcher-kva.example" || list[0].Until.Year() != 2026 || list[1].Pos.Line != 3 || list[1].Last != 4 {
		t.Errorf("got %+v, %v", list, err)
	}
}

// patch applies a unified diff with one hunk.
func patch(t *testing.T, old, diff string) string {
	t.Helper()
	if diff == "" {
		return old
	}
	rows := lines(diff)
	var from, n, to, m int
	if _, err := fmt.Sscanf(rows[2], "@@ -%d,%d +%d,%d @@", &from, &n, &to, &m); err != nil {
		t.Fatalf("%q: %v", rows[2], err)
	}
	if n > 0 {
		from--
	}
	var removed, added []string
	for i, row := range rows[3:] {
		if strings.HasPrefix(row, "\\") {
			continue
		}
		line := row[1:]
		if next := i + 4; next < len(rows) && strings.HasPrefix(rows[next], "\\") {
			line = strings.TrimSuffix(line, "\n")
		}
		if row[0] != '+' {
			removed = append(removed, line)
		}
		if row[0] != '-' {
			added = append(added, line)
		}
	}
	all := lines(old)
	if len(removed) != n || len(added) != m || strings.Join(all[from:from+n], "") != strings.Join(removed, "") {
		t.Fatalf("the hunk does not fit:\n%s", diff)
	}
	return strings.Join(all[:from], "") + strings.Join(added, "") + strings.Join(all[from+n:], "")
}

func FuzzADiffLeadsFromOneTextToTheOther(f *testing.F) {
	f.Add("", "a\nb\n")
	f.Add("a\nb\nc\nd\ne\nf\ng\nh\n", "a\nb\nc\nd\nE\nf\ng\nh\n")
	f.Add("a\nb", "a\nb\n")
	f.Add("a\na\na\n", "a\na\n")
	f.Fuzz(func(t *testing.T, old, text string) {
		if got := patch(t, old, diff("d.yaml", old, text)); got != text {
			t.Fatalf("got %q, want %q", got, text)
		}
	})
}

// Whatever a file looks like, a change keeps every line that is no part of what is removed, or is refused.
func FuzzAChangeLosesNothing(f *testing.F) {
	good := []string{
		"decisions: []\n", "decisions:\n- allow: a.example\n  by: x\n", "# x\n\ndecisions:\n  - {block: a.example}\n\n  # y\n  - {allow: \"b.example\"}",
		"decisions: # x\n    - {allow: a.example,\n       by: z}\n# end",
	}
	for _, text := range append(good, "\"decisions\": []\n", "decisions:\n  - {allow: a.example, by: \"x\n    y\"}\n", "decisions: []\ndecisions:\n") {
		f.Add(text)
	}
	add := entry{by: "uid 0"}
	add.Name, add.Always, add.Made = "new.test", true, time.Unix(0, 0)
	f.Fuzz(func(t *testing.T, text string) {
		before, err := parse("d.yaml", []byte(text))
		if err != nil {
			return
		}
		for gone := -1; gone < len(before); gone++ {
			all := entries(before)
			next, _, err := rewrite("d.yaml", text, before, func(e entry) bool { return gone >= 0 && e == all[gone] }, []entry{add})
			if err != nil {
				if slices.Contains(good, text) {
					t.Fatalf("%v:\n%s", err, text)
				}
				continue
			}
			rest := lines(next)
			for i, line := range lines(text) {
				line = strings.TrimSuffix(line, "\n")
				removed := gone >= 0 && before[gone].Pos.Line <= i+1 && i+1 <= before[gone].Last
				if removed || strings.HasPrefix(line, "decisions:") {
					continue
				}
				at := slices.IndexFunc(rest, func(l string) bool { return strings.TrimSuffix(l, "\n") == line })
				if at < 0 {
					t.Fatalf("line %d, %q, is lost without entry %d:\n%s\nis now\n%s", i+1, line, gone, text, next)
				}
				rest = rest[at+1:]
			}
		}
	})
}

// The page for operators shows such a file.
func TestTheFileInTheManualIsGood(t *testing.T) {
	page, err := os.ReadFile("../../../docs/operation.md")
	if err != nil {
		t.Fatal(err)
	}
	_, after, _ := strings.Cut(string(page), "The file has one entry a line:\n\n```yaml\n")
	text, _, ok := strings.Cut(after, "```")
	list, err := parse("operation.md", []byte(text))
	if !ok || err != nil || len(list) != 2 || list[1].Until.IsZero() {
		t.Errorf("got %+v, %v", list, err)
	}
	if _, err := parse("head", []byte(head+"decisions: []\n")); err != nil {
		t.Error(err)
	}
	for line := range strings.Lines(head) {
		if example, ok := strings.CutPrefix(line, "#   - {"); ok {
			if _, err := parse("head", []byte("decisions:\n  - {"+example)); err != nil {
				t.Error(err)
			}
		}
	}
}
