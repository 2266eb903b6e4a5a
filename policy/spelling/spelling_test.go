package spelling

import (
	"strings"
	"testing"
)

func TestNearest(t *testing.T) {
	known := []string{"direct", "dns", "transport", "AllowedIPs", "Endpoint"}
	tests := []struct{ name, word, want string }{
		{"a letter is missing", "trnsport", "transport"},
		{"two neighbours are swapped", "dierct", "direct"},
		{"case does not count", "allowedips", "AllowedIPs"},
		{"one letter of a short word differs", "dms", "dns"},
		{"nothing is near", "gateway", ""},
		{"a word with all letters replaced is not near", "xyz", ""},
		{"a word that is far too long is not compared", strings.Repeat("a", 1<<20), ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := Nearest(tt.word, known); got != tt.want {
				t.Errorf("Nearest(%.20q): got %q, want %q", tt.word, got, tt.want)
			}
		})
	}
}

func TestNearestIsTheSameEveryTime(t *testing.T) {
	for _, known := range [][]string{{"bat", "cat", "rat"}, {"rat", "cat", "bat"}} {
		if got := Nearest("hat", known); got != "bat" {
			t.Errorf("Nearest of %q: got %q, want the first in alphabetical order, bat", known, got)
		}
	}
}
