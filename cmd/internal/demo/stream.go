package demo

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	askEvery = 100 * time.Millisecond
	askLimit = 3 * time.Second // for one answer
)

// stream asks a site again and again, whether or not earlier requests were answered. It is safe for concurrent use.
type stream struct {
	client *http.Client
	url    string
	began  time.Time
	stop   context.CancelFunc
	over   sync.WaitGroup

	mu  sync.Mutex // guards all
	all []request
}

// request is one that is over. Times are since the beginning of the stream.
type request struct {
	sent, over time.Duration
	by         string // the address from which the site was asked; empty without an answer
}

// newStream begins to ask a site which address asks it. It goes on until end is called.
func newStream(ctx context.Context, w programs, name string) (*stream, error) {
	at, err := first(ctx, w, name)
	if err != nil {
		return nil, err
	}
	s := &stream{client: client(w, at), url: "http://" + name + "/client", began: time.Now()}
	asking, stop := context.WithCancel(ctx)
	s.stop = stop
	s.over.Go(func() { s.run(ctx, asking) })
	return s, nil
}

// run asks until asking ends. Requests that were sent by then go on, unless ctx ends too.
func (s *stream) run(ctx, asking context.Context) {
	tick := time.NewTicker(askEvery)
	defer tick.Stop()
	for {
		select {
		case <-asking.Done():
			return
		case <-tick.C:
			s.over.Go(func() {
				sent := s.now()
				by, err := s.ask(ctx)
				if err != nil {
					by = ""
				}
				s.mu.Lock()
				defer s.mu.Unlock()
				s.all = append(s.all, request{sent, s.now(), by})
			})
		}
	}
}

func (s *stream) now() time.Duration { return time.Since(s.began) }

// ask returns the address from which the site was asked.
func (s *stream) ask(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url, nil)
	if err != nil {
		return "", err
	}
	res, err := s.client.Do(req)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return "", errors.New(res.Status)
	}
	body, err := io.ReadAll(io.LimitReader(res.Body, 1<<10))
	if err != nil {
		return "", err
	}
	host, _, err := net.SplitHostPort(strings.TrimSpace(string(body)))
	return host, err
}

// answered waits for the first answer to a request from an address that came after a time, and returns when it came.
func (s *stream) answered(ctx context.Context, by netip.Addr, after time.Duration) (at time.Duration, err error) {
	err = await(ctx, fmt.Sprintf("no request was answered through %s", by), func() (bool, error) {
		s.mu.Lock()
		defer s.mu.Unlock()
		i := slices.IndexFunc(s.all, func(r request) bool { return r.by == by.String() && r.over > after })
		if i < 0 {
			return false, nil
		}
		at = s.all[i].over
		return true, nil
	})
	return at, err
}

// end ends the stream, and returns all requests in the order in which they ended.
func (s *stream) end() []request {
	s.stop()
	s.over.Wait()
	slices.SortFunc(s.all, func(a, b request) int { return cmp.Compare(a.over, b.over) })
	return s.all
}

// phase is a part of the stream.
type phase struct {
	what       string
	until      time.Duration // since the beginning of the stream
	generation uint64        // of the bundle in force at the end, at the gateway that serves
}

// tally is what became of the requests of a phase.
type tally struct {
	sent, answered int
	gap            time.Duration // the longest time between an answer and the one before it
	by             []string      // the addresses from which the site was asked, in order
}

// tallies sums the requests of each phase; they are in the order in which they ended. A request that one of the phases in cut
// interrupts belongs to that phase, and any other to the phase in which it was sent.
func tallies(all []request, phases []phase, cut int) []tally {
	sums := make([]tally, len(phases))
	at := func(t time.Duration) int {
		i := slices.IndexFunc(phases, func(p phase) bool { return t <= p.until })
		if i < 0 {
			i = len(phases) - 1
		}
		return i
	}
	var last time.Duration
	for _, r := range all {
		i := at(r.sent)
		if i < cut && at(r.over) >= cut {
			i = cut
		}
		sums[i].sent++
		if r.by == "" {
			continue
		}
		sums[i].answered++
		if !slices.Contains(sums[i].by, r.by) {
			sums[i].by = append(sums[i].by, r.by)
		}
		j := at(r.over)
		sums[j].gap = max(sums[j].gap, r.over-last)
		last = r.over
	}
	return sums
}

// awaitLimit bounds a wait for something that takes a moment, and on a busy machine some seconds.
const awaitLimit = 30 * time.Second

// await asks until the answer is yes. If it does not come in time, the error says what was missing.
func await(ctx context.Context, missing string, ask func() (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, awaitLimit)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		yes, err := ask()
		if yes {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("%s in %v", missing, awaitLimit), err)
		case <-tick.C:
		}
	}
}
