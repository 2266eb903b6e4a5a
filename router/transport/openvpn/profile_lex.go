package openvpn

import (
	"fmt"
	"strings"
)

// inlineFile stands for a file name where the content is in the profile itself.
const inlineFile = "[inline]"

// directive is one line of a profile, or an inline block with its content.
type directive struct {
	line    int
	name    string
	args    []string
	content string // of an inline block
	inline  bool
}

func lex(text string) ([]directive, error) {
	lines := strings.Split(strings.TrimPrefix(text, "\ufeff"), "\n")
	var out []directive
	for i := 0; i < len(lines); i++ {
		number := i + 1
		trimmed := strings.TrimSpace(lines[i])
		if name, ok := blockName(trimmed); ok {
			end := i + 1
			for end < len(lines) && strings.TrimSpace(lines[end]) != "</"+name+">" {
				end++
			}
			if end == len(lines) {
				return nil, &lineError{number, fmt.Errorf("<%s> has no </%s>", name, name)}
			}
			content := strings.Join(lines[i+1:end], "\n") + "\n"
			out = append(out, directive{line: number, name: name, content: content, inline: true})
			i = end
			continue
		}
		words, err := splitWords(trimmed)
		if err != nil {
			return nil, &lineError{number, err}
		}
		if len(words) > 0 {
			name := strings.TrimPrefix(words[0], "--")
			out = append(out, directive{line: number, name: name, args: words[1:]})
		}
	}
	return out, nil
}

func blockName(line string) (string, bool) {
	if len(line) < 3 || line[0] != '<' || line[1] == '/' || line[len(line)-1] != '>' {
		return "", false
	}
	return line[1 : len(line)-1], true
}

// splitWords splits a line by OpenVPN's rules: quotes of both kinds, backslash escapes outside single quotes, and a
// comment where a word would start with # or ;.
func splitWords(line string) ([]string, error) {
	var words []string
	var word strings.Builder
	const none = 0
	quote, inWord := byte(none), false
	for i := 0; i < len(line); i++ {
		c := line[i]
		switch {
		case c == '\\' && quote != '\'':
			if i++; i == len(line) {
				return nil, fmt.Errorf("a backslash ends the line")
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
		return nil, fmt.Errorf("a quote is not closed")
	}
	if inWord {
		words = append(words, word.String())
	}
	return words, nil
}
