// Package record passes flows that have ended and questions that have their answers to whoever keeps or shows them: the flow log,
// the history, and people who watch the console.
//
// Nobody waits for any of them, and while none of them is there a record is not even made. The package does not choose what is
// recorded of a flow, and stores nothing itself but the last records that watchers may ask for again.
package record

import (
	"context"
	"fmt"
	"log/slog"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"penstock/cmd/internal/config"
	"penstock/cmd/internal/control"
	"penstock/cmd/internal/flowlog"
	"penstock/cmd/internal/history"
)

// Config says where records go.
type Config struct {
	Config   *config.Config
	Registry prometheus.Registerer
	Log      *slog.Logger
}

// Book takes records. Its methods may be called concurrently and never block.
type Book struct {
	logs      []*flowlog.Log // none without flow_log
	questions bool           // the flow logs have questions, too
	history   *history.Store // nil without history
	watchers  Watchers
}

// Open opens the log and the history of a configuration. Close frees them.
func Open(c Config) (*Book, error) {
	b := &Book{questions: c.Config.DNS.QueryLog}
	dropped := prometheus.NewCounter(prometheus.CounterOpts{
		Name: "penstock_flow_log_dropped_total",
		Help: "Records of finished flows that could not be written to a flow log.",
	})
	c.Registry.MustRegister(dropped)
	if err := b.openLogs(c, dropped); err != nil {
		b.Close()
		return nil, err
	}
	kept := history.NewMetrics(c.Registry)
	if h := c.Config.History; h != nil {
		var err error
		b.history, err = history.Open(history.Config{
			File: h.File, Keep: h.Keep, MaxSize: int64(h.MaxSize), Names: h.Names, Clients: h.Clients, Metrics: kept, Log: c.Log,
		})
		if err != nil {
			b.Close()
			return nil, c.Config.Err("history.file", err.Error(), "stop it, or name another file")
		}
	}
	return b, nil
}

// openLogs opens the logs of a configuration. Each has a queue of its own, so that one that stalls costs the others nothing.
func (b *Book) openLogs(c Config, dropped prometheus.Counter) error {
	to := c.Config.FlowLog
	add := func(key, mend string, one flowlog.Config) error {
		one.Dropped, one.Log = dropped, c.Log
		l, err := flowlog.Open(one)
		switch {
		case err != nil && mend != "":
			return c.Config.Err("flow_log."+key, err.Error(), mend)
		case err != nil:
			return fmt.Errorf("flow_log.%s: %w", key, err)
		}
		b.logs = append(b.logs, l)
		return nil
	}
	var errs []error
	if to.File != "" {
		errs = append(errs, add("file", "", flowlog.Config{File: to.File, MaxSize: int64(to.MaxSize), Keep: to.Keep}))
	}
	if to.Journal {
		errs = append(errs, add("journal", "remove it where systemd does not run", flowlog.Config{Journal: flowlog.JournalSocket}))
	}
	if to.Syslog != "" {
		errs = append(errs, add("syslog", "start the syslog daemon, or name its socket", flowlog.Config{Syslog: to.Syslog}))
	}
	for _, err := range errs {
		if err != nil {
			return err // the first keeps its type
		}
	}
	return nil
}

// Close writes what waits, for a few seconds at most, and frees everything.
func (b *Book) Close() error {
	var closing sync.WaitGroup
	for _, l := range b.logs {
		closing.Go(l.Close)
	}
	closing.Wait()
	if b.history != nil {
		return b.history.Close()
	}
	return nil
}

// Run does what must be done from time to time, until ctx ends.
func (b *Book) Run(ctx context.Context) error {
	<-ctx.Done()
	return nil
}

// Flow records a flow. Make is called if anybody wants it.
func (b *Book) Flow(make func() control.Flow) {
	watched := b.watchers.watch()
	if len(b.logs) == 0 && b.history == nil && !watched {
		return
	}
	f := make()
	for _, l := range b.logs {
		l.Flow(f)
	}
	if b.history != nil {
		b.history.Put(control.Record{Flow: &f})
	}
	if watched {
		b.watchers.tell(control.Record{Flow: &f})
	}
}

// Question records a question. Make is called if anybody wants it.
func (b *Book) Question(make func() control.Question) {
	watched := b.watchers.watch()
	logged := len(b.logs) > 0 && b.questions
	if !logged && b.history == nil && !watched {
		return
	}
	q := make()
	if logged {
		for _, l := range b.logs {
			l.Question(q)
		}
	}
	if b.history != nil {
		b.history.Put(control.Record{Question: &q})
	}
	if watched {
		b.watchers.tell(control.Record{Question: &q})
	}
}

// Watchers are those who see records as they come.
func (b *Book) Watchers() *Watchers { return &b.watchers }

// Trouble says why the history cannot be kept at present. It is empty if it is kept, and if none is wanted.
func (b *Book) Trouble() string {
	if b == nil || b.history == nil {
		return ""
	}
	return b.history.Trouble()
}

// History is what is kept; nil if nothing is.
func (b *Book) History() control.HistoryBook {
	if b.history == nil {
		return nil // and not a typed nil
	}
	return b.history
}
