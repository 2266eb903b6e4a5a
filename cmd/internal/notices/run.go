package notices

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"strings"
	"time"

	"penstock/cmd/internal/control"
)

const (
	every      = 2 * time.Second // between two looks
	overlap    = 5 * time.Second // of what they ask for; what was in the last answer is known by its ID
	mostDenied = 200             // in one answer
	remembered = 16              // notices whose "Why?" has an answer
)

// Config is what Run needs of the world.
type Config struct {
	Dial       func(context.Context) (*control.Client, error)
	Explain    func(control.Explanation) string // as text
	Bus        string                           // D-Bus address of the session
	Categories []string                         // or rules, whose blocks are told; empty: all categories
	Log        *slog.Logger
}

// Run tells the user until ctx ends, which is no error, or the session does. While penstock does not run, it waits.
func Run(ctx context.Context, c Config) error {
	d, err := connect(ctx, c.Bus)
	if err != nil {
		return err
	}
	defer d.close()
	r := &runner{
		Config: c, desktop: d, decider: newDecider(time.Now(), uint32(os.Getuid()), c.Categories),
		kinds: make(map[string]uint32), flows: make(map[uint32][]control.Flow),
	}
	defer r.drop()
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		if err := r.look(ctx); err != nil && ctx.Err() == nil {
			return err
		}
		for again := true; again; {
			select {
			case <-ctx.Done():
				return nil
			case <-tick.C:
				again = false
			case s, open := <-d.signals:
				if !open {
					if ctx.Err() != nil {
						return nil
					}
					return errors.New("the session bus is gone")
				}
				if id, ok := asksWhy(s); ok {
					r.explain(ctx, id)
				}
			}
		}
	}
}

// runner looks and tells.
type runner struct {
	Config
	*desktop
	*decider
	client *control.Client
	asked  time.Time                 // the last look that had an answer
	kinds  map[string]uint32         // the last notice of each kind
	flows  map[uint32][]control.Flow // of notices
	order  []uint32                  // of flows, the oldest first
}

func (r *runner) drop() {
	if r.client != nil {
		r.client.Close()
		r.client = nil
	}
}

// look asks once and tells what is new. Its error is one of the session.
func (r *runner) look(ctx context.Context) error {
	now := time.Now()
	status, denied, err := r.ask(ctx, now)
	if err != nil {
		r.drop()
		r.Log.Debug("penstock does not answer", "err", err)
	}
	for _, n := range r.decider.look(now, status, err, denied) {
		id, err := r.tell(ctx, n, r.kinds[n.kind], len(n.flows) > 0)
		if err != nil {
			return err
		}
		if n.kind != "" {
			r.kinds[n.kind] = id
		}
		r.remember(id, n.flows)
		r.Log.Debug("told", "title", n.title)
	}
	return nil
}

func (r *runner) ask(ctx context.Context, now time.Time) (s control.Status, denied []control.Flow, err error) {
	ctx, cancel := context.WithTimeout(ctx, callFor)
	defer cancel()
	if r.client == nil {
		if r.client, err = r.Dial(ctx); err != nil {
			r.client = nil
			return s, nil, err
		}
	}
	if s, err = r.client.Status(ctx); err != nil {
		return s, nil, err
	}
	if r.asked.IsZero() {
		r.asked = now
	}
	answer, err := r.client.Flows(ctx, control.FlowQuery{Denied: true, Since: r.asked.Add(-overlap), Limit: mostDenied})
	if err == nil {
		r.asked = now
	}
	return s, answer.Flows, err
}

func (r *runner) remember(id uint32, flows []control.Flow) {
	if len(flows) == 0 {
		return
	}
	r.flows[id] = flows
	r.order = append(r.order, id)
	if len(r.order) > remembered {
		delete(r.flows, r.order[0])
		r.order = r.order[1:]
	}
}

// explain shows in the place of a notice why what it names is blocked.
func (r *runner) explain(ctx context.Context, id uint32) {
	flows := r.flows[id]
	if len(flows) == 0 || r.client == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, callFor)
	defer cancel()
	var texts []string
	for _, f := range flows[:min(len(flows), named)] {
		q := control.ExplainQuery{Flow: f.ID}
		if strings.HasPrefix(f.ID, "q") { // a refused question, which was no flow
			q = control.ExplainQuery{Target: f.Host}
		}
		x, err := r.client.Explain(ctx, q)
		switch {
		case err != nil:
			texts = append(texts, err.Error())
		case len(flows) == 1:
			texts = append(texts, r.Explain(x))
		default:
			texts = append(texts, f.Host+": "+x.Because)
		}
	}
	if _, err := r.tell(ctx, notice{title: "Why " + blocked(flows).title, body: strings.Join(texts, "\n")}, id, false); err != nil {
		r.Log.Warn("why", "err", err)
	}
}
