package decisions

import (
	"fmt"
	"strings"
)

// around is how many lines a diff shows around what differs.
const around = 3

// diff returns what differs between two texts as a unified diff with one hunk; "" if nothing does.
func diff(path, old, text string) string {
	if old == text {
		return ""
	}
	a, b := lines(old), lines(text)
	same := 0
	for same < len(a) && same < len(b) && a[same] == b[same] {
		same++
	}
	tail := 0
	for tail < len(a)-same && tail < len(b)-same && a[len(a)-1-tail] == b[len(b)-1-tail] {
		tail++
	}
	from, after := max(0, same-around), min(tail, around)
	before := path
	if old == "" {
		before = "/dev/null"
	}
	var out strings.Builder
	fmt.Fprintf(&out, "--- %s\n+++ %s\n@@ -%s +%s @@\n", before, path, span(from, len(a)-tail+after), span(from, len(b)-tail+after))
	show := func(mark string, list []string) {
		for _, l := range list {
			out.WriteString(mark + l)
			if !strings.HasSuffix(l, "\n") {
				out.WriteString("\n\\ No newline at end of file\n")
			}
		}
	}
	show(" ", a[from:same])
	show("-", a[same:len(a)-tail])
	show("+", b[same:len(b)-tail])
	show(" ", a[len(a)-tail:len(a)-tail+after])
	return out.String()
}

// span writes the lines from one to another, counted from 0, as a hunk does.
func span(from, to int) string {
	if from == to {
		return fmt.Sprintf("%d,0", from)
	}
	return fmt.Sprintf("%d,%d", from+1, to-from)
}

func lines(text string) []string {
	list := strings.SplitAfter(text, "\n")
	if list[len(list)-1] == "" {
		list = list[:len(list)-1]
	}
	return list
}
