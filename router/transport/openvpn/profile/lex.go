package profile

import (
	"fmt"
	"strings"

	"penstock/router/transport/openvpn/internal/text"
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

func (d directive) arg(i int) string {
	if i < len(d.args) {
		return d.args[i]
	}
	return ""
}

func lex(content string) ([]directive, error) {
	lines := strings.Split(strings.TrimPrefix(content, "\ufeff"), "\n")
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
		words, err := text.Split(trimmed)
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
