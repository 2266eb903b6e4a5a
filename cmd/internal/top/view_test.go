package top

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/charmbracelet/x/ansi"
	"github.com/google/go-cmp/cmp"

	"penstock/cmd/internal/control"
)

var update = flag.Bool("update", false, "write the golden views")

// drawn is what is on the screen, which must be as large as the terminal.
func (s session) drawn(t *testing.T) string {
	t.Helper()
	text := s.View().Content
	lines := strings.Split(text, "\n")
	if len(lines) != s.height {
		t.Errorf("got %d lines, want %d", len(lines), s.height)
	}
	for i, l := range lines {
		if w := ansi.StringWidth(l); w != s.width {
			t.Errorf("line %d is %d wide, want %d: %q", i+1, w, s.width, l)
		}
	}
	return text
}

func TestViewsAreAsTheyShouldBe(t *testing.T) {
	lost := laptop(3)
	lost.err = fmt.Errorf("%w: nobody listens", control.ErrNotRunning)
	down := laptop(2)
	down.status.State, down.status.Verdict = "reconnecting", "reconnecting via corp (no_answer), received 31s ago, filter on: the server has not answered for 25 s; legacy waits for its user: penstock login legacy"
	down.status.Transports[1].SignIn = "https://login.example"
	down.status.ReloadError = "laptop.yaml:3:1: unknown key \"profil\""
	for _, row := range []struct {
		name    string
		session session
		keys    []string
		answers []snapshot
	}{
		{"flows-80x24", open(80, 24), nil, []snapshot{laptop(0), laptop(1), laptop(2)}},
		{"flows-120x40", open(120, 40), nil, []snapshot{laptop(0), laptop(1), laptop(2)}},
		{"flows-40x20", open(40, 20), nil, []snapshot{laptop(0), laptop(1), laptop(2)}},
		{"flows-by-age", open(80, 24), []string{"s", "s", "down"}, []snapshot{laptop(0), laptop(1)}},
		{"blocked-80x24", open(80, 24), []string{"2"}, []snapshot{laptop(0), laptop(1)}},
		{"clients-80x24", open(80, 24), []string{"3"}, []snapshot{laptop(0), laptop(1)}},
		{"peers-120x24", open(120, 24), []string{"3"}, []snapshot{gateway(0), gateway(1)}},
		{"why-80x24", open(80, 24), []string{"2", "down", "enter"}, []snapshot{laptop(0)}},
		{"rules-80x24", open(80, 24), []string{"4"}, []snapshot{laptop(0)}},
		{"trouble-80x24", open(80, 24), nil, []snapshot{laptop(0), down}},
		{"gone-80x24", open(80, 24), nil, []snapshot{laptop(0), lost}},
		{"never-there-40x20", open(40, 20), nil, []snapshot{lost}},
		{"filter-80x24", open(80, 24), []string{"/", "c", "o", "r", "p"}, []snapshot{laptop(0), laptop(1)}},
		{"too-small", open(20, 5), nil, []snapshot{laptop(0)}},
	} {
		t.Run(row.name, func(t *testing.T) {
			row.session.sees(row.answers[0])
			row.session.press(row.keys...)
			row.session.sees(row.answers[1:]...)
			row.session.Update(because{"8", "203.0.113.20:443: block\nrule       no-gambling, laptop.yaml:7:5\n"})
			golden(t, row.name, ansi.Strip(row.session.drawn(t)))
		})
	}
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	var b strings.Builder
	for l := range strings.Lines(got) {
		b.WriteString(strings.TrimRight(l, " \n") + "\n")
	}
	path := filepath.Join("testdata", name+".golden")
	if *update {
		if err := os.WriteFile(path, []byte(b.String()), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(strings.ReplaceAll(string(want), "\r\n", "\n"), b.String()); diff != "" {
		t.Errorf("the view differs from %s (go test ./cmd/internal/top -update writes it): %s", path, diff)
	}
}

func TestColoursSayNothingThatTheTextDoesNot(t *testing.T) {
	var plain, coloured string
	for _, colours := range []bool{false, true} {
		s := open(80, 24)
		s.theme.colours = colours
		s.sees(laptop(0), laptop(1))
		if text := s.drawn(t); colours {
			coloured = text
		} else {
			plain = text
		}
	}
	if diff := cmp.Diff(ansi.Strip(plain), ansi.Strip(coloured)); diff != "" {
		t.Errorf("the texts differ: %s", diff)
	}
	for _, colour := range []string{"\x1b[31m", "\x1b[1;32m"} {
		if !strings.Contains(coloured, colour) {
			t.Errorf("got no %q in colours", colour)
		}
		if strings.Contains(plain, colour) {
			t.Errorf("got %q without colours", colour)
		}
	}
}

func TestATerminalOfASCIIGetsNothingElse(t *testing.T) {
	s := open(80, 40)
	s.config.ASCII = true
	a := laptop(1)
	a.status.Verdict, a.flows[0].Rule = "connected via büro, received just now", "regel-für-alle"
	s.sees(laptop(0), a)
	if text := ansi.Strip(s.drawn(t)); strings.IndexFunc(text, func(r rune) bool { return r > 0x7e }) >= 0 {
		t.Errorf("got %q", text)
	}
}

// hostile is what a stranger can make a name of.
const hostile = "x\x1b[2J\x1b]0;owned\x07\u202e\nINJECTED"

func TestStrangersDoNotControlTheTerminal(t *testing.T) {
	for _, keys := range [][]string{nil, {"2"}, {"3"}, {"4"}, {"enter"}, {"2", "enter"}, {"2", "a"}, {"k"}} {
		for _, answer := range []func(int) snapshot{laptop, gateway} {
			s := open(120, 40)
			a := answer(0)
			a.status.Verdict, a.status.Transports[1].Error, a.status.ReloadError = hostile, hostile, hostile
			a.rules[0].Match, a.flows[0].Host, a.flows[0].Names = hostile, hostile, []control.Name{{Host: hostile}}
			a.denied[2].Host, a.denied[2].Rule = hostile, hostile
			if a.peers != nil {
				a.peers[0].Name, a.peers[0].Endpoint, a.peers[0].Groups = hostile, hostile, []string{hostile}
			}
			s.sees(a)
			s.press(keys...)
			s.sees(a)
			s.Update(because{s.chosen().key, hostile})
			s.Update(told{hostile, nil})
			s.Update(told{"", errors.New(hostile)})
			text := s.drawn(t)
			for _, bad := range []string{"\x1b[2J", "\x1b]", "\x07", "\u202e"} {
				if strings.Contains(text, bad) {
					t.Errorf("%v: got %q on the screen", keys, bad)
				}
			}
		}
	}
}

func TestAViewOfManyFlowsIsDrawnQuickly(t *testing.T) {
	s := open(200, 60)
	a := laptop(0)
	a.flows = many(2 * most)
	a.status.Flows.Active = 10000
	s.sees(a)
	if text := s.drawn(t); !strings.Contains(text, "the newest and the largest of 10000") {
		t.Errorf("nothing says that there are more: %s", ansi.Strip(text))
	}
}

func BenchmarkView(b *testing.B) {
	s := open(120, 40)
	a := laptop(0)
	a.flows = many(2 * most)
	s.sees(a)
	b.ReportAllocs()
	for b.Loop() {
		s.View()
	}
}
