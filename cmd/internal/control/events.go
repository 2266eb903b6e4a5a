package control

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"sync"
	"time"
)

const (
	// maxStreams bounds how many callers follow events at once. Those who may only read leave room for those who may change something.
	maxStreams = 64
	maxReaders = 48
	// statusEvery is how often a stream of events looks for another status.
	statusEvery = time.Second
	// eventsEvery is the time between two writes at least. A burst fills one write, and not one for each record.
	eventsEvery = 100 * time.Millisecond
	// eventStream is the Content-Type of a stream.
	eventStream = "text/event-stream"
	// eventWait is how long the reader of a stream may stall.
	eventWait = 10 * time.Second
)

// Feed is records as they come.
type Feed interface {
	// Watch returns a watcher of the records after one, as far as they are remembered, or of those that come from now on if after is 0.
	Watch(after int64) Watcher
	// Samples returns what has been carried, oldest first.
	Samples(context.Context) ([]Sample, error)
}

// Watcher sees records as they come.
type Watcher interface {
	// Wake has a token when there may be records.
	Wake() <-chan struct{}
	// Next returns the records that this watcher has not seen, oldest first, and how many others it has missed because it was slow.
	Next() (list []Record, missed int64)
	// Close ends the watcher.
	Close()
}

// Sample is what has been carried up to a time. The numbers grow, and begin again at 0 when penstock starts.
type Sample struct {
	Time      time.Time `json:"time"`
	RxBytes   uint64    `json:"rxBytes"` // received by transports, and from peers
	TxBytes   uint64    `json:"txBytes"`
	Forwarded uint64    `json:"forwarded"` // flows
	Denied    uint64    `json:"denied"`    // flows
}

// Samples is what has been carried over the last minutes.
type Samples struct {
	APIVersion string   `json:"apiVersion"`
	Samples    []Sample `json:"samples"`
}

// streams serves events: "POST /v1/events" is answered with server-sent events until the caller leaves. An event "status" has a
// Status when it has changed, "record" a Record, and "missed" the number of records that the caller was too slow for. A caller that
// sends Last-Event-ID gets the records that came after that one.
type streams struct {
	config Config

	mu   sync.Mutex     // guards below
	open map[access]int // streams, by what their callers may do

	asking sync.Mutex // guards below
	status []byte     // as JSON
	asked  time.Time
}

func (s *streams) offered() bool { return s.config.Feed != nil && s.config.Process != nil }

func (s *streams) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !s.offered() {
		refuseNotOffered(w, "events")
		return
	}
	need := access(MayChange(r.Context()))
	if !s.enter(need) {
		refuse(w, http.StatusTooManyRequests, "many others follow the events already: close some pages")
		return
	}
	defer s.leave(need)
	after, _ := strconv.ParseInt(r.Header.Get("Last-Event-ID"), 10, 64) // 0 without one
	watcher := s.config.Feed.Watch(after)
	defer watcher.Close()
	w.Header().Set("Content-Type", eventStream)
	w.Header().Set("Cache-Control", "no-store")
	out := &stream{ResponseController: http.NewResponseController(w), w: w}
	tick := time.NewTicker(statusEvery)
	defer tick.Stop()
	var said []byte
	for {
		status, err := s.statusJSON(r.Context())
		if err == nil && !bytes.Equal(status, said) {
			said = status
			out.event("status", 0, status)
		}
		records, missed := watcher.Next()
		if missed > 0 {
			out.event("missed", 0, fmt.Appendf(nil, `{"missed":%d}`, missed))
		}
		for _, record := range records {
			data, err := json.Marshal(record)
			if err != nil {
				continue // no record is like that
			}
			out.event("record", record.ID, data)
		}
		if out.flush() != nil {
			return
		}
		select {
		case <-r.Context().Done():
			return
		case <-time.After(eventsEvery):
		}
		select {
		case <-r.Context().Done():
			return
		case <-tick.C:
			out.buf.WriteString(":\n\n") // finds out whether the caller is still there
		case <-watcher.Wake():
		}
	}
}

func (s *streams) enter(need access) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open[reading]+s.open[changing] >= maxStreams || need == reading && s.open[reading] >= maxReaders {
		return false
	}
	if s.open == nil {
		s.open = make(map[access]int)
	}
	s.open[need]++
	return true
}

func (s *streams) leave(need access) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open[need]--
}

// statusJSON returns the status, which all streams ask for once.
func (s *streams) statusJSON(ctx context.Context) ([]byte, error) {
	s.asking.Lock()
	defer s.asking.Unlock()
	if time.Since(s.asked) < statusEvery/2 {
		return s.status, nil
	}
	out, err := s.config.Process.Status(ctx)
	if err != nil {
		return nil, err
	}
	out.APIVersion = APIVersion
	fillLists(&out)
	s.status, err = json.Marshal(out)
	s.asked = time.Now()
	return s.status, err
}

// stream writes server-sent events.
type stream struct {
	*http.ResponseController
	w   http.ResponseWriter
	buf bytes.Buffer
}

func (s *stream) event(name string, id int64, data []byte) {
	fmt.Fprintf(&s.buf, "event: %s\n", name)
	if id != 0 {
		fmt.Fprintf(&s.buf, "id: %d\n", id)
	}
	s.buf.WriteString("data: ")
	s.buf.Write(data)
	s.buf.WriteString("\n\n")
}

func (s *stream) flush() error {
	s.SetWriteDeadline(time.Now().Add(eventWait)) // not every writer has one; those that have none cannot stall
	_, err := s.w.Write(s.buf.Bytes())
	s.buf.Reset()
	if err != nil {
		return err
	}
	return s.Flush()
}
