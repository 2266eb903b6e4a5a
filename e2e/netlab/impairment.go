package netlab

import (
	"time"
)

// Impairment says what becomes of packets that cross a router. The zero value changes nothing.
type Impairment struct {
	Loss      float64       // share of packets that vanish, 0 to 1
	Duplicate float64       // share of packets that arrive twice, 0 to 1
	Delay     time.Duration // added to every packet
	Jitter    time.Duration // up to this much more, different for each packet: reorders
}
