package netlab

import (
	"time"
)

// Impairment describes what happens to packets that cross a router. The zero value changes nothing.
type Impairment struct {
	Loss      float64       // share of packets that vanish, 0 to 1
	Duplicate float64       // share of packets that arrive twice, 0 to 1
	Delay     time.Duration // added to every packet
	Jitter    time.Duration // random extra delay per packet, up to this; it reorders packets
}
