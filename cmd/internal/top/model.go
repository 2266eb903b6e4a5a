package top

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	tea "charm.land/bubbletea/v2"

	"penstock/cmd/internal/control"
	"penstock/cmd/internal/show"
)

// tab is what the table shows.
type tab int

const (
	tabFlows tab = iota
	tabBlocked
	tabClients // the peers of a gateway, or else the clients of the flows
	tabRules
	tabs int = iota
)

// order is what flows are sorted by.
type order int

const (
	byRate order = iota
	byBytes
	byAge
	orders int = iota
)

func (o order) String() string { return [...]string{"rate", "bytes", "age"}[o] }

const (
	panel      = 6                      // how many of the flows blocked last stand below the live ones
	longest    = 60                     // characters of a filter
	settles    = 300 * time.Millisecond // after the last key of a filter penstock is asked
	messageFor = 6 * time.Second        // how long a message stands
)

// tick says that it is time to look again.
type tick struct{ seq int }

// action is something that the user must confirm.
type action struct {
	prompt string // a question
	do     tea.Cmd
}

// detail is one thing, whole.
type detail struct {
	key    string
	title  string
	lines  []string
	flow   *control.Flow // nil: not a flow
	asked  bool          // for the reason, which has not come
	scroll int
}

// model is all that the view knows. It changes in Update alone, and reads no clock.
type model struct {
	config Config
	poller *poller
	theme  theme

	width, height int
	seq           int
	tab           tab
	order         order
	filter        string
	typing        bool
	selected      [tabs]string // keys of rows; empty: the first
	confirm       *action
	detail        *detail
	message       string
	messageUntil  time.Time

	now time.Time // of the last look
	err error     // of the last look
	facts
}

func newModel(c Config, p *poller) *model {
	return &model{config: c, poller: p, theme: theme{c.Colours}, facts: facts{every: c.Every}, width: 80, height: 24}
}

// Init looks for the first time.
func (m *model) Init() tea.Cmd { return m.poller.look(m.question()) }

func (m *model) question() question { return question{m.seq, m.tab, m.filter} }

// again looks anew after a time. Looks that are under way or planned are forgotten.
func (m *model) again(after time.Duration) tea.Cmd {
	m.seq++
	if after <= 0 {
		return m.poller.look(m.question())
	}
	seq := m.seq
	return tea.Tick(after, func(time.Time) tea.Msg { return tick{seq} })
}

// Update takes what has happened.
func (m *model) Update(msg tea.Msg) (tea.Model, tea.Cmd) {
	switch msg := msg.(type) {
	case tea.WindowSizeMsg:
		m.width, m.height = msg.Width, msg.Height
	case tick:
		if msg.seq == m.seq {
			return m, m.poller.look(m.question())
		}
	case snapshot:
		if msg.seq == m.seq {
			m.take(msg)
			return m, m.again(m.config.Every)
		}
	case told:
		text := msg.text
		if msg.err != nil {
			text = msg.err.Error()
		}
		m.say(text)
		return m, m.again(0)
	case because:
		if m.detail != nil && m.detail.key == msg.key {
			m.detail.asked = false
			for _, line := range strings.Split(strings.TrimRight(msg.text, "\n"), "\n") {
				m.detail.lines = append(m.detail.lines, show.Printable(line))
			}
		}
	case tea.PasteMsg:
		if m.typing {
			return m, m.typed(msg.Content)
		}
	case tea.KeyPressMsg:
		return m, m.press(msg)
	}
	return m, nil
}

// say shows a message for a while.
func (m *model) say(text string) {
	m.message, m.messageUntil = show.Printable(text), m.now.Add(messageFor)
}

// take keeps an answer, or why there is none.
func (m *model) take(s snapshot) {
	m.now, m.err = s.at, s.err
	if s.at.After(m.messageUntil) {
		m.message = ""
	}
	if s.err != nil {
		return
	}
	m.facts.take(s)
}

// press takes a key.
func (m *model) press(k tea.KeyPressMsg) tea.Cmd {
	key := k.String()
	switch {
	case key == "ctrl+c":
		return tea.Quit
	case m.confirm != nil:
		a := m.confirm
		m.confirm = nil
		if key == "y" || key == "Y" {
			return a.do
		}
		m.say("nothing was changed")
		return nil
	case m.typing:
		return m.edit(key, k.Text)
	case key == "q":
		return tea.Quit
	case m.detail != nil:
		return m.pressInDetail(key)
	}
	return m.pressInTable(key)
}

// edit takes a key of the filter.
func (m *model) edit(key, text string) tea.Cmd {
	switch key {
	case "enter":
		m.typing = false
		return nil
	case "esc":
		m.typing, m.filter = false, ""
		return m.again(settles)
	case "backspace":
		_, size := utf8.DecodeLastRuneInString(m.filter)
		m.filter = m.filter[:len(m.filter)-size]
		return m.again(settles)
	}
	return m.typed(text)
}

// typed adds to the filter.
func (m *model) typed(text string) tea.Cmd {
	if text == "" {
		return nil
	}
	m.filter += show.Printable(text)
	if r := []rune(m.filter); len(r) > longest {
		m.filter = string(r[:longest])
	}
	m.selected[m.tab] = ""
	return m.again(settles)
}

func (m *model) pressInDetail(key string) tea.Cmd {
	switch key {
	case "esc", "enter", "backspace", "left":
		m.detail = nil
	case "up":
		m.detail.scroll--
	case "down":
		m.detail.scroll++
	case "pgup":
		m.detail.scroll -= m.height / 2
	case "pgdown", "space":
		m.detail.scroll += m.height / 2
	case "home":
		m.detail.scroll = 0
	case "k":
		m.wantKill(m.detail.flow)
	case "a":
		m.wantAllow(m.detail.flow)
	}
	return nil
}

func (m *model) pressInTable(key string) tea.Cmd {
	switch key {
	case "tab", "right":
		return m.turnTo((m.tab + 1) % tab(tabs))
	case "shift+tab", "left":
		return m.turnTo((m.tab + tab(tabs) - 1) % tab(tabs))
	case "1", "2", "3", "4":
		return m.turnTo(tab(key[0] - '1'))
	case "/":
		m.typing = true
	case "esc":
		if m.filter != "" {
			m.filter = ""
			return m.again(settles)
		}
		m.selected[m.tab] = ""
	case "s":
		m.order = (m.order + 1) % order(orders)
	case "up":
		m.move(-1)
	case "down":
		m.move(1)
	case "pgup":
		m.move(-m.height / 2)
	case "pgdown", "space":
		m.move(m.height / 2)
	case "home":
		m.selected[m.tab] = ""
	case "end":
		m.move(1 << 20)
	case "enter":
		return m.open()
	case "k":
		m.wantKill(m.chosen().flow)
	case "a":
		m.wantAllow(m.chosen().flow)
	case "r":
		m.wantReconnect()
	}
	return nil
}

func (m *model) turnTo(t tab) tea.Cmd {
	m.tab = t
	return m.again(0)
}

// move selects another row.
func (m *model) move(by int) {
	rows := m.table().rows
	if len(rows) == 0 {
		return
	}
	i := min(max(m.index(rows)+by, 0), len(rows)-1)
	m.selected[m.tab] = rows[i].key
}

// index is that of the selected row, or 0.
func (m *model) index(rows []row) int {
	return max(0, slices.IndexFunc(rows, func(r row) bool { return r.key == m.selected[m.tab] }))
}

// chosen is the selected row.
func (m *model) chosen() row {
	rows := m.table().rows
	if len(rows) == 0 {
		return row{}
	}
	return rows[m.index(rows)]
}

// open shows the selected row whole, and of a flow why it was judged so.
func (m *model) open() tea.Cmd {
	r := m.chosen()
	if r.key == "" {
		return nil
	}
	m.detail = &detail{key: r.key, title: r.title, lines: r.lines(), flow: r.flow}
	if r.flow == nil {
		return nil
	}
	m.detail.asked = true
	return m.poller.why(*r.flow)
}

// may says whether the user may change anything, and tells if not.
func (m *model) may() bool {
	switch {
	case m.err != nil || !m.known:
		m.say("penstock does not answer")
	case !m.last.mayChange:
		m.say("you may only look: run this with sudo, or as the user who started penstock")
	default:
		return true
	}
	return false
}

func (m *model) wantKill(f *control.Flow) {
	switch {
	case f == nil:
		m.say("select a flow first")
	case f.Proto == "dns" || !f.End.IsZero():
		m.say("this flow is over")
	case m.may():
		id := f.ID
		do := func(ctx context.Context, c *control.Client) error { return c.KillFlow(ctx, id) }
		m.confirm = &action{fmt.Sprintf("End flow %s to %s?", id, cmp.Or(f.Host, f.Dst)), m.poller.do("flow "+id+" has ended", do)}
	}
}

func (m *model) wantAllow(f *control.Flow) {
	switch {
	case f == nil:
		m.say("select a flow first")
	case f.Verdict != "block" && f.Verdict != "drop":
		m.say("this flow is not blocked")
	case f.Host == "":
		m.say("only a name can be allowed, and this flow has none: change rule " + f.Rule)
	case m.may():
		q := control.AllowQuery{Target: f.Host, For: allowFor, Peer: f.Peer}
		whom := ""
		if q.Peer != "" {
			whom = " for " + q.Peer
		}
		do := func(ctx context.Context, c *control.Client) error {
			_, err := control.DecisionClient{Client: c}.Allow(ctx, q)
			return err
		}
		m.confirm = &action{"Allow " + q.Target + whom + " for 1 hour?", m.poller.do(q.Target+" is allowed"+whom+" for 1 hour", do)}
	}
}

func (m *model) wantReconnect() {
	switch {
	case !m.may():
	case len(m.last.status.Transports) == 0:
		m.say("there are no transports")
	default:
		do := func(ctx context.Context, c *control.Client) error { return c.Reconnect(ctx, control.Steer{}) }
		m.confirm = &action{"Begin new sessions of all transports? Flows go on.", m.poller.do("new sessions begin", do)}
	}
}
