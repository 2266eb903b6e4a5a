package config

import (
	"fmt"
	"regexp"
	"strings"
)

// Error is everything that is wrong with a configuration: one Fault or more.
type Error struct {
	Faults []Fault
}

// Error prints every fault, one below the other.
func (e *Error) Error() string {
	texts := make([]string, len(e.Faults))
	for i, f := range e.Faults {
		texts[i] = f.String()
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

// String returns place, message and mend on one line, and the excerpt with a caret below it.
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

// secretKey finds what could be a secret that somebody wrote into the configuration itself.
var secretKey = regexp.MustCompile(`(?i)([\w-]*(?:key|pass|secret|token)[\w-]*)(["']?\s*[:=]\s*)([^\s{}][^,}]*)`)

// redact hides the values of keys that sound like secrets.
func redact(line string) string {
	return secretKey.ReplaceAllStringFunc(line, func(match string) string {
		parts := secretKey.FindStringSubmatch(match)
		if strings.Contains(strings.ToLower(parts[1]), "public") {
			return match
		}
		return parts[1] + parts[2] + "[hidden]"
	})
}
