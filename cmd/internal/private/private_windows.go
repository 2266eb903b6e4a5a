package private

import (
	"io/fs"
	"os"
)

func open(path string) (*os.File, error) { return os.Open(path) }

// Owner returns nothing: it does not matter here.
func Owner(fs.FileInfo) string { return "" }

// check passes every file: a mode says nothing about access here.
func check(string, fs.FileInfo) error { return nil }
