package top

import (
	"cmp"
	"slices"
	"time"

	"penstock/cmd/internal/control"
	"penstock/cmd/internal/show"
)

// facts are what is known of the running penstock.
type facts struct {
	every      time.Duration // between two looks
	at         time.Time     // of the last look that had an answer
	known      bool          // there was one
	last       snapshot      // the newest of everything
	transports meter
	flows      meter
	peers      meter
	traffic    series
	blocks     series
}

// take keeps an answer. Everything in it is made printable first: names come from strangers.
func (m *facts) take(s snapshot) {
	m.at = s.at
	s.status, s.flows, s.denied = show.Plain(s.status), show.Plain(s.flows), show.Plain(s.denied)
	s.peers, s.rules = show.Plain(s.peers), show.Plain(s.rules)
	for _, c := range s.carried() {
		m.traffic.add(point{c.Time, float64(c.RxBytes + c.TxBytes)})
		m.blocks.add(point{c.Time, float64(c.Denied)})
	}
	m.transports.next(s.at, m.every/2)
	for _, t := range s.status.Transports {
		m.transports.see(t.Name, count{t.RxBytes, t.TxBytes, s.at})
	}
	old := m.last
	m.last, m.known = s, true
	if s.flows != nil {
		m.flows.next(s.at, m.every/2)
		for _, f := range s.flows {
			m.flows.see(f.ID, count{f.RxBytes, f.TxBytes, s.at})
		}
	} else {
		m.last.flows = old.flows
	}
	if s.peers != nil {
		m.peers.next(s.at, m.every/2)
		for _, p := range s.peers {
			m.peers.see(p.Name, count{p.TxBytes, p.RxBytes, s.at}) // seen from the peer
		}
	} else {
		m.last.peers = old.peers
	}
	if s.denied == nil {
		m.last.denied = old.denied
	}
	if s.rules == nil {
		m.last.rules = old.rules
	}
}

// flowRate is the rate of a flow. Of one that has just begun it is the mean.
func (m *facts) flowRate(f control.Flow) (rx, tx float64) {
	if !f.End.IsZero() {
		return 0, 0
	}
	rx, tx, ok := m.flows.rate(f.ID)
	if age := m.at.Sub(f.Start).Seconds(); !ok && age > 0 && age < 2*m.every.Seconds() {
		return float64(f.RxBytes) / age, float64(f.TxBytes) / age
	}
	return rx, tx
}

// sorted returns the flows in the order that the user wants.
func (m *facts) sorted(by order) []control.Flow {
	type ranked struct {
		control.Flow
		rank float64
	}
	list := make([]ranked, 0, len(m.last.flows))
	for _, f := range m.last.flows {
		if isDNS(f) && !f.End.IsZero() {
			continue
		}
		r := ranked{Flow: f}
		switch by {
		case byRate:
			rx, tx := m.flowRate(f)
			r.rank = rx + tx
		case byBytes:
			r.rank = float64(f.RxBytes + f.TxBytes)
		}
		list = append(list, r)
	}
	slices.SortStableFunc(list, func(a, b ranked) int {
		return cmp.Or(cmp.Compare(group(a.Flow), group(b.Flow)), cmp.Compare(b.rank, a.rank), b.Start.Compare(a.Start),
			cmp.Compare(b.ID, a.ID))
	})
	flows := make([]control.Flow, len(list))
	for i, r := range list {
		flows[i] = r.Flow
	}
	return flows
}

// isDNS reports whether a flow is one to our own DNS server. There are many of them, and they say less than what follows them.
func isDNS(f control.Flow) bool { return f.Verdict == "dns" }

// group sorts live flows before questions, and those before flows that have ended.
func group(f control.Flow) int {
	switch {
	case !f.End.IsZero():
		return 2
	case isDNS(f):
		return 1
	}
	return 0
}
