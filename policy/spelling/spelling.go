// Package spelling suggests the known word that a misspelt one probably means, for error messages.
//
// It does not correct anything.
package spelling

import (
	"slices"
	"strings"

	"github.com/hbollon/go-edlib"
)

// maxWord is the longest word that is compared, in bytes. Anything longer is not a typing error.
const maxWord = 64

// Nearest returns the known word that is the fewest edits away from word. It returns "" if every known word is more than
// 1+len(word)/3 edits away. An insertion, a deletion, a replacement and a swap of neighbours are one edit each; case is
// ignored. If several words are equally near, the first in alphabetical order wins.
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
