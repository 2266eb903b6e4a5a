package manual

import (
	"regexp"
	"strings"
)

// FromMarkdown makes a page of the markdown that docs are written in: headings, paragraphs, lists, tables, fenced blocks, and in the
// text code, emphasis and links. The first heading is left out, since the page has a name. In a table each row becomes an entry under
// its first cell, and cells behind it but the last get the names of their columns.
func FromMarkdown(t Title, text string) *Page {
	p := New(t)
	m := markdown{page: p}
	seen := false
	for line := range strings.SplitSeq(text, "\n") {
		if !seen && strings.HasPrefix(line, "# ") {
			seen = true
			p.Section("DESCRIPTION")
			continue
		}
		m.line(line)
	}
	m.end()
	return p
}

// markdown is the state of a conversion.
type markdown struct {
	page      *Page
	columns   []string // of the table that the lines are in
	paragraph []string
	fenced    bool
}

func (m *markdown) line(line string) {
	heading := strings.TrimLeft(line, "#")
	level := len(line) - len(heading)
	switch {
	case strings.HasPrefix(line, "```"):
		m.end()
		m.page.b.WriteString(map[bool]string{false: ".PP\n.RS\n.nf\n", true: ".fi\n.RE\n"}[m.fenced])
		m.fenced = !m.fenced
	case m.fenced:
		m.page.line(escape(line))
	case level > 0 && strings.HasPrefix(heading, " "):
		m.end()
		name := plainText(strings.TrimSpace(heading))
		if level > 2 {
			m.page.Subsection(name)
		} else {
			m.page.Section(name)
		}
	case strings.HasPrefix(line, "|"):
		m.row(line)
	case strings.TrimSpace(line) == "":
		m.end()
	case strings.HasPrefix(line, "- "):
		m.end()
		m.page.b.WriteString(".IP \\(bu 2\n")
		m.page.line(inline(line[2:]))
	default:
		m.paragraph = append(m.paragraph, strings.TrimSpace(line))
	}
}

// end ends the paragraph or the table.
func (m *markdown) end() {
	if len(m.paragraph) > 0 {
		m.page.b.WriteString(".PP\n")
		m.page.line(inline(strings.Join(m.paragraph, " ")))
	}
	m.paragraph, m.columns = nil, nil
}

// row makes an entry of a table's row.
func (m *markdown) row(line string) {
	cells := cells(line)
	switch {
	case m.columns == nil:
		m.end()
		m.columns = cells
		return
	case strings.Trim(cells[0], "-: ") == "":
		return // the line under the heads
	}
	var facts []string
	for i := 1; i < len(cells)-1; i++ {
		switch {
		case cells[i] == "":
		case i < len(m.columns) && m.columns[i] != "value" && m.columns[i] != "":
			facts = append(facts, m.columns[i]+" "+cells[i])
		default:
			facts = append(facts, cells[i])
		}
	}
	m.page.b.WriteString(".TP\n")
	term := inline(cells[0])
	if len(facts) > 0 {
		term += "  (" + inline(strings.Join(facts, "; ")) + ")"
	}
	m.page.line(term)
	if len(cells) > 1 {
		m.page.line(inline(cells[len(cells)-1]))
	}
}

// cells splits a row. A bar behind a backslash belongs to its cell.
func cells(line string) []string {
	line = strings.TrimSuffix(strings.TrimPrefix(strings.TrimSpace(line), "|"), "|")
	const bar = "\x00"
	list := strings.Split(strings.ReplaceAll(line, `\|`, bar), "|")
	for i := range list {
		list[i] = strings.TrimSpace(strings.ReplaceAll(list[i], bar, "|"))
	}
	return list
}

// inline makes roff of text with code, emphasis and links.
func inline(text string) string {
	var b strings.Builder
	for i, part := range strings.Split(text, "`") {
		if i%2 == 1 {
			b.WriteString(Bold(part))
			continue
		}
		part = link().ReplaceAllString(part, "$1")
		for j, plain := range strings.Split(part, "**") {
			if j%2 == 1 {
				b.WriteString(Bold(plain))
			} else {
				b.WriteString(escape(plain))
			}
		}
	}
	return b.String()
}

// plainText is text without code marks and links.
func plainText(text string) string {
	return strings.NewReplacer("`", "", "**", "").Replace(link().ReplaceAllString(text, "$1"))
}

func link() *regexp.Regexp { return regexp.MustCompile(`\[([^\]]+)\]\([^)]+\)`) }
