package main

import (
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestCommandsInTheDocsAreRight: each command line of a code block names a command, its flags, and as many arguments as it takes.
func TestCommandsInTheDocsAreRight(t *testing.T) {
	files, err := filepath.Glob("../../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, file := range append(files, "../../README.md") {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, line := range commandsIn(string(text)) {
			found++
			if err := parses(line); err != nil {
				t.Errorf("%s: %q: %v", file, line, err)
			}
		}
	}
	if found < 30 {
		t.Errorf("got %d commands, want those of all pages", found)
	}
}

// commandsIn returns the lines of code blocks that run penstock, from its name on.
func commandsIn(text string) []string {
	var list []string
	fenced := false
	command := regexp.MustCompile(`^(?:\$ |# )?(?:sudo )?(?:go run \./cmd/)?penstock ([a-z].*)$`)
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\n")
		if strings.HasPrefix(line, "```") {
			fenced = !fenced
			continue
		}
		if !fenced && !strings.HasPrefix(line, "    ") {
			continue
		}
		if m := command.FindStringSubmatch(strings.TrimSpace(line)); m != nil {
			list = append(list, m[1])
		}
	}
	return list
}

// parses says what is wrong with a command line, up to the first thing that a shell would do with it.
func parses(line string) error {
	line, _, _ = strings.Cut(line, " #")
	for _, end := range []string{" | ", " > ", " && ", "; "} {
		line, _, _ = strings.Cut(line, end)
	}
	words := strings.Fields(strings.NewReplacer(`"`, "", "'", "").Replace(line))
	root := newRootCommand(&env{stdin: strings.NewReader(""), stdout: io.Discard, stderr: io.Discard, getenv: func(string) string { return "" }})
	cmd, rest, err := root.Find(words)
	if err != nil {
		return err
	}
	if err := cmd.ParseFlags(rest); err != nil {
		return err
	}
	return cmd.ValidateArgs(cmd.Flags().Args())
}
