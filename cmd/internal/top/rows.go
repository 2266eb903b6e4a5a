package top

import (
	"cmp"
	"fmt"
	"net"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"penstock/cmd/internal/control"
	"penstock/cmd/internal/show"
)

// column is one of a table. One of them takes the width that is left.
type column struct {
	head  string
	width int  // 0: what is left
	right bool // aligned so
	left  bool // what does not fit is cut off on the left: the end of a host name says more than its beginning
	drop  int  // the columns with the highest number go first where the terminal is narrow; 0 never goes
}

// row is one of a table.
type row struct {
	key   string // stays the same from look to look
	title string // of its detail
	cells []string
	mood  mood
	flow  *control.Flow   // nil: not a flow
	lines func() []string // of its detail
	find  string          // more that a filter finds
}

// contents is a table.
type contents struct {
	columns []column
	rows    []row
	note    string // what the table leaves out
	none    string // what to say where it is empty
}

// table is what the present tab shows.
func (m *model) table() contents {
	var c contents
	switch m.tab {
	case tabFlows:
		c = m.flowTable(m.order)
	case tabBlocked:
		c = m.blockedTable(mostDeny)
	case tabClients:
		if m.last.status.Peers != nil {
			c = m.peerTable()
		} else {
			c = m.clientTable()
		}
	case tabRules:
		c = m.ruleTable()
	}
	if m.filter != "" {
		want := strings.ToLower(m.filter)
		c.rows = slices.DeleteFunc(c.rows, func(r row) bool {
			return !strings.Contains(strings.ToLower(strings.Join(r.cells, "\n")+"\n"+r.find), want)
		})
		c.none = "nothing has " + strconv.Quote(m.filter) + " in it: Esc shows everything"
	}
	return c
}

func (m *facts) flowTable(by order) contents {
	c := contents{
		columns: []column{
			{head: "TO", left: true}, {head: "FROM", width: 16, drop: 6}, {head: "PROTO", width: 5, drop: 7},
			{head: "VERDICT", width: 10, drop: 1}, {head: "RULE", width: 14, drop: 4}, {head: "RATE", width: 10, right: true},
			{head: "BYTES", width: 8, right: true, drop: 3}, {head: "AGE", width: 6, right: true, drop: 5},
		},
		none: "no flows",
	}
	if active := m.last.status.Flows.Active; len(m.last.flows) >= most && active > len(m.last.flows) {
		c.note = fmt.Sprintf("the newest and the largest of %d", active)
	}
	for _, f := range m.sorted(by) {
		rx, tx := m.flowRate(f)
		r := flowRow(f)
		rate, until := rateText(rx+tx), m.at
		if !f.End.IsZero() {
			rate, until, r.mood = "ended", f.End, faint
		}
		if refused(f) {
			r.mood = bad
		}
		r.cells = []string{target(f), sender(f), f.Proto, show.Verdict(f.Verdict, f.Via), f.Rule, rate,
			show.Bytes(f.RxBytes + f.TxBytes), show.Age(until.Sub(f.Start))}
		c.rows = append(c.rows, r)
	}
	return c
}

func (m *facts) blockedTable(limit int) contents {
	c := contents{
		columns: []column{
			{head: "TIME", width: 8}, {head: "TO", left: true}, {head: "FROM", width: 16, drop: 2}, {head: "PROTO", width: 5, drop: 3},
			{head: "VERDICT", width: 7, drop: 4}, {head: "RULE", width: 22, drop: 1},
		},
		none: "nothing has been blocked",
	}
	for _, f := range slices.Backward(m.last.denied) { // the newest first
		if len(c.rows) == limit {
			break
		}
		r := flowRow(f)
		r.cells = []string{f.Start.Local().Format(time.TimeOnly), target(f), sender(f), f.Proto, f.Verdict, show.Rule(f.Rule, f.Category)}
		c.rows = append(c.rows, r)
	}
	return c
}

func flowRow(f control.Flow) row {
	names := make([]string, 0, len(f.Names))
	for _, n := range f.Names {
		names = append(names, n.Host+" ("+n.Source+")")
	}
	return row{
		key: f.ID, title: "flow " + f.ID, flow: &f,
		find: strings.Join(append([]string{f.Host, f.Dst, f.Src, f.Peer, f.Via, f.Rule, f.Category, f.Program, f.Unit, f.Container}, names...), "\n"),
		lines: func() []string {
			if f.Proto == "dns" {
				return append(labelled("from", client(f), "program", f.Program, "question", f.Host, "verdict", f.Verdict,
					"rule", show.Rule(f.Rule, f.Category), "asked", f.Start.Local().Format(time.DateTime), "reason", f.Reason), "")
			}
			carried, ended := fmt.Sprintf("%s up, %s down", show.Bytes(f.TxBytes), show.Bytes(f.RxBytes)), ""
			if !f.End.IsZero() {
				ended = f.End.Local().Format(time.DateTime)
			}
			return append(labelled("from", client(f), "program", f.Program, "unit", f.Unit, "container", f.Container, "to", f.Dst+" "+f.Proto, "names", strings.Join(names, ", "),
				"verdict", show.Verdict(f.Verdict, f.Via), "rule", show.Rule(f.Rule, f.Category),
				"carried", carried, "how", f.Datapath, "began", f.Start.Local().Format(time.DateTime),
				"ended", ended, "reason", f.Reason), "")
		},
	}
}

// labelled makes lines of labels and texts, and leaves out those without a text.
func labelled(pairs ...string) []string {
	var lines []string
	for i := 0; i+1 < len(pairs); i += 2 {
		if strings.TrimSpace(pairs[i+1]) != "" {
			lines = append(lines, fmt.Sprintf("%-10s %s", pairs[i], pairs[i+1]))
		}
	}
	return lines
}

func (m *facts) peerTable() contents {
	c := contents{
		columns: []column{
			{head: "PEER"}, {head: "STATE", width: 8}, {head: "HANDSHAKE", width: 11, drop: 2},
			{head: "TO IT", width: 10, right: true, drop: 3}, {head: "FROM IT", width: 10, right: true, drop: 4},
			{head: "ADDRESS", width: 18, drop: 6}, {head: "ENDPOINT", width: 24, drop: 7},
		},
		none: "no peers",
	}
	for _, p := range m.last.peers {
		rx, tx, _ := m.peers.rate(p.Name)
		groups := strings.Join(p.Groups, ", ")
		r := row{key: p.Name, title: "peer " + p.Name, find: groups + "\n" + p.User, lines: func() []string {
			carried := fmt.Sprintf("%s from it, %s to it", show.Bytes(p.RxBytes), show.Bytes(p.TxBytes))
			return labelled("addresses", strings.Join(p.Addresses, ", "), "groups", groups, "state", p.State, "key", p.PublicKey,
				"endpoint", p.Endpoint, "user", p.User, "carried", carried, "written in", p.Position)
		}}
		if p.State != "active" {
			r.mood = faint
		}
		address := ""
		if len(p.Addresses) > 0 {
			address = p.Addresses[0]
		}
		r.cells = []string{p.Name, p.State, show.Ago(m.at, p.LastHandshake), rateText(rx), rateText(tx), address, p.Endpoint}
		c.rows = append(c.rows, r)
	}
	slices.SortStableFunc(c.rows, func(a, b row) int { return cmp.Compare(a.mood, b.mood) })
	return c
}

// clientTable counts what each client has of the flows.
func (m *facts) clientTable() contents {
	c := contents{
		columns: []column{
			{head: "CLIENT"}, {head: "FLOWS", width: 6, right: true}, {head: "BLOCKED", width: 8, right: true},
			{head: "RATE", width: 10, right: true}, {head: "BYTES", width: 9, right: true, drop: 1},
		},
		none: "no clients have flows",
	}
	type sum struct {
		name          string
		live, blocked int
		rate          float64
		bytes         uint64
	}
	sums := make(map[string]*sum)
	of := func(f control.Flow) *sum {
		name := client(f)
		if sums[name] == nil {
			sums[name] = &sum{name: name}
		}
		return sums[name]
	}
	for _, f := range m.last.flows {
		s := of(f)
		if f.End.IsZero() {
			s.live++
			rx, tx := m.flowRate(f)
			s.rate += rx + tx
			s.bytes += f.RxBytes + f.TxBytes
		}
	}
	for _, f := range m.last.denied {
		of(f).blocked++
	}
	list := make([]*sum, 0, len(sums))
	for _, s := range sums {
		list = append(list, s)
	}
	slices.SortFunc(list, func(a, b *sum) int {
		return cmp.Or(cmp.Compare(b.rate, a.rate), cmp.Compare(b.live, a.live), cmp.Compare(a.name, b.name))
	})
	for _, s := range list {
		c.rows = append(c.rows, row{
			key: s.name, title: "client " + s.name,
			cells: []string{s.name, strconv.Itoa(s.live), strconv.Itoa(s.blocked), rateText(s.rate), show.Bytes(s.bytes)},
			lines: func() []string {
				return labelled("live flows", strconv.Itoa(s.live), "carried", show.Bytes(s.bytes)+" by them",
					"blocked", fmt.Sprintf("%d of the last %d that were", s.blocked, len(m.last.denied)))
			},
		})
	}
	if active := m.last.status.Flows.Active; len(m.last.flows) >= most && active > len(m.last.flows) {
		c.note = fmt.Sprintf("by %d of %d flows", len(m.last.flows), active)
	}
	return c
}

func (m *facts) ruleTable() contents {
	c := contents{
		columns: []column{
			{head: "RULE", width: 16}, {head: "HITS", width: 8, right: true}, {head: "LAST", width: 11, right: true, drop: 1},
			{head: "DO", width: 12, drop: 2}, {head: "MATCH"},
		},
		none: "no rules",
	}
	for _, r := range m.last.rules {
		hits := strconv.FormatUint(r.Hits, 10)
		one := row{
			key: r.Name, title: "rule " + r.Name, find: r.Position, cells: []string{r.Name, hits, show.Ago(m.at, r.LastHit), r.Do, r.Match},
			lines: func() []string {
				return labelled("match", r.Match, "do", r.Do, "written in", r.Position, "hits", hits, "shadowed by", r.ShadowedBy)
			},
		}
		if r.Hits == 0 {
			one.mood = faint
		}
		c.rows = append(c.rows, one)
	}
	return c
}

func refused(f control.Flow) bool { return f.Verdict == "block" || f.Verdict == "drop" }

// target is where a flow goes, by its name if it has one.
func target(f control.Flow) string {
	addr, port, err := net.SplitHostPort(f.Dst)
	switch {
	case f.Host != "" && (err != nil || f.Proto == "icmp" || f.Proto == "dns"):
		return f.Host
	case f.Host != "":
		return f.Host + ":" + port
	case err == nil && f.Proto == "icmp":
		return addr
	}
	return f.Dst
}

// sender is the peer or, on this machine, the program that sends a flow, or else an address.
func sender(f control.Flow) string {
	if f.Peer == "" && f.Program != "" {
		return path.Base(f.Program)
	}
	return client(f)
}

// client is whose flow it is.
func client(f control.Flow) string {
	if f.Peer != "" {
		return f.Peer
	}
	if addr, _, err := net.SplitHostPort(f.Src); err == nil {
		return addr
	}
	return f.Src
}

// rateText writes bytes per second.
func rateText(rate float64) string {
	if rate < 1 {
		return "-"
	}
	return show.Bytes(uint64(rate)) + "/s"
}
