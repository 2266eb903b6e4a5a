package blocklist

import (
	"embed"
	"io"
	"slices"
	"strings"
)

// The starter lists are short lists of well-known names, so that a category works before any list is fetched.
//
//go:embed starter/*.txt
var starterFiles embed.FS

// Starter returns the built-in list of a category in the Domains format, and false if there is none.
func Starter(category string) (io.Reader, bool) {
	f, err := starterFiles.Open("starter/" + category + ".txt")
	if err != nil {
		return nil, false
	}
	return f, true
}

// StarterCategories returns the categories that have a built-in list, sorted.
func StarterCategories() []string {
	files, _ := starterFiles.ReadDir("starter") // embedded: cannot fail
	var names []string
	for _, f := range files {
		names = append(names, strings.TrimSuffix(f.Name(), ".txt"))
	}
	slices.Sort(names)
	return names
}
