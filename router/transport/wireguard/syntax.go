package wireguard

import (
	"fmt"
	"strings"
	"unicode"
)

// SyntaxError is one fault in a wg-quick file.
type SyntaxError struct {
	File    string
	Line    int    // from 1
	Excerpt string // the line without possible secrets; empty if there is none to show
	Mend    string // how to fix it
	Err     error
}

// Error returns one line with the place and the fault, and below it the excerpt and how to fix it.
func (e *SyntaxError) Error() string {
	s := fmt.Sprintf("%s:%d: %v", e.File, e.Line, e.Err)
	if e.Excerpt != "" {
		s += "\n\t" + e.Excerpt
	}
	return s + "\n\t" + e.Mend
}

// Unwrap returns the fault alone.
func (e *SyntaxError) Unwrap() error { return e.Err }

// excerpt returns a line for a message. It shows values only of known, public fields: a misspelt PrivateKey, a key that
// was wrapped onto its own line, or a command with a password in it must not reach a log.
func excerpt(text string) string {
	const longest = 80 // characters
	text, _, _ = strings.Cut(text, "#")
	text = strings.TrimSpace(text)
	name, _, isField := strings.Cut(text, "=")
	name = withoutBlanks(name)
	switch {
	case text == "" || strings.HasPrefix(text, "[") && len(text) < keySize:
	case isField && isPublic(name):
	case isField && isWord(name):
		text = strings.TrimSpace(name) + " = …"
	case !isField && isWord(text):
	default:
		text = "…"
	}
	text = strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return unicode.ReplacementChar
	}, text)
	if runes := []rune(text); len(runes) > longest {
		text = string(runes[:longest]) + "…"
	}
	return text
}

// isPublic reports whether the value of a field may be shown.
func isPublic(name string) bool {
	for _, known := range fields {
		if f, ok := known[strings.ToLower(name)]; ok {
			return !f.secret
		}
	}
	return false
}

// isWord reports whether s looks like the name of a field and cannot be a key.
func isWord(s string) bool {
	return len(s) < keySize && !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsLetter(r) && !unicode.IsDigit(r) })
}
