package repo

import (
	"io/fs"
	"path/filepath"
	"strings"
	"testing"
)

// walk calls visit with every file that belongs to the repository's text, by its slash-separated path below the root.
// Directories whose name begins with a dot and test data are left out.
func walk(t *testing.T, visit func(path string, d fs.DirEntry)) {
	t.Helper()
	top := root(t)
	err := filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if path != top && (strings.HasPrefix(d.Name(), ".") || d.Name() == "testdata") {
				return fs.SkipDir
			}
			return nil
		}
		rel, err := filepath.Rel(top, path)
		if err != nil {
			return err
		}
		visit(filepath.ToSlash(rel), d)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
