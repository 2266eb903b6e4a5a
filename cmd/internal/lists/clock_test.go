package lists

import (
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
)

// TestAClockThatJumpsKeepsNoListOld: a list that was fetched while the clock was ten years off.
func TestAClockThatJumpsKeepsNoListOld(t *testing.T) {
	const decade = 10 * 365 * 24 * 3600 // seconds
	for name, row := range map[string]struct {
		fetched, now int64 // how far the clock is ahead
	}{
		"ahead when it was fetched": {decade, 0}, "behind now": {0, -decade}, "behind when it was fetched": {-decade, 0}, "ahead now": {0, decade},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			s := newSite(t, "casino.example\n"+names(10))
			first := newKeeper(dir)
			first.clock.Store(row.fetched)
			stop := first.start(t, subscribed("bets", s))
			if err := first.Refresh(t.Context()); err != nil {
				t.Fatal(err)
			}
			stop()

			k := newKeeper(dir)
			k.clock.Store(row.now)
			source := subscribed("bets", s).Sources[0]
			if left := k.due(source).Sub(k.Clock()); left > 0 {
				t.Errorf("at the next start the list is due in %v, want now", left)
			}
			k.use(t, subscribed("bets", s))
			k.Metrics.show(k.Lists, k.current.Load())
			if at := testutil.ToFloat64(k.Metrics.success.WithLabelValues("bets")); at > float64(k.Clock().Unix()) {
				t.Errorf("the metric says that the list was read in the future: %v", at)
			}
			k.start(t, subscribed("bets", s))
			if err := k.Refresh(t.Context()); err != nil {
				t.Fatal(err)
			}
			k.wantHas(t, "casino.example", true)
			if left := k.due(source).Sub(k.Clock()).Round(time.Hour); left != 24*time.Hour {
				t.Errorf("after it was fetched the list is due in %v, want 24 h", left)
			}
		})
	}
}
