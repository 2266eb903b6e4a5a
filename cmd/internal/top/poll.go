package top

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	tea "charm.land/bubbletea/v2"

	"penstock/cmd/internal/control"
)

const (
	patience = 10 * time.Second // for one answer
	// most is how many flows one answer may have. Of more live ones the newest and the largest are shown, and a filter finds the
	// others. 500 flows are about 200 KB.
	most     = 500
	mostDeny = 200
	// lingers is how long a flow that has ended is shown: many live shorter than the time between two looks.
	lingers = 10 * time.Second
	// allowFor is how long a name is let through.
	allowFor = time.Hour
)

// question is what one look asks for.
type question struct {
	seq    int // of the model; an answer to an earlier question is too late
	tab    tab
	filter string
}

// snapshot is the answer. Lists that were not asked for are nil.
type snapshot struct {
	question
	at        time.Time
	err       error // if not nil, nothing else is known
	mayChange bool
	status    control.Status
	samples   []control.Sample // nil if this penstock has none
	flows     []control.Flow
	denied    []control.Flow
	peers     []control.PeerStatus
	rules     []control.RuleStatus
}

// told is what became of something that the user wanted.
type told struct {
	text string
	err  error
}

// because is why a flow has its verdict.
type because struct {
	key, text string
}

// poller asks the running penstock.
type poller struct {
	ctx    context.Context // of the view
	config Config

	mu        sync.Mutex // guards below, and lets one look happen at a time
	client    *control.Client
	mayChange bool
}

func (p *poller) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.drop()
}

// drop forgets a client whose penstock may be gone: the next may be behind another socket.
func (p *poller) drop() {
	if p.client != nil {
		p.client.Close()
		p.client = nil
	}
}

// with calls f with a client.
func (p *poller) with(f func(context.Context, *control.Client) error) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	ctx, cancel := context.WithTimeout(p.ctx, patience)
	defer cancel()
	if p.client == nil {
		client, err := p.config.Dial(ctx)
		if err != nil {
			return err
		}
		p.client = client
		rights, err := control.Ask[control.Rights](ctx, client, "rights", struct{}{})
		p.mayChange = err == nil && rights.MayChange
	}
	err := f(ctx, p.client)
	if errors.Is(err, context.DeadlineExceeded) {
		err = fmt.Errorf("penstock has not answered for %s", patience)
	}
	return err
}

// look asks what a tab shows.
func (p *poller) look(q question) tea.Cmd {
	return func() tea.Msg {
		s := snapshot{question: q}
		s.err = p.with(func(ctx context.Context, c *control.Client) error {
			err := s.ask(ctx, c)
			if err != nil {
				p.drop()
			}
			s.mayChange = p.mayChange
			return err
		})
		s.at = time.Now()
		return s
	}
}

func (s *snapshot) ask(ctx context.Context, c *control.Client) (err error) {
	if s.status, err = c.Status(ctx); err != nil {
		return err
	}
	if samples, err := control.Ask[control.Samples](ctx, c, "samples", struct{}{}); err == nil {
		s.samples = samples.Samples
	}
	text := ""
	switch s.tab {
	case tabFlows:
		text = s.filter
		if s.denied, err = list(ctx, c, control.FlowQuery{Denied: true, Limit: panel}); err != nil {
			return err
		}
	case tabBlocked:
		s.denied, err = list(ctx, c, control.FlowQuery{Denied: true, Limit: mostDeny, Text: s.filter})
		return err
	case tabRules:
		rules, err := c.Rules(ctx)
		s.rules = rules.Rules
		return err
	case tabClients:
		if s.status.Peers != nil {
			peers, err := c.Peers(ctx)
			s.peers = peers.Peers
			return err
		}
		if s.denied, err = list(ctx, c, control.FlowQuery{Denied: true, Limit: mostDeny}); err != nil {
			return err
		}
	}
	s.flows, err = list(ctx, c, control.FlowQuery{Recent: true, Since: time.Now().Add(-lingers), Limit: most, Text: text})
	if err != nil || len(s.flows) < most {
		return err
	}
	largest, err := list(ctx, c, control.FlowQuery{Limit: most, Largest: true, Text: text})
	s.flows = merge(s.flows, largest)
	return err
}

// list asks for flows.
func list(ctx context.Context, c *control.Client, q control.FlowQuery) ([]control.Flow, error) {
	answer, err := c.Flows(ctx, q)
	return answer.Flows, err
}

// merge adds the flows of b that are not in a.
func merge(a, b []control.Flow) []control.Flow {
	has := make(map[string]bool, len(a))
	for _, f := range a {
		has[f.ID] = true
	}
	for _, f := range b {
		if !has[f.ID] {
			a = append(a, f)
		}
	}
	return a
}

// do makes a call that changes something.
func (p *poller) do(done string, f func(context.Context, *control.Client) error) tea.Cmd {
	return func() tea.Msg { return told{done, p.with(f)} }
}

// why asks why a flow was judged as it was. A question that was refused is explained by its name, for it was no flow.
func (p *poller) why(f control.Flow) tea.Cmd {
	return func() tea.Msg {
		q := control.ExplainQuery{Flow: f.ID}
		if strings.HasPrefix(f.ID, "q") {
			q = control.ExplainQuery{Target: f.Host, From: f.Peer}
		}
		text := ""
		err := p.with(func(ctx context.Context, c *control.Client) error {
			x, err := c.Explain(ctx, q)
			if err == nil {
				text = p.config.Explain(x)
			}
			return err
		})
		if err != nil {
			text = err.Error()
		}
		return because{f.ID, text}
	}
}
