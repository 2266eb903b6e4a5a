package daemon

import (
	"context"
	"runtime/debug"
	"time"
)

// giveBackEvery is how often giveBack looks, and so how late memory is given back.
const giveBackEvery = 10 * time.Second

// giveBack returns memory to the system once a burst of flows is over. The runtime itself collects only when the heap has
// doubled or two minutes have passed, and then gives back little by little: after 5,000 flows it took over four minutes.
func (d *Daemon) giveBack(ctx context.Context) error {
	tick := time.NewTicker(giveBackEvery)
	defer tick.Stop()
	var b burst
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			if b.over(d.router.Busiest(), d.router.Active()) {
				debug.FreeOSMemory()
			}
		}
	}
}

// burstFlows is how many flows make a burst. What fewer leave behind is not worth a collection.
const burstFlows = 1000

// burst tells when a burst of flows is over.
type burst struct {
	most int // flows at once since the last burst was over
}

// over takes how many flows there were at once, at most, since the last call, and how many there are now. It reports true
// once for each burst: when half of its flows have ended.
func (b *burst) over(most, now int) bool {
	b.most = max(b.most, most)
	if b.most < burstFlows || now > b.most/2 {
		return false
	}
	b.most = now
	return true
}
