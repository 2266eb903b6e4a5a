// Package text reads and shows the text that profiles and servers write: option lines, durations, messages.
//
// It does not know what an option means.
package text

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// Split splits an option line into words by OpenVPN's rules. Where a word would start, a quote of either kind starts one
// that ends with the same quote, and # or ; starts a comment. A backslash takes the next character as it is, except in
// single quotes.
func Split(line string) ([]string, error) {
	var words []string
	var word strings.Builder
	const none = 0
	quote, inWord := byte(none), false
	end := func() {
		words = append(words, word.String())
		word.Reset()
		quote, inWord = none, false
	}
	for i := 0; i < len(line); i++ {
		c := line[i]
		switch {
		case c == '\\' && quote != '\'':
			if i++; i == len(line) {
				return nil, errors.New("a backslash ends the line")
			}
			word.WriteByte(line[i])
			inWord = true
		case quote != none && c == quote:
			end()
		case quote != none:
			word.WriteByte(c)
		case isSpace(c):
			if inWord {
				end()
			}
		case !inWord && (c == '"' || c == '\''):
			quote, inWord = c, true
		case !inWord && (c == '#' || c == ';'):
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
		end()
	}
	return words, nil
}

func isSpace(c byte) bool { return c == ' ' || c >= '\t' && c <= '\r' }

// Join makes a line of words, which Split splits into the same words.
func Join(words []string) string {
	var line strings.Builder
	for i, word := range words {
		if i > 0 {
			line.WriteByte(' ')
		}
		if word != "" && !strings.ContainsFunc(word, func(r rune) bool { return strings.ContainsRune(" \t\n\v\f\r\\\"'#;", r) }) {
			line.WriteString(word)
			continue
		}
		line.WriteByte('"')
		line.WriteString(strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(word))
		line.WriteByte('"')
	}
	return line.String()
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

// Server reads the address of a DNS server, with or without a port. An IPv6 address with a port needs brackets.
func Server(s string) (netip.AddrPort, error) {
	const dnsPort = 53
	bare := s
	if inner, ok := strings.CutPrefix(s, "["); ok {
		bare, _ = strings.CutSuffix(inner, "]")
	}
	if addr, err := netip.ParseAddr(bare); err == nil {
		return netip.AddrPortFrom(addr, dnsPort), nil
	}
	return netip.ParseAddrPort(s)
}

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
