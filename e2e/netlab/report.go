package netlab

import (
	"fmt"
	"strings"
	"time"
)

// Report is what a Capture saw.
type Report struct {
	Housekeeping int      // frames: ARP, neighbour and multicast listener discovery, DHCP
	Tunnel       int      // frames to or from the allowed endpoints
	TunnelBytes  int64    // of those
	Clear        int      // all other frames; there must be none
	Samples      []Sample // the first of those
	Controls     int      // frames sent by Control; they count nowhere else
	Dropped      int      // frames that the kernel dropped; if any, Clear == 0 proves nothing
}

// Sample is one frame seen in clear.
type Sample struct {
	Time time.Time
	Packet
	Sent bool // sent by the capturing host, otherwise received by it
}

// Err returns nil if the capture proves that nothing was sent in clear: it saw a control, lost no frame, and saw none in clear.
// Otherwise the error says what is wrong, with samples.
func (r Report) Err() error {
	switch {
	case r.Clear > 0:
		var b strings.Builder
		for _, s := range r.Samples {
			way := "received"
			if s.Sent {
				way = "sent"
			}
			fmt.Fprintf(&b, "\n\t%s %s %s", s.Time.Format("15:04:05.000000"), way, s.Packet)
		}
		return fmt.Errorf("capture: %d packets in clear:%s", r.Clear, b.String())
	case r.Dropped > 0:
		return fmt.Errorf("capture: the kernel dropped %d frames: no proof", r.Dropped)
	case r.Controls == 0:
		return fmt.Errorf("capture: no control was seen: no proof")
	}
	return nil
}
