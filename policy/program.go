package policy

import (
	"slices"
	"strings"
	"sync/atomic"
)

// Program is a program of this machine that sends a flow, as far as it is known.
type Program struct {
	UID       uint32
	Path      string
	Deleted   bool   // its file was replaced or removed after it began
	Several   bool   // other programs hold the same socket; this one began first
	Unit      string // of systemd, without what changes at each start
	Container string // ID or name
	UserUnit  bool   // a user's own service manager made the group: the user has chosen the names of Unit and Container
}

// Sender is where the program that sends a flow is found, perhaps after the flow has begun. It is for showing: rules use the facts
// in Flow alone. A nil Sender knows nothing.
type Sender struct{ program atomic.Pointer[Program] }

// Program returns the program, or nil as long as it is not known. It must not be changed.
func (s *Sender) Program() *Program {
	if s == nil {
		return nil
	}
	return s.program.Load()
}

// Is says which program it is.
func (s *Sender) Is(p *Program) { s.program.Store(p) }

// SentBy adds a program to the facts.
func (f *Flow) SentBy(p *Program) {
	f.UID, f.HasUID = p.UID, true
	f.Process, f.Unit, f.Container, f.UserUnit = p.Path, p.Unit, p.Container, p.UserUnit
}

// In says which unit and container a made-up flow comes from, either with "system/" or "user/" in front or without.
func (f *Flow) In(unit, container string) {
	for _, s := range []struct {
		name string
		fact *string
	}{{unit, &f.Unit}, {container, &f.Container}} {
		manager, name, ok := strings.Cut(s.name, "/")
		if !ok {
			name = s.name
		}
		*s.fact, f.UserUnit = name, f.UserUnit || ok && manager == "user"
	}
}

// Asked says which facts about the program the rules of a policy use.
type Asked struct{ UID, Process, Unit bool }

// Any reports whether they use one.
func (a Asked) Any() bool { return a.UID || a.Process || a.Unit }

// Asks returns which facts about the program the rules use. Others need not be looked up.
func (p *Policy) Asks() (a Asked) {
	for _, r := range p.rules {
		for m := &r.Match; m != nil; m = m.Not {
			a.UID = a.UID || len(m.UID) > 0
			a.Process = a.Process || len(m.Process) > 0
			a.Unit = a.Unit || len(m.Unit)+len(m.Container) > 0
		}
	}
	return a
}

// program says whether the conditions on the program hold. What is not known does not match.
func (s *scan) program(m *matcher) tri {
	switch {
	case m.program == nil:
		return yes
	case s.question: // often one program asks for all others, such as systemd-resolved, and another opens the flow
		return maybe
	}
	t := yes
	known := func(set, known bool, holds func() bool) {
		switch {
		case !set:
		case known:
			t = min(t, triOf(holds()))
		default:
			t = no
		}
	}
	f, w := &s.flow, m.program
	known(len(w.UID) > 0, f.HasUID, func() bool { return slices.Contains(w.UID, f.UID) })
	known(len(w.Process) > 0, f.Process != "", func() bool { return slices.Contains(w.Process, f.Process) })
	known(len(w.Unit) > 0, f.Unit != "", func() bool { return f.isIn(w.Unit, f.Unit) })
	known(len(w.Container) > 0, f.Container != "", func() bool { return f.isIn(w.Container, f.Container) })
	return t
}

// isIn reports whether one of some patterns is for the unit or container with a name.
func (f *Flow) isIn(patterns []string, name string) bool {
	return slices.ContainsFunc(patterns, func(pattern string) bool {
		manager, rest, ok := strings.Cut(pattern, "/")
		if ok && (manager == "user") != f.UserUnit {
			return false
		}
		if !ok {
			rest = pattern
		}
		return matchesName(rest, name) || len(name) == shownID && len(rest) > shownID && strings.HasPrefix(rest, name) && isHex(rest)
	})
}

// shownID is how many digits of a container's ID are known. Rules may have them all.
const shownID = 12

func isHex(s string) bool { return strings.Trim(s, "0123456789abcdef") == "" }

// matchesName reports whether a name is what a pattern says, in which * stands for any characters.
func matchesName(pattern, name string) bool {
	first, rest, ok := strings.Cut(pattern, "*")
	name, begins := strings.CutPrefix(name, first)
	if !ok || !begins {
		return begins && name == ""
	}
	for {
		part, more, ok := strings.Cut(rest, "*")
		if !ok {
			return strings.HasSuffix(name, part)
		}
		at := strings.Index(name, part)
		if at < 0 {
			return false
		}
		name, rest = name[at+len(part):], more
	}
}

// programMatch returns the conditions of a match on the program, or nil if it has none.
func programMatch(m *Match) *Match {
	if len(m.UID)+len(m.Process)+len(m.Unit)+len(m.Container) == 0 {
		return nil
	}
	return &Match{UID: m.UID, Process: m.Process, Unit: m.Unit, Container: m.Container}
}
