package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestUnitsRunRealCommands holds the Exec lines of deploy to the commands and flags that there are.
func TestUnitsRunRealCommands(t *testing.T) {
	units, err := filepath.Glob(filepath.Join("..", "..", "deploy", "*.service"))
	if err != nil || len(units) == 0 {
		t.Fatalf("got %d units %v, want some", len(units), err)
	}
	units = append(units, filepath.Join("..", "..", "deploy", "penstock-notices.desktop"))
	exec := regexp.MustCompile(`(?m)^Exec\w*=/usr/bin/penstock (.+)$`)
	for _, unit := range units {
		text, err := os.ReadFile(unit)
		if err != nil {
			t.Fatal(err)
		}
		lines := exec.FindAllStringSubmatch(string(text), -1)
		if len(lines) == 0 {
			t.Errorf("%s runs nothing", unit)
		}
		for _, line := range lines {
			cmd, args, err := newRootCommand(newEnv()).Find(strings.Fields(line[1]))
			if err != nil || !cmd.HasParent() {
				t.Errorf("%s: %q is no command: %v", unit, line[1], err)
				continue
			}
			if err := cmd.ParseFlags(args); err != nil {
				t.Errorf("%s: %q: %v", unit, line[1], err)
			}
		}
	}
}
