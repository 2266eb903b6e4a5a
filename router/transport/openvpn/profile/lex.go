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
	lines := strings.Split(content, "\n")
	var out []directive
	for i := 0; i < len(lines); i++ {
		number := i + 1
		words, err := text.Split(lines[i])
		if err != nil {
			return nil, &lineError{number, err}
		}
		if len(words) == 0 {
			continue
		}
		name, ok := blockName(words)
		if !ok {
			out = append(out, directive{line: number, name: strings.TrimPrefix(words[0], "--"), args: words[1:]})
			continue
		}
		end := i + 1
		for end < len(lines) && !strings.HasPrefix(strings.TrimSpace(lines[end]), "</"+name+">") {
			end++
		}
		if end == len(lines) {
			return nil, &lineError{number, fmt.Errorf("<%s> has no </%s>", name, name)}
		}
		out = append(out, directive{line: number, name: name, content: strings.Join(lines[i+1:end], "\n") + "\n", inline: true})
		i = end
	}
	return out, nil
}

// blockName is the name of the block that a line begins. A comment may follow it.
func blockName(words []string) (string, bool) {
	name, begins := strings.CutPrefix(words[0], "<")
	name, ends := strings.CutSuffix(name, ">")
	return name, len(words) == 1 && begins && ends && name != "" && name[0] != '/'
}
