package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// before is what may stand before a command: a prompt, or who runs it.
var before = regexp.MustCompile(`^(\$ |sudo |(podman|docker) exec [a-z]+ )`)

// inline finds commands in the text of a page.
var inline = regexp.MustCompile("`((sudo |(podman|docker) exec [a-z]+ )?penstock\\s[^`]+)`")

// shown returns the commands of penstock in the blocks of a page, by their line, as a shell would split them.
func shown(page string) map[int][]string {
	commands, fenced := make(map[int][]string), false
	for i, line := range strings.Split(page, "\n") {
		if strings.HasPrefix(line, "```") {
			fenced = !fenced
			continue
		}
		line, indented := strings.CutPrefix(line, "    ")
		if !fenced && !indented {
			continue
		}
		if words := split(before.ReplaceAllString(strings.TrimSpace(line), "")); len(words) > 0 && words[0] == "penstock" {
			commands[i+1] = words[1:]
		}
	}
	return commands
}

// split splits the first command of a line into words. A pipe, a redirection or a comment ends it.
func split(line string) (words []string) {
	var word strings.Builder
	var quote rune
	begun := false
	for _, c := range line + " " {
		switch {
		case quote != 0 && c == quote:
			quote = 0
		case quote != 0:
			word.WriteRune(c)
		case c == '\'' || c == '"':
			quote, begun = c, true
		case c == ' ' && begun:
			words = append(words, word.String())
			word.Reset()
			begun = false
		case c == ' ':
		case strings.ContainsRune("|>;&", c), c == '#' && !begun:
			return words
		default:
			word.WriteRune(c)
			begun = true
		}
	}
	return words
}

// understood says why the command line would be refused before anything is done.
func understood(args []string) error {
	root := newRootCommand(&env{stdout: new(bytes.Buffer), stderr: new(bytes.Buffer), getenv: func(string) string { return "" }})
	root.InitDefaultCompletionCmd(args...)
	cmd, rest, err := root.Find(args)
	if err != nil {
		return err
	}
	if err := cmd.ParseFlags(rest); err != nil {
		return err
	}
	rest = cmd.Flags().Args()
	if cmd.HasSubCommands() && len(rest) > 0 {
		return fmt.Errorf("%s has no command %q", cmd.CommandPath(), rest[0])
	}
	return errors.Join(cmd.ValidateArgs(rest), cmd.ValidateRequiredFlags(), cmd.ValidateFlagGroups())
}

func TestEachCommandOfThePagesIsOne(t *testing.T) {
	pages, err := filepath.Glob(filepath.Join("..", "..", "docs", "*.md"))
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, page := range append(pages, filepath.Join("..", "..", "README.md")) {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		commands := shown(string(text)) // and those in the text, by their negative line
		for _, m := range inline.FindAllSubmatchIndex(text, -1) {
			line := 1 + bytes.Count(text[:m[0]], []byte("\n"))
			commands[-line] = split(before.ReplaceAllString(strings.Join(strings.Fields(string(text[m[2]:m[3]])), " "), ""))[1:]
		}
		for line, args := range commands {
			found++
			err := understood(args)
			if line < 0 && err != nil && strings.Contains(err.Error(), "an argument is missing") {
				continue // the text names a command
			}
			if err != nil {
				t.Errorf("%s:%d: penstock %s: %v", filepath.Base(page), max(line, -line), strings.Join(args, " "), err)
			}
		}
	}
	if found < 100 {
		t.Errorf("the pages have %d commands, want more: are their blocks read?", found)
	}
}

func TestAWrongCommandOfAPageIsFound(t *testing.T) {
	for line, want := range map[string]string{
		"penstock status": "",
		"sudo penstock allow shop.example --for 10m   # until then": "",
		"$ penstock join 'https://vpn.example:8443/join#a b' > l":   "",
		"penstock lists | grep x | penstock nothing":                "",
		"penstock statuss":                     "no command",
		"penstock peer ad ana":                 "no command",
		"penstock peer rm":                     "an argument is missing",
		"penstock explain a.example b.example": "one argument too many",
		"penstock flows --denyed":              "unknown flag",
		"penstock pause 5m --peer":             "needs an argument",
	} {
		commands := shown("text\n\n    " + line + "\n")
		args, ok := commands[3]
		if err := understood(args); !ok || (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %q, %v, want %q", line, args, err, want)
		}
	}
	if got := shown("penstock status\n\n```sh\n  penstock top\n```\n"); len(got) != 1 {
		t.Errorf("got %v, want only what is in the block", got)
	}
}
