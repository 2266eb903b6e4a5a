package lists

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"penstock/policy/blocklist"
)

// Config says where lists are kept and how they are fetched.
type Config struct {
	// Dir is the directory for last good versions and the compiled set. No other process may use it. Run makes it.
	// Empty keeps nothing, and subscriptions fail.
	Dir string
	// Dial opens a connection for a fetch: via is the Source's, address is host and port. It resolves the host as it
	// fits via. Nil: subscriptions fail.
	Dial func(ctx context.Context, via, network, address string) (net.Conn, error)
	// Current returns the Content in force. Run keeps its lists up to date. It must not be nil.
	Current func() *Content
	// Replace brings newer Content into force unless old is not in force any more, and says whether it did.
	Replace func(old, next *Content) bool

	Clock   func() time.Time // nil is time.Now
	Log     *slog.Logger     // nil discards
	Metrics *Metrics         // nil counts nothing
}

// Lists reads the lists of categories and keeps them up to date. Its methods may be called concurrently.
type Lists struct {
	Config
	shelf    shelf
	wake     chan struct{}     // has a token if other Content is in force
	requests chan chan<- error // of Refresh

	mu    sync.Mutex // guards below
	tries map[string]attempt
}

// attempt is the result of the last fetches of a subscription.
type attempt struct {
	failures int       // in a row
	next     time.Time // when it is tried again
	err      error     // of the last one
}

// New returns Lists. It does no I/O.
func New(c Config) *Lists {
	if c.Clock == nil {
		c.Clock = time.Now
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return &Lists{
		Config: c, shelf: shelf{c.Dir}, wake: make(chan struct{}, 1), requests: make(chan chan<- error),
		tries: make(map[string]attempt),
	}
}

// Wake tells Run that other Content is in force. It never blocks.
func (l *Lists) Wake() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// Refresh looks for newer versions of all lists now, and returns when they are in force. The error names the lists that
// failed; the others are renewed. It waits for Run, which must be running, until ctx ends.
func (l *Lists) Refresh(ctx context.Context) error {
	done := make(chan error, 1)
	select {
	case l.requests <- done:
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Status returns the state of each list of some Content, in the order of their categories.
func (l *Lists) Status(c *Content) []Status {
	list := append([]Status(nil), c.status...)
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, category := range c.categories {
		for _, s := range category.Sources {
			if s.URL == "" {
				continue
			}
			try, tried := l.tries[s.URL]
			for i := range list {
				if st := &list[i]; st.Category == category.Name && st.List == s.Name() {
					st.Checked = l.shelf.info(s.URL).Checked
					st.Next = l.dueLocked(s)
					if tried && try.err != nil {
						st.Err = try.err
					}
				}
			}
		}
	}
	return list
}

// refusal returns why what was fetched last from an address was refused, if there is no last good version; nil if it was not.
func (l *Lists) refusal(url string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, ok := errors.AsType[*blocklist.ListError](l.tries[url].err); !ok || l.shelf.info(url).URL != "" {
		return nil
	}
	return l.tries[url].err
}

// subscription is a source that is fetched, with one of the categories that use it.
type subscription struct {
	Source
	category string
}

// subscriptions returns the subscriptions of some Content, each once.
func (c *Content) subscriptions() []subscription {
	var list []subscription
	seen := make(map[string]bool)
	for _, category := range c.categories {
		for _, s := range category.Sources {
			if s.URL != "" && !seen[s.URL] {
				seen[s.URL] = true
				list = append(list, subscription{s, category.Name})
			}
		}
	}
	return list
}

// due returns when a subscription is fetched next. A list that was fetched in the future, because the clock was wrong then or is
// now, is due at once: otherwise it would not be renewed for as long as the clock was off.
func (l *Lists) due(s Source) time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.dueLocked(s)
}

func (l *Lists) dueLocked(s Source) time.Time {
	if try, ok := l.tries[s.URL]; ok {
		return try.next
	}
	if last := l.shelf.info(s.URL); last.URL != "" && !last.Checked.After(l.Clock()) {
		return last.Checked.Add(s.refresh())
	}
	return time.Time{}
}

// Pauses after a fetch that failed.
const (
	firstRetry = 5 * time.Second
	lastRetry  = time.Hour
)

// ended notes the result of a fetch.
func (l *Lists) ended(s subscription, changed bool, err error) {
	now := l.Clock()
	l.mu.Lock()
	defer l.mu.Unlock()
	try := l.tries[s.URL]
	if err == nil {
		if changed || try.err != nil {
			l.Log.Info("a list was fetched", "list", s.Name(), "category", s.category, "changed", changed, "entries", l.shelf.info(s.URL).Entries)
		}
		l.tries[s.URL] = attempt{next: now.Add(s.refresh())}
		return
	}
	wait := min(firstRetry<<min(try.failures, 20), lastRetry, s.refresh())
	if try.err == nil || try.err.Error() != err.Error() {
		l.Log.Warn("a list could not be fetched; the last good one stays", "list", s.Name(), "category", s.category, "err", err)
	}
	l.tries[s.URL] = attempt{failures: try.failures + 1, next: now.Add(wait), err: err}
	l.Metrics.failed()
}

// fetchOne is fetch with errors that name the list.
func (l *Lists) fetchOne(ctx context.Context, s subscription) (bool, error) {
	if l.Dial == nil || l.Dir == "" {
		return false, fmt.Errorf("list %s: subscriptions need a directory and a network, and there is none", s.Name())
	}
	l.Log.Debug("fetching a list", "list", s.Name(), "via", s.Via)
	changed, err := l.fetch(ctx, s.category, s.Source)
	if err != nil && ctx.Err() == nil {
		return false, fmt.Errorf("fetch %s via %s: %w", s.Name(), s.Via, err)
	}
	return changed, errors.Join(err, ctx.Err())
}
