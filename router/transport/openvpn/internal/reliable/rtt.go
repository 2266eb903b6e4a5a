package reliable

import "time"

const (
	firstTimeout = time.Second            // before anything was measured: RFC 6298, 2.1
	minTimeout   = 200 * time.Millisecond // acknowledgements wait for the peer's TLS work
	maxTimeout   = 3 * time.Second        // a server that comes back is noticed soon
)

// RTT estimates the round trip from acknowledgements, by RFC 6298. The zero value knows nothing yet.
type RTT struct {
	smoothed, deviation time.Duration
}

func (r *RTT) known() bool { return r.smoothed != 0 }

func (r *RTT) sample(d time.Duration) {
	if !r.known() {
		r.smoothed, r.deviation = max(d, 1), d/2
		return
	}
	r.deviation += ((r.smoothed - d).Abs() - r.deviation) / 4
	r.smoothed += (d - r.smoothed) / 8
}

// timeout is how long a packet waits for its acknowledgement before it is sent again. The reference waits 2 s, whatever
// the path: each loss then costs a renegotiation 2 s.
func (r *RTT) timeout() time.Duration {
	if !r.known() {
		return firstTimeout
	}
	return max(r.smoothed+4*r.deviation, minTimeout)
}
