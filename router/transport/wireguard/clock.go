package wireguard

import (
	"fmt"
	"time"
)

// Past is a time that is surely over, so a clock that reads less is wrong. The zero value says nothing.
type Past struct {
	Time time.Time
	What string // what was done then, as "this file was written"
}

// Behind says that a clock which reads now is behind p, or returns "" if it is not.
func (p Past) Behind(now time.Time) string {
	if !now.Round(0).Before(p.Time.Round(0)) { // without the monotonic readings, which are right whatever the clock reads
		return ""
	}
	return fmt.Sprintf("the clock reads %s, but %s at %s", stamp(now), p.What, stamp(p.Time))
}

func stamp(t time.Time) string { return t.UTC().Format(time.DateTime) + " UTC" }

// lateClock says that servers ignore our handshakes because the clock is behind, and what to do, or returns "". A handshake
// has the time in it, and a server drops one that is not newer than the last one that it took (WireGuard whitepaper, 5.4.2).
func (c *Client) lateClock() string {
	p := Past{c.sample().LastHandshake, "the last handshake was"}
	if c.past != nil && p.Time.IsZero() {
		p = c.past()
	}
	behind := p.Behind(c.clock())
	if behind == "" {
		return ""
	}
	return behind + ": a server ignores handshakes that are older than the last one that it has seen. Set the clock; " +
		"if it is right by now, the server has to forget that one (its operator removes this peer and adds it again)"
}

// handshakes remembers the last handshake with each peer, to tell which was the last of all. Their times do not tell: the clock
// may have been set back in between.
type handshakes struct {
	seen map[PublicKey]time.Time
	at   time.Time // of the last; zero: there was none
	with PublicKey
}

// look takes note of the peers' last handshakes, and returns whether there is a new one.
func (h *handshakes) look(peers []PeerStatus) (fresh bool) {
	if h.seen == nil {
		h.seen = make(map[PublicKey]time.Time)
	}
	var newest time.Time // of those since the last look
	for _, p := range peers {
		if p.LastHandshake.Equal(h.seen[p.PublicKey]) {
			continue
		}
		h.seen[p.PublicKey] = p.LastHandshake
		if p.LastHandshake.After(newest) {
			newest, h.at, h.with = p.LastHandshake, p.LastHandshake, p.PublicKey
			fresh = true
		}
	}
	return fresh
}
