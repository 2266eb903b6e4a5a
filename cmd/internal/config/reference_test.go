package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestReferenceIsCurrent(t *testing.T) {
	want, err := renderReference()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join("..", "..", "..", "docs", "configuration.md")
	if *update {
		if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != want {
		t.Errorf("%s is not what the structs say: run go test ./cmd/internal/config -run Reference -update", path)
	}
}

func TestEveryKeyHasAMeaning(t *testing.T) {
	text, err := renderReference()
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(text) {
		cells := strings.Split(strings.TrimSpace(line), " | ")
		if strings.HasPrefix(line, "| `") && (len(cells) != 4 || strings.Trim(cells[3], " |") == "") {
			t.Errorf("a key has no meaning: %s", line)
		}
	}
}
