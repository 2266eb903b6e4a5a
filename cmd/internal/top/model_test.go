package top

import (
	"strings"
	"testing"
	"time"

	tea "charm.land/bubbletea/v2"
	"github.com/charmbracelet/x/ansi"

	"penstock/cmd/internal/control"
)

// last is the last line on the screen.
func (s session) last() string {
	lines := strings.Split(ansi.Strip(s.View().Content), "\n")
	return strings.TrimSpace(lines[len(lines)-1])
}

func TestWhatChangesSomethingIsAskedFirst(t *testing.T) {
	reader := laptop(1)
	reader.mayChange = false
	for _, row := range []struct {
		name   string
		answer snapshot
		keys   []string
		want   string // in the last line
		acts   bool   // after another y
	}{
		{"a live flow is ended", laptop(1), []string{"k"}, "End flow 4 to a.very.long.name.of.a.download.server.example?  y/n", true},
		{"a flow that is over is not", laptop(1), []string{"end", "k"}, "this flow is over", false},
		{"a refused question is not", laptop(1), []string{"2", "end", "k"}, "this flow is over", false},
		{"a blocked name is allowed", laptop(1), []string{"2", "end", "a"}, "Allow x.bet for 1 hour?  y/n", true},
		{"from its detail, too", laptop(1), []string{"2", "end", "enter", "a"}, "Allow x.bet for 1 hour?  y/n", true},
		{"a blocked address is not", laptop(1), []string{"2", "a"}, "only a name can be allowed, and this flow has none: change rule no-private", false},
		{"what is not blocked is not allowed", laptop(1), []string{"a"}, "this flow is not blocked", false},
		{"the transports begin anew", laptop(1), []string{"r"}, "Begin new sessions of all transports? Flows go on.  y/n", true},
		{"who may only look is told", reader, []string{"r"}, "you may only look: run this with sudo, or as the user who started penstock", false},
		{"who may only look ends no flow", reader, []string{"k"}, "you may only look: run this with sudo, or as the user who started penstock", false},
		{"nothing is selected among the rules", laptop(1), []string{"4", "k"}, "select a flow first", false},
	} {
		for _, answer := range []string{"y", "n", "esc"} {
			s := open(80, 24).sees(laptop(0), row.answer)
			s.press(row.keys...)
			if got := s.last(); got != row.want {
				t.Errorf("%s: got %q, want %q", row.name, got, row.want)
			}
			if !row.acts {
				break
			}
			cmd := s.press(answer)
			if got := cmd != nil; got != (answer == "y") {
				t.Errorf("%s: after %s got an action %v", row.name, answer, got)
			}
			if answer != "y" && s.last() != "nothing was changed" {
				t.Errorf("%s: after %s got %q", row.name, answer, s.last())
			}
		}
	}
}

func TestAnActionSaysWhatBecameOfIt(t *testing.T) {
	s := open(80, 24).sees(laptop(0))
	cmd := s.press("k", "y")
	msg, ok := cmd().(told) // nobody is there to end the flow
	if !ok || msg.err == nil {
		t.Fatalf("got %#v, want an error", msg)
	}
	s.Update(msg)
	if got, want := s.last(), control.ErrNotRunning.Error(); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	s.sees(laptop(1))
	if got := s.last(); got != control.ErrNotRunning.Error() {
		t.Errorf("a second later the message is gone: %q", got)
	}
	s.sees(laptop(10))
	if got := s.last(); !strings.HasPrefix(got, "q quit") {
		t.Errorf("ten seconds later got %q, want the keys", got)
	}
}

func TestTheSelectionStaysWithItsFlow(t *testing.T) {
	s := open(80, 24).sees(laptop(0), laptop(1))
	if got := s.chosen().key; got != "4" {
		t.Fatalf("got flow %s first, want the fastest", got)
	}
	s.press("down", "down")
	before := s.chosen().key
	s.press("s") // by bytes
	s.sees(laptop(2))
	if got := s.chosen().key; got != before {
		t.Errorf("got flow %s, want %s still", got, before)
	}
	s.press("home", "s")
	if got := s.chosen().key; got != "5" {
		t.Errorf("by age got flow %s first, want the youngest that lives", got)
	}
}

func TestAnAnswerToAnEarlierQuestionIsForgotten(t *testing.T) {
	s := open(80, 24).sees(laptop(0))
	late := laptop(1)
	late.question = s.question()
	late.flows = nil
	s.press("2")
	if _, cmd := s.Update(late); cmd != nil || s.at != start {
		t.Error("a late answer was taken")
	}
	if _, cmd := s.Update(tick{s.seq - 1}); cmd != nil {
		t.Error("a late tick led to a look")
	}
}

func TestAFilterIsBoundedAndPrintable(t *testing.T) {
	s := open(80, 24).sees(laptop(0))
	s.press("/", "x")
	s.Update(tea.PasteMsg{Content: hostile + strings.Repeat("long", 100)})
	if got := []rune(s.filter); len(got) != longest || strings.ContainsAny(s.filter, "\x1b\n") {
		t.Errorf("got the filter %q", s.filter)
	}
	s.press("backspace")
	if got := len([]rune(s.filter)); got != longest-1 {
		t.Errorf("got %d characters after a backspace, want %d", got, longest-1)
	}
	if s.press("q"); !s.typing {
		t.Error("a q in the filter ended the view")
	}
	if s.press("esc"); s.filter != "" || s.typing {
		t.Errorf("Esc left the filter %q", s.filter)
	}
	if cmd := s.press("q"); cmd == nil {
		t.Error("q did not quit")
	} else if _, quits := cmd().(tea.QuitMsg); !quits {
		t.Error("q did not quit")
	}
}

func TestAPenstockThatStartsAnewBeginsAnew(t *testing.T) {
	var s series
	for i := range 5 {
		s.add(point{start.Add(time.Duration(i) * time.Second), float64(100 * i)})
	}
	if got := s.grown(2 * time.Second); got != 200 {
		t.Errorf("got %v more in 2 s, want 200", got)
	}
	s.add(point{start.Add(5 * time.Second), 7})
	if len(s) != 1 || s.grown(time.Minute) != 0 {
		t.Errorf("got %v after a restart, want one point", s)
	}
	for i := range 1000 {
		s.add(point{start.Add(time.Duration(6+i) * time.Second), float64(10 * i)})
	}
	if len(s) > 123 {
		t.Errorf("got %d points, want those of two minutes", len(s))
	}
	if got := spark(s.rates(10), true); got != "##########" {
		t.Errorf("got %q for a steady rate", got)
	}
	if got := spark(series{}.rates(3), true); got != "   " {
		t.Errorf("got %q for nothing", got)
	}
	var m meter
	for _, rx := range []uint64{500, 20} { // fewer bytes than before
		at := start.Add(time.Duration(1000-rx) * time.Second)
		m.next(at, time.Second)
		m.see("corp", count{rx: rx, at: at})
	}
	if _, _, ok := m.rate("corp"); ok {
		t.Error("got a rate across a restart")
	}
}
