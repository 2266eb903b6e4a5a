package lists

import (
	"context"
	"errors"
	"sync"
	"time"
)

// settle is how long new lists wait for others before all are compiled again.
const settle = 2 * time.Second

// loop is the state of Run.
type loop struct {
	*Lists
	ctx      context.Context
	over     sync.WaitGroup
	slots    chan struct{} // one for each fetch at once
	results  chan fetched
	inFlight map[string]bool // by URL
	waiting  []chan<- error  // of Refresh
	errs     []error         // for those
	stale    time.Time       // when the first list came that is not in force yet; zero if none
	looked   time.Time       // when the files were last looked at
}

// fetched is the end of one fetch.
type fetched struct {
	subscription
	changed bool
	err     error
}

// Run keeps the lists of the Content in force up to date until ctx ends. It fails if Config.Dir cannot be used and a list has to be
// fetched; files can do without copies.
func (l *Lists) Run(ctx context.Context) error {
	if l.Dir != "" {
		if err := l.shelf.open(); err != nil {
			if len(l.Current().subscriptions()) > 0 {
				return err
			}
			l.Log.Warn("no copies of the lists are kept, so a list that is damaged later is lost", "err", err)
		}
	}
	r := &loop{
		Lists: l, ctx: ctx, slots: make(chan struct{}, maxFetches), results: make(chan fetched),
		inFlight: make(map[string]bool), looked: l.Clock(),
	}
	defer r.over.Wait()
	r.keep(l.Current())
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-l.wake:
			r.keep(l.Current())
			r.look() // the Content may be older than a list that is here now
		case done := <-l.requests:
			r.waiting = append(r.waiting, done)
			r.look()
			r.begin(true)
		case f := <-r.results:
			r.finish(f)
		case <-timer.C:
		}
		timer.Reset(r.step())
	}
}

// step does what is due now and returns how long until something else is.
func (r *loop) step() time.Duration {
	now := r.Clock()
	wait := r.begin(false)
	if every := r.Current().filesEvery(); every > 0 {
		if now.Sub(r.looked) >= every {
			r.look()
		}
		wait = min(wait, every)
	}
	if !r.stale.IsZero() {
		if len(r.inFlight) == 0 || now.Sub(r.stale) >= settle {
			r.renew()
		} else {
			wait = min(wait, settle)
		}
	}
	if len(r.inFlight) == 0 {
		for _, done := range r.waiting {
			done <- errors.Join(r.errs...) // has room
		}
		r.waiting, r.errs = nil, nil
	}
	return wait
}

// begin fetches the subscriptions that are due, or all of them, and returns how long until another is.
func (r *loop) begin(all bool) time.Duration {
	now, wait := r.Clock(), 24*time.Hour
	for _, s := range r.Current().subscriptions() {
		if r.inFlight[s.URL] {
			continue
		}
		if left := r.due(s.Source).Sub(now); left > 0 && !all {
			wait = min(wait, left)
			continue
		}
		r.inFlight[s.URL] = true
		r.over.Go(func() { r.fetch(s) })
	}
	return wait
}

// fetch waits for its turn, fetches and tells the loop.
func (r *loop) fetch(s subscription) {
	select {
	case r.slots <- struct{}{}:
	case <-r.ctx.Done():
		return
	}
	changed, err := r.fetchOne(r.ctx, s)
	<-r.slots
	select {
	case r.results <- fetched{s, changed, err}:
	case <-r.ctx.Done():
	}
}

func (r *loop) finish(f fetched) {
	delete(r.inFlight, f.URL)
	r.ended(f.subscription, f.changed, f.err)
	if f.err != nil {
		r.errs = append(r.errs, f.err)
	}
	refused := f.err != nil && r.key(r.Current().categories) != r.Current().key // its category may mean something else now
	if (f.changed || refused) && r.stale.IsZero() {
		r.stale = r.Clock()
	}
	r.Metrics.show(r.Lists, r.Current())
}

// look notes whether a file has changed.
func (r *loop) look() {
	r.looked = r.Clock()
	if now := r.Current(); r.key(now.categories) != now.key && r.stale.IsZero() {
		r.stale = r.looked
	}
}

// renew reads all lists again and brings them into force. The Content in force stays if that would lose one of its lists, or if
// a list of a category with OnMissing Fail cannot be read any more.
func (r *loop) renew() {
	r.stale = time.Time{}
	for r.ctx.Err() == nil {
		old := r.Current()
		next, err := r.Read(r.ctx, old.categories)
		if err == nil {
			err = next.lost(old)
		}
		if err != nil {
			r.Log.Error("the lists were not renewed; those before stay in force", "err", err)
			r.errs = append(r.errs, err)
			return
		}
		if r.Replace(old, next) {
			r.Log.Info("newer lists are in force", "names", next.set.Names())
			r.keep(next)
			return
		}
	}
}

// keep reports Content that has come into force to the metrics, and keeps it for the next start.
func (r *loop) keep(c *Content) {
	r.Metrics.show(r.Lists, c)
	if r.Dir == "" {
		return
	}
	if err := errors.Join(r.keepCompiled(c), r.keepFiles(c)); err != nil {
		r.Log.Warn("lists cannot be kept for the next start", "err", err)
	}
}

// filesEvery returns how often the files of the Content are looked at, 0 if there are none.
func (c *Content) filesEvery() time.Duration {
	var every time.Duration
	for _, category := range c.categories {
		for _, s := range category.Sources {
			if s.File != "" && (every == 0 || s.refresh() < every) {
				every = s.refresh()
			}
		}
	}
	return every
}
