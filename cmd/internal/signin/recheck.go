package signin

import (
	"context"
	"errors"
	"sync"
	"time"

	"penstock/cmd/internal/config"
)

// Bounds of the questions whether accounts still exist.
const (
	maxRechecks = 8 // at once
	recheckLook = time.Second
	tryAgain    = time.Minute // after the provider could not be asked
)

// recheck asks the provider now and then whether the accounts of the sessions still exist, until ctx ends. A session whose account
// is gone ends. One whose provider cannot be asked goes on until it is over.
func (s *Service) recheck(ctx context.Context) {
	tick := time.NewTicker(recheckLook)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		var wg sync.WaitGroup
		places := make(chan struct{}, maxRechecks)
		for _, one := range *s.sessions.byPeer.Load() {
			if isDue(one, s.Live.Config(), time.Now()) {
				places <- struct{}{}
				wg.Go(func() {
					defer func() { <-places }()
					s.recheckOne(ctx, one)
				})
			}
		}
		wg.Wait()
	}
}

// isDue reports whether the provider should be asked about a session.
func isDue(one *Session, cfg *config.Config, now time.Time) bool {
	if over(one, cfg, now) != "" {
		return false
	}
	settings := cfg.SignIn
	checked := now.Sub(one.Checked) // below 0 if the clock was set back before a restart
	return one.Refresh != "" && (checked >= settings.Recheck || checked < 0) && now.Sub(one.tried) >= min(tryAgain, settings.Recheck)
}

func (s *Service) recheckOne(ctx context.Context, one *Session) {
	settings := s.Live.Config().SignIn
	if settings == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, exchangeLimit)
	defer cancel()
	now := time.Now()
	p, err := s.provider.get(ctx, settings, s.Live.Config().SignInURL())
	next := *one
	if err == nil {
		next, err = p.refresh(ctx, *one, s.Live.Now().GroupsInRules(), now)
	}
	switch {
	case err == nil:
		if s.sessions.replace(one, next) {
			s.Changed()
			s.save()
		}
	case errors.Is(err, errUnavailable):
		next.tried = now
		if s.sessions.replace(one, next) {
			if next.Refresh != one.Refresh {
				s.save()
			}
			s.Log.Warn("the provider cannot be asked whether an account still exists", "peer", s.nameOf(one.Peer), "user", one.User, "err", err)
		}
	default:
		if gone, ok := s.sessions.end(one.Peer, one); ok {
			s.ended(err.Error(), gone)
		}
	}
}
