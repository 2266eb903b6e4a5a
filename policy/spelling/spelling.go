// Package spelling finds the word that a misspelt one was meant to be, for error messages.
//
// It does not correct anything.
package spelling

import (
	"slices"
	"strings"

	"github.com/hbollon/go-edlib"
)

// maxWord bounds the words that are compared, bytes: what is longer was not misspelt.
const maxWord = 64

// Nearest returns the known word that takes the fewest edits to reach from word, or "" if none is near: at most a third
// of the letters, and one more, may differ. An insertion, a deletion, a replacement and a swap of neighbours are one edit
// each; case does not count. Of several that are equally near, the first in alphabetical order wins.
func Nearest(word string, known []string) string {
	if len(word) > maxWord {
		return ""
	}
	word = strings.ToLower(word)
	best, limit := "", 1+len(word)/3
	for _, k := range slices.Sorted(slices.Values(known)) {
		if len(k) > maxWord {
			continue
		}
		if d := edlib.OSADamerauLevenshteinDistance(word, strings.ToLower(k)); d <= limit && d < len(k) {
			best, limit = k, d-1
		}
	}
	return best
}
