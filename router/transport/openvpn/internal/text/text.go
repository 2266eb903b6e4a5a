// Package text reads and shows the text that profiles and servers write: option lines, durations, messages.
//
// It does not know what an option means.
package text

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Split splits an option line into words by OpenVPN's rules: quotes of both kinds, backslash escapes outside single
// quotes, and a comment where a word would start with # or ;.
func Split(line string) ([]string, error) {
	var words []string
	var word strings.Builder
	const none = 0
	quote, inWord := byte(none), false
	for i := 0; i < len(line); i++ {
		c := line[i]
		switch {
		case c == '\\' && quote != '\'':
			if i++; i == len(line) {
				return nil, errors.New("a backslash ends the line")
			}
			word.WriteByte(line[i])
			inWord = true
		case quote != none:
			if c == quote {
				quote = none
			} else {
				word.WriteByte(c)
			}
		case c == '"' || c == '\'':
			quote, inWord = c, true
		case c == ' ' || c == '\t' || c == '\r':
			if inWord {
				words = append(words, word.String())
				word.Reset()
				inWord = false
			}
		case (c == '#' || c == ';') && !inWord:
			return words, nil
		default:
			word.WriteByte(c)
			inWord = true
		}
	}
	if quote != none {
		return nil, errors.New("a quote is not closed")
	}
	if inWord {
		words = append(words, word.String())
	}
	return words, nil
}

// MaxSeconds is the longest duration that an option can set, a week: sums of durations stay far from overflow.
const MaxSeconds = 7 * 24 * 3600

// Seconds reads a duration in seconds. More than MaxSeconds is MaxSeconds.
func Seconds(s string) (time.Duration, error) {
	n, err := strconv.ParseUint(s, 10, 31)
	if err != nil {
		return 0, fmt.Errorf("%q is not a number of seconds", s)
	}
	return time.Duration(min(n, MaxSeconds)) * time.Second, nil
}

const (
	minMTU = 576

	// MaxMTU is the largest MTU that an option can set, in bytes.
	MaxMTU = 9000
)

// MTU reads a packet size in bytes.
func MTU(s string) (int, error) {
	n, err := strconv.Atoi(s)
	if err != nil || n < minMTU || n > MaxMTU {
		return 0, fmt.Errorf("%q is not a number from %d to %d", s, minMTU, MaxMTU)
	}
	return n, nil
}

// maxShown is how much of a server's text is shown, in bytes.
const maxShown = 256

// Printable makes text from outside safe to show: no control characters, which could forge log lines, and at most 256
// bytes.
func Printable(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
	return s[:min(len(s), maxShown)]
}

// Secret is text that does not print.
type Secret string

// String hides the text.
func (Secret) String() string { return "(secret)" }

// GoString hides the text.
func (Secret) GoString() string { return "(secret)" }
