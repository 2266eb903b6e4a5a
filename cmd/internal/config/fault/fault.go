// Package fault holds what is wrong with a configuration: where it is, what it is and how to mend it.
//
// It prints faults as compilers do, file:line:column first, with the line in question below. Secrets in that line are
// hidden. It does not read files and does not find faults: package config does.
package fault

import (
	"fmt"
	"regexp"
	"strings"
)

// Position is a place in a configuration file. Line and Column count from 1.
type Position struct {
	File         string
	Line, Column int
}

// String returns file:line:column, file:line for a position without a column, or the file alone for one without a line.
func (p Position) String() string {
	switch {
	case p.Line == 0:
		return p.File
	case p.Column == 0:
		return fmt.Sprintf("%s:%d", p.File, p.Line)
	}
	return fmt.Sprintf("%s:%d:%d", p.File, p.Line, p.Column)
}

// Error is everything that is wrong with a configuration: one Fault or more.
type Error struct {
	Faults []Fault
}

// maxPrinted is how many faults are printed: nobody reads 1,000 of them, and they often have one cause.
const maxPrinted = 50

// Error prints the faults, one below the other, and of more than 50 the first.
func (e *Error) Error() string {
	var texts []string
	for i, f := range e.Faults {
		if i == maxPrinted {
			texts = append(texts, fmt.Sprintf("and %d more: mend these first", len(e.Faults)-i))
			break
		}
		texts = append(texts, f.String())
	}
	return strings.Join(texts, "\n")
}

// Fault is one thing that is wrong, where it is, and how to mend it.
type Fault struct {
	Pos     Position // zero Line: the file as a whole
	Message string   // what is wrong
	Mend    string   // what to do; empty where the message says it
	Excerpt string   // the line in question, with secrets hidden; empty if there is none
}

// maxExcerpt is the longest line that is worth printing, bytes.
const maxExcerpt = 240

// String returns place, message and mend on one line, and below it the excerpt, with a caret if there is a column.
func (f Fault) String() string {
	var b strings.Builder
	if place := f.Pos.String(); place != "" {
		b.WriteString(place + ": ")
	}
	b.WriteString(f.Message)
	if f.Mend != "" {
		b.WriteString(": " + f.Mend)
	}
	if f.Excerpt != "" && len(f.Excerpt) < maxExcerpt {
		number := fmt.Sprintf("%5d | ", f.Pos.Line)
		if f.Pos.Column == 0 {
			return fmt.Sprintf("%s\n%s%s", &b, number, f.Excerpt)
		}
		// Tabs keep their place in the line of the caret, so that it stands under its column at any tab width.
		indent := strings.Map(func(r rune) rune {
			if r == '\t' {
				return r
			}
			return ' '
		}, firstRunes(f.Excerpt, f.Pos.Column-1))
		fmt.Fprintf(&b, "\n%s%s\n%s| %s^", number, f.Excerpt, strings.Repeat(" ", len(number)-2), indent)
	}
	return b.String()
}

// firstRunes returns the first n runes of s, or all.
func firstRunes(s string, n int) string {
	runes := []rune(s)
	return string(runes[:max(0, min(n, len(runes)))])
}

var (
	// secretKey finds what could be a secret that somebody wrote into the configuration itself.
	secretKey = regexp.MustCompile(`(?i)([\w-]*(?:key|pass|secret|token)[\w-]*)(["']?\s*[:=]\s*)(\{[^}]*\}?|[^\s{}][^,}]*)`)
	// secretPlace is a value that says where a secret is.
	secretPlace = regexp.MustCompile(`^\{(?:\s*(?:file|env)\s*:[^,]*)?\}?$`)
	// wireGuardKey finds what looks like a key of WireGuard, 32 bytes in base64, and whether it is called a public one.
	wireGuardKey = regexp.MustCompile(`(?i)(public[\w-]*["']?\s*[:=]\s*["']?)?[A-Z0-9+/]{43}=`)
)

const hidden = "[hidden]"

// Redact hides the values of keys that sound like secrets, and everything that looks like a private key.
func Redact(line string) string {
	line = secretKey.ReplaceAllStringFunc(line, func(match string) string {
		parts := secretKey.FindStringSubmatch(match)
		if strings.Contains(strings.ToLower(parts[1]), "public") || secretPlace.MatchString(parts[3]) {
			return match
		}
		return parts[1] + parts[2] + hidden
	})
	return HideKeys(line)
}

// HideKeys hides everything that looks like a key of WireGuard and is not called a public one.
func HideKeys(text string) string {
	return wireGuardKey.ReplaceAllStringFunc(text, func(match string) string {
		if wireGuardKey.FindStringSubmatch(match)[1] != "" {
			return match
		}
		return hidden
	})
}
