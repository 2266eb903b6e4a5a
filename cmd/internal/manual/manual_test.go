package manual

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestPage(t *testing.T) {
	p := New(Title{Name: "penstock-run", Section: 1, About: "run it", Version: "1.2", Date: time.Unix(0, 0)})
	p.Section("DESCRIPTION")
	p.Text("One\n.two\n\n    as it is\n\nthree \\ 'four'")
	p.Term(Bold("-c")+" "+Italic("FILE"), "The file.")
	want := `.TH "PENSTOCK\-RUN" 1 "1970\-01\-01" "penstock 1.2" "penstock manual"
.nh
.ad l
.SH "NAME"
penstock\-run \- run it
.SH "DESCRIPTION"
.PP
One
\&.two
.PP
.RS
.nf
as it is
.fi
.RE
.PP
three \e \(aqfour\(aq
.TP
\fB\-c\fR \fIFILE\fR
The file.
`
	if got := string(p.Bytes()); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestFromMarkdown(t *testing.T) {
	const text = "# Title\n\nA `key` and [a link](x.md) in\n**bold**.\n\n## `dns`\n\n| key | value | default | meaning |\n|---|---|---|---|\n" +
		"| `a` | `x`, `y` | `x` | What \\| how |\n| `b` | a path |  | Else. |\n\n- one\n\n```sh\n.run\n```\n"
	got := string(FromMarkdown(Title{Name: "x.yaml", Section: 5, About: "files", Version: "1"}, text).Bytes())
	_, got, _ = strings.Cut(got, "files\n")
	want := `.SH "DESCRIPTION"
.PP
A \fBkey\fR and a link in \fBbold\fR.
.SH "dns"
.TP
\fBa\fR  (\fBx\fR, \fBy\fR; default \fBx\fR)
What | how
.TP
\fBb\fR  (a path)
Else.
.IP \(bu 2
one
.PP
.RS
.nf
\&.run
.fi
.RE
`
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// TestReferenceIsWhole wants every key of the reference in the page.
func TestReferenceIsWhole(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("..", "..", "..", "docs", "configuration.md"))
	if err != nil {
		t.Fatal(err)
	}
	page := string(FromMarkdown(Title{Name: "penstock.yaml", Section: 5, About: "configuration"}, string(text)).Bytes())
	keys := 0
	for line := range strings.SplitSeq(string(text), "\n") {
		if !strings.HasPrefix(line, "| `") {
			continue
		}
		keys++
		if term := Bold(strings.Split(line, "`")[1]); !strings.Contains(page, ".TP\n"+term) {
			t.Errorf("the page has no entry %s", term)
		}
	}
	if keys < 100 {
		t.Errorf("the reference has %d keys, want all of them", keys)
	}
	if strings.Contains(page, "](") || strings.Contains(page, "`") {
		t.Error("the page has markdown left")
	}
}
