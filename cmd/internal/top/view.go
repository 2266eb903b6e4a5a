package top

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	tea "charm.land/bubbletea/v2"
	"github.com/charmbracelet/x/ansi"

	"penstock/cmd/internal/control"
	"penstock/cmd/internal/show"
)

// mood is how a line looks.
type mood int

const (
	usual mood = iota
	faint
	good
	warn
	bad
	heading
	marked // the selected row
)

// theme paints lines.
type theme struct{ colours bool }

func (t theme) paint(m mood, line string) string {
	style := ansi.NewStyle()
	switch {
	case m == heading:
		style = style.Bold()
	case m == marked:
		style = style.Reverse(true)
	case m == usual || !t.colours:
		return line
	case m == faint:
		style = style.Faint()
	case m == good:
		style = style.Bold().ForegroundColor(ansi.Green)
	case m == warn:
		style = style.Bold().ForegroundColor(ansi.Yellow)
	case m == bad:
		style = style.ForegroundColor(ansi.Red)
	}
	return style.Styled(line)
}

// line is one of the screen.
type line struct {
	text string
	mood mood
}

// The smallest terminal that the view fits in.
const (
	leastWidth  = 24
	leastHeight = 8
)

// drawing is a model that is drawn.
type drawing struct{ *model }

// View draws everything. What it returns has as many lines as the terminal, each as wide.
func (m *model) View() tea.View {
	d := drawing{m}
	lines := d.lines()
	var b strings.Builder
	for i := range m.height {
		l := line{}
		if i < len(lines) {
			l = lines[i]
		}
		if i > 0 {
			b.WriteByte('\n')
		}
		b.WriteString(m.theme.paint(l.mood, d.fit(d.asASCII(l.text), m.width, false, false)))
	}
	v := tea.NewView(b.String())
	v.AltScreen = true
	return v
}

// asASCII replaces what the terminal cannot show.
func (m drawing) asASCII(s string) string {
	if !m.config.ASCII {
		return s
	}
	return strings.Map(func(r rune) rune {
		if r < 0x7f {
			return r
		}
		return '?'
	}, s)
}

// fit makes a text exactly as wide as wanted.
func (m drawing) fit(s string, width int, right, cutLeft bool) string {
	more := "…"
	if m.config.ASCII {
		more = "~"
	}
	switch have := ansi.StringWidth(s); {
	case have > width && cutLeft:
		s = ansi.TruncateLeft(s, have-width+1, more)
	case have > width:
		s = ansi.Truncate(s, width, more)
	}
	space := strings.Repeat(" ", max(width-ansi.StringWidth(s), 0))
	if right {
		return space + s
	}
	return s + space
}

func (m drawing) lines() []line {
	if m.width < leastWidth || m.height < leastHeight {
		return []line{{fmt.Sprintf("%d x %d is too", m.width, m.height), usual}, {"small: q quits", usual}}
	}
	head := m.head()
	body := m.height - len(head) - 1
	var lines []line
	switch {
	case m.detail != nil:
		lines = m.detailLines(body)
	case m.known:
		lines = m.tableLines(body)
	}
	if m.err != nil {
		for i := range lines {
			lines[i].mood = faint
		}
	}
	lines = append(head, lines...)
	for len(lines) < m.height-1 {
		lines = append(lines, line{})
	}
	return append(lines[:m.height-1], m.foot())
}

// head is the state, the transports and the sparklines.
func (m drawing) head() []line {
	lines := m.stateLines()
	if !m.known {
		return lines
	}
	if m.err != nil {
		return append(lines, line{"this is how it was at " + m.at.Local().Format(time.TimeOnly) + ":", usual})
	}
	s := m.last.status
	up := fmt.Sprintf("up %s, %s, %d flows, %d forwarded, %d denied",
		show.Age(m.at.Sub(s.Started)), s.Version, s.Flows.Active, s.Flows.Forwarded, s.Flows.Denied)
	if n := s.Peers; n != nil {
		up += fmt.Sprintf(", %d peers in use", n.Active)
	}
	if m.height >= 20 {
		lines = append(lines, line{up, usual})
	}
	if s.ReloadError != "" {
		lines = append(lines, line{"the last reload was refused: " + s.ReloadError, bad})
	}
	room := max(1, (m.height-12)/4)
	for i, t := range s.Transports {
		if i == room-1 && len(s.Transports) > room {
			lines = append(lines, line{fmt.Sprintf("and %d other transports: penstock status", len(s.Transports)-i), faint})
			break
		}
		lines = append(lines, m.transportLine(t))
	}
	return append(lines, m.sparkLine())
}

// stateLines is one line of state with its reason. Where it does not fit, it takes a second.
func (m drawing) stateLines() []line {
	text, mood := "asking penstock", usual
	switch {
	case errors.Is(m.err, control.ErrNotRunning):
		text, mood = "penstock is not running: waiting", bad
	case m.err != nil:
		text, mood = show.Printable(m.err.Error()), bad
	case m.known:
		text, mood = m.last.status.Verdict, stateMood(m.last.status.State, m.last.status.Degraded)
	}
	if ansi.StringWidth(text) <= m.width {
		return []line{{text, mood}}
	}
	first, rest, _ := strings.Cut(ansi.Wrap(text, m.width, ""), "\n")
	return []line{{first, mood}, {strings.ReplaceAll(rest, "\n", " "), mood}}
}

func stateMood(state string, degraded bool) mood {
	switch {
	case state == "connected" && !degraded:
		return good
	case state == "down" || state == "blocked" || state == "offline":
		return bad
	}
	return warn
}

func (m drawing) transportLine(t control.TransportStatus) line {
	state := t.State
	switch {
	case t.Active != "":
		state += " via " + t.Active
	case t.Degraded:
		state += ", degraded"
	}
	if t.Reason != "" {
		state += " (" + t.Reason + ")"
	}
	if t.SignIn != "" {
		state += ": sign in with penstock login " + t.Name
	} else if t.Error != "" {
		state += ": " + t.Error
	}
	mood := stateMood(t.State, t.Degraded)
	if mood == good {
		mood = usual
	}
	rates := ""
	if rx, tx, ok := m.transports.rate(t.Name); ok && t.Kind != "failover" && (t.State == "connected" || rx+tx > 0) {
		rates = fmt.Sprintf("down %s  up %s", rateText(rx), rateText(tx))
		if m.width < 60 {
			rates = rateText(rx + tx)
		}
	}
	name := m.fit(t.Name, min(10, m.width/4), false, false)
	return line{name + " " + m.fit(state, m.width-ansi.StringWidth(name)-ansi.StringWidth(rates)-2, false, false) + " " + rates, mood}
}

// sparkLine is the last two minutes.
func (m drawing) sparkLine() line {
	width := m.width/2 - 1
	part := func(label string, s series, now string) string {
		cells := min(max(width-len(label)-13, 6), 40)
		return m.fit(label+" "+spark(s.rates(cells), m.config.ASCII)+" "+now, width, false, false)
	}
	traffic := rateText(m.traffic.grown(5*m.config.Every) / 5 / m.config.Every.Seconds())
	if m.width < 60 {
		width = m.width
		return line{part("traffic", m.traffic, traffic), usual}
	}
	blocked := fmt.Sprintf("%.0f/min", m.blocks.grown(time.Minute))
	return line{part("traffic", m.traffic, traffic) + "  " + part("blocked", m.blocks, blocked), usual}
}

func (m drawing) tableLines(height int) []line {
	c := m.table()
	lines := []line{m.tabLine(c)}
	below := m.panelLines(height)
	room := height - 2 - len(below)
	shown := m.layout(c.columns, m.width-1)
	cells := func(text func(i int) string) string {
		var b strings.Builder
		for n, at := range shown {
			if n > 0 {
				b.WriteByte(' ')
			}
			col := c.columns[at.column]
			b.WriteString(m.fit(text(at.column), at.width, col.right, col.left))
		}
		return b.String()
	}
	lines = append(lines, line{" " + cells(func(i int) string { return c.columns[i].head }), heading})
	if len(c.rows) == 0 {
		lines = append(lines, line{" " + c.none, faint})
	}
	at := m.index(c.rows)
	first := min(max(0, at-room/2), max(0, len(c.rows)-room))
	for i := first; i < len(c.rows) && i < first+room; i++ {
		r := c.rows[i]
		l := line{" " + cells(func(n int) string { return show.Printable(orDash(r.cells[n])) }), r.mood}
		if i == at {
			l = line{">" + l.text[1:], marked}
		}
		lines = append(lines, l)
	}
	for len(lines) < height-len(below) {
		lines = append(lines, line{})
	}
	return append(lines, below...)
}

// placed is a column that fits.
type placed struct{ column, width int }

// layout chooses the columns that fit.
func (m drawing) layout(columns []column, width int) []placed {
	const leastFlexible = 14
	dropped := make([]bool, len(columns))
	for {
		used, worst := 0, -1
		for i, c := range columns {
			if dropped[i] {
				continue
			}
			used += 1 + c.width
			if c.width == 0 {
				used += leastFlexible
			}
			if c.drop > 0 && (worst < 0 || c.drop > columns[worst].drop) {
				worst = i
			}
		}
		if used-1 <= width || worst < 0 {
			var list []placed
			for i, c := range columns {
				if dropped[i] {
					continue
				}
				w := c.width
				if w == 0 {
					w = max(leastFlexible+width-(used-1), 1)
				}
				list = append(list, placed{i, w})
			}
			return list
		}
		dropped[worst] = true
	}
}

func (m drawing) tabLine(c contents) line {
	third := "clients"
	if m.last.status.Peers != nil {
		third = "peers"
	}
	var b strings.Builder
	for i, name := range []string{"flows", "blocked", third, "rules"} {
		text := fmt.Sprintf(" %d %s ", i+1, name)
		if tab(i) == m.tab {
			text = fmt.Sprintf("[%d %s]", i+1, name)
		}
		b.WriteString(text)
	}
	if m.tab == tabFlows {
		b.WriteString("  by " + m.order.String())
	}
	if m.filter != "" && !m.typing {
		b.WriteString("  with " + m.filter)
	}
	if c.note != "" {
		b.WriteString("  " + c.note)
	}
	return line{b.String(), usual}
}

// panelLines are the flows that were blocked last, where there is room for them below the live ones.
func (m drawing) panelLines(height int) []line {
	if m.tab != tabFlows || height < 26 {
		return nil
	}
	c := m.blockedTable(panel)
	shown := m.layout(c.columns, m.width-1)
	lines := []line{{}, {" blocked just now", heading}}
	if len(c.rows) == 0 {
		lines = append(lines, line{" " + c.none, faint})
	}
	for _, r := range c.rows {
		text := ""
		for _, at := range shown {
			text += " " + m.fit(orDash(r.cells[at.column]), at.width, false, c.columns[at.column].left)
		}
		lines = append(lines, line{text, bad})
	}
	return lines
}

// detailLines are one thing, whole.
func (m drawing) detailLines(height int) []line {
	d := m.detail
	lines := []line{{d.title, heading}}
	text := slices.Clone(d.lines)
	if d.asked {
		text = append(text, "asking why")
	}
	var wrapped []string
	for _, l := range text {
		wrapped = append(wrapped, strings.Split(ansi.Wrap(l, m.width, ""), "\n")...)
	}
	d.scroll = min(max(d.scroll, 0), max(0, len(wrapped)-(height-1)))
	for _, l := range wrapped[d.scroll:] {
		lines = append(lines, line{l, usual})
	}
	return lines[:min(len(lines), height)]
}

// foot is the last line: a question, the filter, a message, or the keys.
func (m drawing) foot() line {
	switch {
	case m.confirm != nil:
		const keys = "  y/n"
		return line{m.fit(m.confirm.prompt, min(ansi.StringWidth(m.confirm.prompt), m.width-len(keys)), false, false) + keys, warn}
	case m.typing:
		return line{"/" + m.filter + "_", heading}
	case m.message != "":
		return line{m.message, heading}
	case m.detail != nil:
		return line{m.keys("Esc back", "a allow 1 h", "k end flow", "q quit"), faint}
	case m.tab > tabBlocked:
		return line{m.keys("q quit", "/ filter", "Enter details", "Tab next", "r reconnect"), faint}
	case m.tab == tabBlocked:
		return line{m.keys("q quit", "/ filter", "Enter why", "a allow 1 h", "Tab next"), faint}
	}
	return line{m.keys("q quit", "/ filter", "Enter why", "k end flow", "s sort", "Tab next", "r reconnect"), faint}
}

// keys joins as many as fit.
func (m drawing) keys(list ...string) string {
	text := ""
	for _, k := range list {
		if len(text)+len(k)+2 > m.width {
			break
		}
		text += k + "  "
	}
	return text
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
