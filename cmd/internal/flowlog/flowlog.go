package flowlog

import (
	"cmp"
	"encoding/json"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"penstock/cmd/internal/control"
)

const (
	maxRecords = 8192    // in the queue and being written
	maxBytes   = 4 << 20 // of the same: some 10,000 flows

	// openWait and closeWait are how long a start and a stop wait for a disk that stalls.
	openWait  = 2 * time.Second
	closeWait = time.Second
)

// Config is where a Log writes: to one of File, Journal and Syslog.
type Config struct {
	// Journal is the socket of systemd's journal, which gets an entry with fields for each record.
	Journal string
	// Syslog is the socket of a syslog daemon, which gets each record in a message of RFC 5424: an absolute path, or ADDRESS:PORT for
	// UDP.
	Syslog string
	// File is the log's path. It may also be a pipe or a device such as /dev/stdout; those are not rotated.
	File string
	// MaxSize is the size at which the file is rotated, bytes. 0 never rotates it.
	MaxSize int64
	// Keep is how many rotated files stay: FILE.1 is the newest.
	Keep int
	// Dropped counts the records that are lost. Nil: nobody counts.
	Dropped prometheus.Counter
	// Log is told when writing begins to fail and when it works again. Nil: nobody is.
	Log *slog.Logger
}

// Log is an open log. Its methods may be called concurrently.
type Log struct {
	dropped prometheus.Counter
	log     *slog.Logger
	wake    chan struct{} // holds one token if there may be work for the writer
	done    chan struct{} // closed when the writer has ended
	target  target

	mu     sync.Mutex // guards below
	queue  [][]byte   // lines for the writer
	count  int        // lines in the queue and in the writer's hands
	bytes  int        // of those lines
	closed bool
}

// target is where lines go. It is used by one goroutine; only abort may be called from others.
type target interface {
	name() string // for people
	// start opens it, or says why it can never be written. It may be opened later.
	start() error
	// group returns the first of the lines that are written at once, one or more.
	group(lines [][]byte) [][]byte
	// write writes a group. What cannot be written is lost.
	write(lines [][]byte) error
	close()
	// abort ends a write that stalls, and lets no other begin.
	abort()
}

// Open opens the log, or says why it cannot be written. A pipe without a reader is no error: records are lost until
// somebody reads it. Close frees the log.
func Open(c Config) (*Log, error) { return open(c, openFile) }

func open(c Config, openFile func(string) (file, error)) (*Log, error) {
	to := target(&writer{path: c.File, maxSize: c.MaxSize, keep: c.Keep, openFile: openFile})
	switch {
	case c.Journal != "":
		to = &socket{network: "unixgram", address: c.Journal, encode: journalEntry}
	case strings.HasPrefix(c.Syslog, "/"):
		to = &socket{network: "unixgram", address: c.Syslog, encode: syslogMessage()}
	case c.Syslog != "":
		to = &socket{network: "udp", address: c.Syslog, encode: syslogMessage()}
	}
	l := &Log{
		dropped: c.Dropped,
		log:     cmp.Or(c.Log, slog.New(slog.DiscardHandler)),
		wake:    make(chan struct{}, 1),
		done:    make(chan struct{}),
		target:  to,
	}
	if l.dropped == nil {
		l.dropped = prometheus.NewCounter(prometheus.CounterOpts{Name: "dropped"})
	}
	opened := make(chan error, 1)
	go l.write(opened)
	wait := time.NewTimer(openWait)
	defer wait.Stop()
	select {
	case err := <-opened:
		if err != nil {
			<-l.done
			return nil, err
		}
	case <-wait.C:
		l.log.Warn("the flow log cannot be opened yet: its disk does not answer", "to", to.name())
	}
	return l, nil
}

// Flow records a finished flow. It never blocks.
func (l *Log) Flow(f control.Flow) {
	line, err := json.Marshal(f)
	if err != nil {
		l.dropped.Inc()
		return
	}
	l.put(append(line, '\n'))
}

// Question records a question. It never blocks.
func (l *Log) Question(q control.Question) {
	line, err := json.Marshal(q)
	if err != nil {
		l.dropped.Inc()
		return
	}
	l.put(append(line, '\n'))
}

// Close writes what is in the queue, for a second at most, and frees the log. What is left is counted and lost, and so are
// records that come later. Close is idempotent.
//
// A write that the kernel does not end, as on a dead network disk, keeps its goroutine.
func (l *Log) Close() {
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	l.poke()
	if l.ended(closeWait) {
		return
	}
	l.target.abort() // ends a write into a pipe that nobody reads
	if l.ended(closeWait / 4) {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.log.Warn("the flow log is not finished: its disk does not answer", "to", l.target.name(), "lost", l.count)
	l.dropped.Add(float64(l.count))
	l.queue, l.count, l.bytes = nil, 0, 0
}

// ended waits for the writer to end.
func (l *Log) ended(wait time.Duration) bool {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-l.done:
		return true
	case <-timer.C:
		return false
	}
}

// put queues a line, or counts it as lost.
func (l *Log) put(line []byte) {
	l.mu.Lock()
	fits := !l.closed && l.count < maxRecords && l.bytes+len(line) <= maxBytes
	if fits {
		l.queue = append(l.queue, line)
		l.count++
		l.bytes += len(line)
	}
	l.mu.Unlock()
	if !fits {
		l.dropped.Inc()
		return
	}
	l.poke()
}

// poke tells the writer that there may be work.
func (l *Log) poke() {
	select {
	case l.wake <- struct{}{}:
	default: // it knows
	}
}

// take returns the lines in the queue. more is false if no others will come.
func (l *Log) take() (list [][]byte, more bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	list, l.queue = l.queue, nil
	return list, !l.closed
}

// took frees the places of lines that are written or lost. It is false if Close has given them up before.
func (l *Log) took(list [][]byte) bool {
	size := 0
	for _, line := range list {
		size += len(line)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.count < len(list) {
		return false
	}
	l.count -= len(list)
	l.bytes -= size
	return true
}

// write is the goroutine that alone touches the target.
func (l *Log) write(opened chan<- error) {
	defer close(l.done)
	defer l.target.close()
	if err := l.target.start(); err != nil {
		opened <- err
		return
	}
	opened <- nil
	failing := 0 // records lost since writing began to fail
	for more := true; more; {
		var list [][]byte
		list, more = l.take()
		for len(list) > 0 {
			group := l.target.group(list)
			list = list[len(group):]
			err := l.target.write(group)
			switch {
			case err != nil && failing == 0:
				l.log.Warn("the flow log cannot be written: records are lost", "to", l.target.name(), "err", err)
			case err == nil && failing > 0:
				l.log.Info("the flow log is written again", "to", l.target.name(), "lost", failing)
				failing = 0
			}
			if err != nil {
				failing += len(group)
			}
			if l.took(group) && err != nil {
				l.dropped.Add(float64(len(group)))
			}
		}
		if more {
			<-l.wake
		}
	}
}
