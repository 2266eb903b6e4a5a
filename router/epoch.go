package router

import "sync/atomic"

// epochs number the times between two calls of Rejudge. Rejudge finds every flow with a recorded verdict. But a flow that was being
// judged when the policy changed may have asked the old one, and record its verdict after Rejudge has passed. Rejudge begins an
// epoch, so such a flow sees another than the one in which it began to judge, and judges again.
type epochs struct{ last atomic.Uint64 }

// settled reports whether a verdict that has just been recorded stands, and moves epoch, in which it was judged, on to the present
// one.
func (e *epochs) settled(epoch *uint64) bool {
	before := *epoch
	*epoch = e.last.Load()
	return *epoch == before
}
