package config

import (
	"fmt"
	"regexp"
	"strings"
)

// Error is everything that is wrong with a configuration. It has at least one Fault.
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

// Fault is one thing that is wrong, where, and how to mend it.
type Fault struct {
	Pos     Position // zero Line: the file as a whole
	Message string   // what is wrong
	Mend    string   // what to do; empty where the message says it
	Excerpt string   // the line in question, without secrets; empty where there is none
}

// maxExcerpt is the longest line that helps a reader, bytes.
const maxExcerpt = 240

// String gives place, message and mend on one line and, below it, the excerpt with a caret.
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

// secretKey finds what could be a secret written into a file, where it does not belong.
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

// suggest returns the candidate that is nearest to what was written, or nothing if none is near.
func suggest(written string, candidates []string) string {
	best, distance := "", len(written)/3+2
	for _, c := range candidates {
		if d := editDistance(strings.ToLower(written), c); d < distance {
			best, distance = c, d
		}
	}
	return best
}

// editDistance is Levenshtein's, with a swap of neighbours counted once.
func editDistance(a, b string) int {
	rows := make([][]int, len(a)+1)
	for i := range rows {
		rows[i] = make([]int, len(b)+1)
		rows[i][0] = i
	}
	for j := range rows[0] {
		rows[0][j] = j
	}
	for i := 1; i <= len(a); i++ {
		for j := 1; j <= len(b); j++ {
			change := 1
			if a[i-1] == b[j-1] {
				change = 0
			}
			rows[i][j] = min(rows[i-1][j]+1, rows[i][j-1]+1, rows[i-1][j-1]+change)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				rows[i][j] = min(rows[i][j], rows[i-2][j-2]+1)
			}
		}
	}
	return rows[len(a)][len(b)]
}
