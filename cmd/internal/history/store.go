package history

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"penstock/cmd/internal/control"
	"penstock/cmd/internal/history/database"
)

const (
	maxQueue  = 16 << 20        // bytes of records that wait for the writer or are in its hands, about
	batchSize = 5000            // records at which the writer does not wait for more
	batchWait = time.Second     // how long it waits else
	openWait  = 2 * time.Second // how long a start waits for a disk that stalls
	closeWait = 2 * time.Second // how long a stop does
	retryWait = 5 * time.Second // until a database that could not be opened is tried again
	tidyEvery = time.Minute     // how often old records are looked for
)

// ErrInUse says that another penstock keeps its history in the same file.
var ErrInUse = errors.New("another penstock keeps its history there")

// Config is what is kept, and where.
type Config struct {
	File    string
	Keep    time.Duration // how long records stay
	MaxSize int64         // of the database with its log, bytes; 4 MiB at least
	Names   string        // full, category or off
	Clients string        // full or off
	Metrics *Metrics      // nil: nobody counts
	Log     *slog.Logger  // nil: nobody is told

	now   func() time.Time // nil: time.Now
	retry time.Duration    // 0: retryWait

	pageTime time.Duration // 0: pageTime
	readWait time.Duration // 0: readWait
}

// Metrics are the metrics of a history. A nil *Metrics counts nothing.
type Metrics struct {
	dropped *prometheus.CounterVec
	stopped prometheus.Gauge
	size    prometheus.Gauge
}

// NewMetrics registers the metrics.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	m := &Metrics{
		dropped: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "penstock_history_dropped_total",
			Help: "Flows and questions that are missing from the history, by reason: queue (they came too fast), disk (it could not be written), file (it cannot be used), stop.",
		}, []string{"reason"}),
		stopped: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "penstock_history_stopped", Help: "1 if there is a history in the configuration and it cannot be kept at present.",
		}),
		size: prometheus.NewGauge(prometheus.GaugeOpts{Name: "penstock_history_size_bytes", Help: "Size of the history that is in use, without free space in its file."}),
	}
	for _, reason := range []string{"queue", "disk", "file", "stop"} {
		m.dropped.WithLabelValues(reason)
	}
	reg.MustRegister(m.dropped, m.stopped, m.size)
	return m
}

func (m *Metrics) drop(reason string, n int) {
	if m != nil && n > 0 {
		m.dropped.WithLabelValues(reason).Add(float64(n))
	}
}

func (m *Metrics) state(stopped bool, size int64) {
	if m == nil {
		return
	}
	m.size.Set(float64(size))
	m.stopped.Set(0)
	if stopped {
		m.stopped.Set(1)
	}
}

// Store is an open history. Its methods may be called concurrently.
type Store struct {
	config  Config
	kept    kept
	log     *slog.Logger
	metrics *Metrics
	cancel  context.CancelFunc // ends what the writer does at once
	wake    chan struct{}      // holds one token if there may be work for the writer
	full    chan struct{}      // holds one token if there is enough work for a batch
	done    chan struct{}      // closed when the writer has ended
	readers database.Readers
	damaged atomic.Bool            // who reads has found damage
	late    atomic.Bool            // nobody waits any more for the file to be opened
	trouble atomic.Pointer[string] // why the history is not kept; nil or empty: it is
	soon    atomic.Bool            // tidy up at the next batch; tests need it

	mu     sync.Mutex // guards below
	queue  []control.Record
	spare  []control.Record // the former queue, empty
	count  int              // records in the queue and in the writer's hands
	bytes  int              // of memory that they take
	closed bool
}

// Open opens the history or begins one, for two seconds at most: it goes on after that. It fails only if another penstock uses the file.
// Any other trouble with it is logged and counted, and the file is tried again. Close frees it.
func Open(c Config) (*Store, error) {
	if c.now == nil {
		c.now = time.Now
	}
	ctx, cancel := context.WithCancel(context.Background()) // of the writer, which Close ends
	s := &Store{
		config: c, kept: kept{c.Names, c.Clients}, log: cmp.Or(c.Log, slog.New(slog.DiscardHandler)), metrics: c.Metrics, cancel: cancel,
		wake: make(chan struct{}, 1), full: make(chan struct{}, 1), done: make(chan struct{}),
	}
	s.readers.Init()
	w := newWriter(s)
	opened := make(chan error, 1)
	go w.run(ctx, opened)
	wait := time.NewTimer(openWait)
	defer wait.Stop()
	select {
	case err := <-opened:
		if errors.Is(err, ErrInUse) {
			s.Close()
			return nil, err
		}
	case <-wait.C:
		s.late.Store(true)
		s.log.Warn("the history cannot be opened yet: its disk does not answer", "file", c.File)
	}
	return s, nil
}

// Put records a flow that has ended, or a question. It never blocks. The record must not change any more.
func (s *Store) Put(r control.Record) {
	bytes := bytesOf(r)
	s.mu.Lock()
	fits := !s.closed && s.bytes+bytes <= maxQueue
	first, enough := false, false
	if fits {
		s.queue = append(s.queue, r)
		s.count++
		s.bytes += bytes
		first, enough = len(s.queue) == 1, len(s.queue) == batchSize
	}
	s.mu.Unlock()
	switch {
	case !fits:
		s.metrics.drop("queue", 1)
	case first:
		poke(s.wake)
	case enough:
		poke(s.full)
	}
}

// bytesOf is how much memory a record takes, about: most of it is in the record, and the rest in texts that it may not share.
func bytesOf(r control.Record) int {
	n := 512
	if f := r.Flow; f != nil {
		n += len(f.Src) + len(f.Dst) + len(f.Host) + len(f.Reason)
	}
	if q := r.Question; q != nil {
		n += len(q.Src) + len(q.Host) + len(q.Decided)
		for _, a := range q.Answers {
			n += 16 + len(a)
		}
	}
	return n
}

// Close writes what is in the queue, for a few seconds at most, and frees the history. What is left is counted and lost, and so are records
// that come later. Close is idempotent.
//
// A write that the kernel does not end, as on a dead network disk, keeps its goroutine.
func (s *Store) Close() error {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.readers.Stop()
	poke(s.wake)
	poke(s.full)
	defer s.cancel()
	if s.ended(closeWait) {
		return nil
	}
	s.cancel()
	if s.ended(closeWait / 2) {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.log.Warn("the history is not finished: its disk does not answer", "file", s.config.File, "lost", s.count)
	s.metrics.drop("stop", s.count)
	s.queue, s.count, s.bytes = nil, 0, 0
	return nil
}

// ended waits for the writer to end.
func (s *Store) ended(wait time.Duration) bool {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-s.done:
		return true
	case <-timer.C:
		return false
	}
}

// state notes whether the history is kept: trouble is why it is not.
func (s *Store) state(trouble string) {
	s.trouble.Store(&trouble)
	s.metrics.state(trouble != "", 0)
}

// Trouble says in which file the history cannot be kept at present, and why. It is empty if all is well.
func (s *Store) Trouble() string {
	trouble := ""
	if p := s.trouble.Load(); p != nil {
		trouble = *p
	} else if s.late.Load() {
		trouble = "its disk does not answer"
	}
	if trouble == "" {
		return ""
	}
	return s.config.File + ": " + trouble
}

// take returns the records in the queue. more is false if no others will come.
func (s *Store) take() (list []control.Record, more bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	list, s.queue, s.spare = s.queue, s.spare, nil
	return list, !s.closed
}

// took frees the places of records that are written or lost, so that others fit into the queue.
func (s *Store) took(batch []control.Record) {
	bytes := 0
	for _, r := range batch {
		bytes += bytesOf(r)
	}
	clear(batch)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.count, s.bytes = max(s.count-len(batch), 0), max(s.bytes-bytes, 0)
}

// again keeps the room of a queue for the next one.
func (s *Store) again(list []control.Record) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.spare = list[:0]
}

// rest frees the memory of an empty queue.
func (s *Store) rest() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.spare = nil
	if len(s.queue) == 0 {
		s.queue = nil
	}
}

// poke leaves a token in a channel of capacity 1.
func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// readWait is how long a question may take.
const readWait = 10 * time.Second

// reading runs a question with a connection of its own.
func (s *Store) reading(ctx context.Context, f func(context.Context, *sql.Tx) error) error {
	limit := cmp.Or(s.config.readWait, readWait)
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	db, leave, err := s.readers.Enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	tx, err := db.BeginTx(ctx, nil)
	if err == nil {
		err = f(ctx, tx)
		tx.Rollback() // it has changed nothing
	}
	switch {
	case err == nil:
		return nil
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return fmt.Errorf("the history has no answer within %v: ask for less time with since and until, or for fewer words", limit)
	case ctx.Err() != nil:
		return ctx.Err()
	}
	if database.IsDamage(err) {
		s.damaged.Store(true)
		poke(s.wake)
	}
	return fmt.Errorf("history %s: %w", s.config.File, err)
}
