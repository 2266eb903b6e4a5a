// Package manual writes man pages, in the roff of man(7).
//
// It does not know what is documented: commands hand it their texts, and FromMarkdown reads a file of docs.
package manual

import (
	"bytes"
	"fmt"
	"strings"
	"time"
)

// Page is one man page in the making.
type Page struct {
	b bytes.Buffer
}

// Title is the head of a page.
type Title struct {
	Name    string    // penstock-run
	Section int       // 1
	About   string    // what stands behind the name in its first section and in apropos
	Version string    // of penstock
	Date    time.Time // zero: none is printed
}

// New begins a page.
func New(t Title) *Page {
	p := new(Page)
	date := ""
	if !t.Date.IsZero() {
		date = t.Date.UTC().Format(time.DateOnly)
	}
	fmt.Fprintf(&p.b, ".TH %s %d %s %s %s\n", quote(strings.ToUpper(t.Name)), t.Section, quote(date), quote("penstock "+t.Version), quote("penstock manual"))
	p.b.WriteString(".nh\n.ad l\n") // names of commands stay whole
	p.Section("NAME")
	fmt.Fprintf(&p.b, "%s \\- %s\n", escape(t.Name), escape(t.About))
	return p
}

// Bytes is the page.
func (p *Page) Bytes() []byte { return p.b.Bytes() }

// Section begins a section, and Subsection one below it.
func (p *Page) Section(name string) { fmt.Fprintf(&p.b, ".SH %s\n", quote(name)) }

// Subsection begins a section below a section.
func (p *Page) Subsection(name string) { fmt.Fprintf(&p.b, ".SS %s\n", quote(name)) }

// Text adds paragraphs, which empty lines part. Lines that begin with white space stay as they are.
func (p *Page) Text(text string) {
	for paragraph := range strings.SplitSeq(strings.Trim(text, "\n"), "\n\n") {
		p.b.WriteString(".PP\n")
		asIs := false
		for line := range strings.SplitSeq(paragraph, "\n") {
			if indented := strings.HasPrefix(line, " ") || strings.HasPrefix(line, "\t"); indented != asIs {
				p.b.WriteString(map[bool]string{true: ".RS\n.nf\n", false: ".fi\n.RE\n"}[indented])
				asIs = indented
			}
			p.line(escape(strings.TrimPrefix(strings.TrimRight(line, " \t"), "    ")))
		}
		if asIs {
			p.b.WriteString(".fi\n.RE\n")
		}
	}
}

// Usage adds a line of a synopsis: the command in bold, and what stands behind it.
func (p *Page) Usage(command, behind string) {
	fmt.Fprintf(&p.b, ".PP\n\\fB%s\\fR %s\n", escape(command), escape(behind))
}

// Term adds an entry of a list. The term is already roff: see Bold and Italic.
func (p *Page) Term(term, text string) {
	p.b.WriteString(".TP\n")
	p.line(term)
	p.line(escape(text))
}

// Roff adds a paragraph that is roff already.
func (p *Page) Roff(roff string) { p.b.WriteString(".PP\n" + roff + "\n") }

// line adds a line of text. A dot or an apostrophe at its beginning would be a request.
func (p *Page) line(roff string) {
	if strings.HasPrefix(roff, ".") || strings.HasPrefix(roff, "'") {
		roff = `\&` + roff
	}
	p.b.WriteString(roff + "\n")
}

// Bold is text in bold, as roff.
func Bold(text string) string { return `\fB` + escape(text) + `\fR` }

// Italic is text in italics, as roff.
func Italic(text string) string { return `\fI` + escape(text) + `\fR` }

// escape makes roff of plain text. A hyphen is a minus, so that options can be copied from a terminal.
func escape(text string) string {
	return strings.NewReplacer(`\`, `\e`, "-", `\-`, "^", `\(ha`, "~", `\(ti`, "`", `\(ga`, "'", `\(aq`, "\n", " ").Replace(text)
}

// quote makes one argument of a request.
func quote(text string) string { return `"` + strings.ReplaceAll(escape(text), `"`, `\(dq`) + `"` }
