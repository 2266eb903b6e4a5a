package config

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"
)

// FuzzLoad reads any text as a configuration. It must not crash, and what is wrong must be said with a place.
func FuzzLoad(f *testing.F) {
	f.Add([]byte(full))
	f.Add([]byte(odd))
	archives, err := filepath.Glob("testdata/bad/*.txtar")
	if err != nil {
		f.Fatal(err)
	}
	for _, path := range archives {
		archive, err := txtar.ParseFile(path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(archive.Files[0].Data)
	}
	dir := f.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "hq.conf"), []byte(profileText), 0o600); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		c, err := Parse(filepath.Join(dir, "config.yaml"), text)
		if err == nil {
			if again := c.Validate(); again != nil {
				t.Errorf("Parse took what Validate refuses: %v", again)
			}
			again, err := Parse(c.Path, []byte(NewShow(c).String()))
			if err != nil && !strings.Contains(err.Error(), "is hidden") || err == nil && !cmp.Equal(c, again, sameShown) {
				t.Errorf("what is shown is another configuration: %v\n%s\n%s", err, NewShow(c), cmp.Diff(c, again, sameShown))
			}
			return
		}
		var faults *Error
		if !errors.As(err, &faults) || len(faults.Faults) == 0 {
			t.Fatalf("got %v, want an *Error with faults", err)
		}
		for _, fault := range faults.Faults {
			if fault.Message == "" || fault.Pos.File == "" {
				t.Errorf("got a fault without message or place: %+v", fault)
			}
		}
	})
}
