package hostnet

import (
	"log/slog"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"penstock/router/hostnet/resolver"
)

// The tables have notes of what else was changed, should the state file be lost. Tables and sysctls end with the same boot. The first word
// says of what a note is:
//
//	state FILE               the state file that should know
//	resolver FILE            that may have been written: it has its original in itself
//	sysctl PATH OLD NEW
//	interface INDEX NAME     that forwards because of us: udev may give it another name
const (
	noteState     = "state"
	noteResolver  = "resolver"
	noteSysctl    = "sysctl"
	noteInterface = "interface"
)

func noteOfState(path string) string {
	if abs, err := filepath.Abs(path); err == nil {
		path = abs
	}
	return noteState + " " + path
}

func noteOfInterface(index int, name string) string {
	return strings.Join([]string{noteInterface, strconv.Itoa(index), name}, " ")
}

// interfacesIn returns the index of each interface that notes tell of, by the name that it had.
func interfacesIn(notes []string) map[string]int {
	list := make(map[string]int)
	for _, note := range notes {
		if words := strings.Fields(note); len(words) == 3 && words[0] == noteInterface {
			list[words[2]], _ = strconv.Atoi(words[1]) // 0 is none
		}
	}
	return list
}

// notesFor returns the notes for sysctls that are planned. known are the changes of our own journal, which remember what was before.
func notesFor(c Config, sysctls []change, known []entry) []string {
	notes := []string{noteOfState(c.StateFile), noteResolver + " " + c.ResolvConf}
	for _, planned := range sysctls {
		s := planned.(*sysctl)
		if i := slices.IndexFunc(known, func(e entry) bool { return e.change().key() == s.key() }); i >= 0 {
			s = s.adopt(known[i].change()).(*sysctl)
		}
		if s.Old != s.New && s.Old != "" {
			notes = append(notes, strings.Join([]string{noteSysctl, s.Path, s.Old, s.New}, " "))
		}
	}
	return notes
}

// entriesIn returns the changes that notes tell of, and that to the resolver file if it is still ours. It logs what may be left and cannot be undone.
func entriesIn(notes []string, log *slog.Logger) []entry {
	var entries []entry
	var files []string
	sysctls := []sysctl{{Path: arpIgnore, New: "2"}, {Path: srcValidMark, New: "1"}}
	noted := func(path string) bool {
		return slices.ContainsFunc(entries, func(e entry) bool { return e.Sysctl != nil && e.Sysctl.Path == path })
	}
	for _, note := range notes {
		kind, rest, _ := strings.Cut(note, " ")
		words := strings.Fields(rest)
		switch {
		case kind == noteResolver && !slices.Contains(files, rest):
			files = append(files, rest)
		case kind == noteSysctl && len(words) == 3 && !noted(words[0]) &&
			slices.ContainsFunc(sysctls, func(s sysctl) bool { return s.Path == words[0] && s.New == words[2] }):
			entries = append(entries, entry{Sysctl: &sysctl{Path: words[0], Old: words[1], New: words[2]}})
		}
	}
	for _, s := range sysctls {
		if len(notes) == 0 && sysctlOrEmpty(s.Path) == s.New {
			log.Warn("a kernel parameter may still be as penstock set it: if nobody else did, set it back", "parameter", s.Path, "value", s.New, "usual", "0")
		}
	}
	if len(files) == 0 {
		files = []string{DefaultResolvConf}
	}
	for _, path := range files {
		file, lost := resolver.Salvage(path)
		switch {
		case file != nil:
			entries = append(entries, entry{ResolvConf: file})
		case lost:
			log.Error("the resolver file is penstock's, and the original in it is lost: once penstock has stopped, write it anew", "file", path)
		}
	}
	return entries
}
